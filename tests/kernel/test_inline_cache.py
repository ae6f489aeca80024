"""`--cache-to type=inline` and `--cache-from`: what one machine built is not done again on another."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.render import build_request
from runtime.build.bases import BaseImage
from runtime.build.config import CACHE
from runtime.build.inline import offers
from runtime.build.request import BuildEvent
from specs.resolve import resolve
from tests.kernel.build_box import BuildBox, build_box, ref
from tests.kernel.engine_box import IMAGE
from tests.kernel.images_box import LocalRegistry, needs_registry

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    needs_registry,
]

FILES = {"a": "a", "b": "b"}


class Origin:
    """A machine that built `app` with its steps and `plain` without, on `base`, and pushed all of them."""

    def __init__(self, registry: LocalRegistry, box: BuildBox) -> None:
        self.name, self.box = f"{registry.address}/inline", box
        self.app, self.plain = f"{self.name}/app:1", f"{self.name}/plain:1"
        self.text = f"FROM {self.name}/base:1\nWORKDIR /w\nCOPY a /a\nRUN cat /a > /c\nCOPY b /b\n"
        box.write(FILES)
        box.runtime.images.tag(str(IMAGE), ref(f"{self.name}/base:1"))
        self.built = box.build(self.text, names=(ref(self.app),), inline_cache=True)
        box.build(self.text, names=(ref(self.plain),))
        for name in (f"{self.name}/base:1", self.app, self.plain):
            box.runtime.images.push(ref(name))


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory, registry: LocalRegistry) -> Iterator[Origin]:
    with build_box(tmp_path_factory.mktemp("origin")) as box:
        yield Origin(registry, box)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[BuildBox]:
    """Another machine, with the same files."""
    with build_box(tmp_path) as made:
        made.write(FILES)
        yield made


def test_what_another_machine_did_is_not_done_again(origin: Origin, box: BuildBox) -> None:
    taken = box.build(origin.text, cache_from=(origin.app,), inline_cache=True)
    assert taken.cached == [True] * 4
    assert taken.result.image_id == origin.built.result.image_id
    assert box.build(origin.text).cached == [True] * 4, "what was used is known from now on"
    assert box.build(origin.text, cache_from=(origin.app,), no_cache=True).cached == [False] * 4


def test_specs_give_an_image_its_steps_and_take_them(origin: Origin, box: BuildBox) -> None:
    name = f"{origin.name}/spec:1"
    for machine, more in ((origin.box, 'cache_to = ["type=inline"]'), (box, f'cache_from = ["{name}"]')):
        text = f'[image.a]\nfrom = "{name}"\n[image.a.build]\nnetwork = "none"\n{more}\n'
        text += f"dockerfile_inline = {json.dumps(origin.text + 'COPY a /again')}\n"
        wanted, problems = resolve(
            {"a.toml": text.encode()}, source="s", variables={}, tree=str(machine.context)
        )
        assert wanted is not None, problems
        events: list[BuildEvent] = []
        machine.runtime.build_image(build_request(wanted.images[name]), events.append)
        if machine is origin.box:
            machine.runtime.images.push(ref(name))
    assert [event.kind for event in events].count("cached") == 5


def test_only_what_is_used_of_it_is_kept_and_a_change_is_done_anew(origin: Origin, box: BuildBox) -> None:
    text = origin.text.replace("cat /a > /c", "cat /a > /d")
    assert box.build(text, cache_from=(origin.app,)).cached == [True, True, False, False]
    assert len(box.runtime.builder.cache.steps()) == 4
    assert box.build(origin.text).cached == [True, True, False, False]
    box.write({"a": "changed"})
    assert box.build(text, cache_from=(origin.app,)).cached == [True, False, False, False]


def test_what_has_no_steps_or_is_not_there_is_told_and_done_without(origin: Origin, box: BuildBox) -> None:
    gone = f"{origin.name}/gone:1"
    assert box.build(origin.text, cache_from=(gone, origin.plain)).cached == [False] * 4
    notes = [event.text for event in box.events if event.kind == "note"]
    assert any("cannot be used" in note for note in notes)
    assert any("it has none" in note for note in notes)


def test_an_image_of_this_machine_is_taken_as_it_is(origin: Origin, box: BuildBox) -> None:
    """Its name is not looked up."""
    box.runtime.images.pull(ref(origin.app))
    box.runtime.images.tag(origin.app, ref("only/here:1"))
    assert box.build(origin.text, cache_from=("only/here:1",)).cached == [True] * 4


def test_steps_of_a_base_are_not_those_of_an_image_on_it(origin: Origin) -> None:
    text = f"FROM {origin.app}\nCOPY b /again\n"
    origin.box.build(text, names=(ref("child:1"),))
    assert CACHE not in origin.box.config("child:1")
    origin.box.build(text, names=(ref("child:2"),), inline_cache=True)
    assert [entry["layer"] for entry in origin.box.config("child:2")[CACHE]] == [5]


GOOD: dict[str, Any] = {"layer": 1, "key": "0" * 64, "text": "RUN x", "created": "2026-01-02T03:04:05Z"}


@pytest.mark.parametrize(
    "entry",
    [
        {**GOOD, "layer": 2},
        {**GOOD, "layer": -1},
        {**GOOD, "layer": "1"},
        {**GOOD, "key": "x"},
        {**GOOD, "key": "0" * 63 + "\n"},
        {**GOOD, "created": "now"},
        {**GOOD, "text": None},
        {key: value for key, value in GOOD.items() if key != "text"},
        [],
        None,
        "text",
    ],
    ids=json.dumps,
)
def test_entries_that_say_nothing_are_passed_over(entry: object) -> None:
    chain, diff_ids = ("sha256:a", "sha256:b"), ["sha256:c", "sha256:d"]
    config = {"rootfs": {"diff_ids": diff_ids}, CACHE: [entry, GOOD]}
    found = offers(BaseImage("sha256:e", config, b"", chain), {"sha256:b": 7}, 1.0)
    assert list(found) == [GOOD["key"]]
    step, below = found[GOOD["key"]]
    assert (step.chain_id, step.parent, step.diff_id, step.size) == ("sha256:b", "sha256:a", "sha256:d", 7)
    assert below == chain
    for wrong in (None, {}, "x", 1):
        assert offers(BaseImage("sha256:e", {**config, CACHE: wrong}, b"", chain), {}, 1.0) == {}
