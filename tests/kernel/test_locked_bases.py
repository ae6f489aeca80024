"""Builds with a lock: the base images are what it says, whatever their tags stand for by now."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from runtime.build.request import BASE_PART, BuildRequest
from runtime.faults import Fault
from tests.kernel.build_box import BuildBox, build_box, ref
from tests.kernel.engine_box import IMAGE, rootfs
from tests.kernel.images_box import LocalRegistry, needs_registry

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    needs_registry,
]


@dataclass(frozen=True)
class Origin:
    """`base` and `tools` have two versions each; their tags stand for the new ones. `old` and `new` are the
    digests by name. `trigger` copies from `tools` by its ONBUILD."""

    base: str
    tools: str
    trigger: str
    old: dict[str, str]
    new: dict[str, str]


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory, registry: LocalRegistry) -> Iterator[Origin]:
    with build_box(tmp_path_factory.mktemp("origin")) as box:
        name = f"{registry.address}/locked"
        base, tools, trigger = f"{name}/base:1", f"{name}/tools:1", f"{name}/trigger:1"
        digests: list[dict[str, str]] = []
        for version in ("old", "new"):
            digests.append({})
            for item in (base, tools):
                root = rootfs(box.base / version / item.rpartition("/")[2])
                (root / "version").write_text(version)
                box.runtime.import_image(root, ref(item))
                box.runtime.images.push(ref(item))
                digests[-1][item] = box.runtime.images.registries.digest(ref(item))
        box.build(f"FROM {base}\nONBUILD COPY --from={tools} /version /copied\n", names=(ref(trigger),))
        box.runtime.images.push(ref(trigger))
        digests[-1][trigger] = box.runtime.images.registries.digest(ref(trigger))
        yield Origin(base, tools, trigger, *digests)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[BuildBox]:
    with build_box(tmp_path) as made:
        yield made


def text_of(origin: Origin) -> str:
    return (
        f"FROM {origin.base}\nCOPY --from={origin.tools} /version /copied\n"
        f"RUN --mount=from={origin.tools},target=/m cat /version /copied /m/version > /all\n"
    )


def test_bases_are_what_the_lock_says_and_come_by_digest(origin: Origin, box: BuildBox) -> None:
    made = box.build(text_of(origin), locked=origin.old).result.image_id
    assert box.read(made, "all") == "oldoldold"
    names = {name for image in box.runtime.images.list() for name in image.names} - {str(IMAGE)}
    assert names == {f"{name.rpartition(':')[0]}@{digest}" for name, digest in origin.old.items()}


def test_a_tag_that_is_here_is_passed_over_and_nothing_newer_is_asked_for(
    origin: Origin, box: BuildBox
) -> None:
    for name in (origin.base, origin.tools):
        box.runtime.images.pull(ref(name))
    made = box.build(text_of(origin), locked=origin.old, pull=True).result.image_id
    assert box.read(made, "all") == "oldoldold"
    free = box.build(text_of(origin)).result.image_id
    assert box.read(free, "all") == "newnewnew"


def test_what_was_pulled_by_its_tag_is_taken_for_its_digest(origin: Origin, box: BuildBox) -> None:
    box.runtime.images.pull(ref(origin.base))
    for lock, pulled in ((origin.new, False), (origin.old, True)):
        box.build(f"FROM {origin.base}\n", locked=lock)
        assert any(event.text.startswith("[internal] pull") for event in box.events) is pulled


def test_an_image_that_the_lock_lacks_is_told_with_its_place(origin: Origin, box: BuildBox) -> None:
    with pytest.raises(Fault) as fault:
        box.build(text_of(origin), locked={})
    assert fault.value.code == "dockerfile-invalid"
    lines = [f"Dockerfile:{n}: image '{name}'" for n, name in ((1, origin.base), (2, origin.tools))]
    told = re.sub(r"(Dockerfile:\d+):\d+", r"\1", str(fault.value))
    assert all(f"{line} is not in stead.lock.toml (run stead lock)" in told for line in lines), told
    with pytest.raises(Fault) as fault:
        box.runtime.builder.inputs(box.request(text_of(origin), locked={}))
    assert "Dockerfile:1" in str(fault.value)


def test_what_only_an_onbuild_needs_has_another_cure(origin: Origin, box: BuildBox) -> None:
    text, lock = f"FROM scratch AS x\nFROM {origin.trigger}\n", dict(origin.new)
    made = box.build(text, locked={**lock, origin.tools: origin.old[origin.tools]}).result.image_id
    assert box.read(made, "copied") == "old"
    del lock[origin.tools]
    with pytest.raises(Fault) as fault:
        box.build(text, locked=lock)
    assert "Dockerfile:2:1: image" in str(fault.value) and "declare it as [image.NAME]" in str(fault.value)


def test_an_image_of_this_machine_is_as_it_is_here(origin: Origin, box: BuildBox) -> None:
    """No registry has it, so none can be asked; what `localhost` names needs no entry at all."""
    box.runtime.images.tag(str(IMAGE), ref("localhost/shop/base"))
    lock = {**origin.old, str(IMAGE): ""}
    made = box.build(
        f"FROM {IMAGE.familiar} AS a\nFROM localhost/shop/base\nCOPY --from=a /bin /b\n", locked=lock
    )
    assert made.result.image_id


def test_a_context_that_is_an_image_is_locked_too(origin: Origin, box: BuildBox) -> None:
    more = {"contexts": {"base": f"docker-image://{origin.base}"}}
    made = box.build("FROM base\n", locked=origin.old, **more).result.image_id
    assert box.read(made, "version") == "old"
    with pytest.raises(Fault, match=r"Dockerfile:1:1: image '.*base:1' is not in"):
        box.build("FROM base\n", locked={}, **more)
    box.build("FROM scratch\n", locked={}, **more)


# ---------------------------------------------------------------- the identity


def key(box: BuildBox, request: BuildRequest) -> str:
    return box.runtime.builder.inputs(request).key


def test_the_digest_of_a_base_is_the_identity_whatever_the_store_has(origin: Origin, box: BuildBox) -> None:
    request = box.request(text_of(origin), locked=origin.old)
    before = box.runtime.builder.inputs(request)
    assert before.parts[f"{BASE_PART}{origin.base}"] == origin.old[origin.base]
    box.build(text_of(origin), locked=origin.old)
    box.runtime.images.pull(ref(origin.base))
    unrelated = {**origin.old, "docker.io/library/other:1": origin.new[origin.base]}
    assert key(box, request) == before.key == key(box, replace(request, locked=unrelated))
    for name in (origin.base, origin.tools):
        other = replace(request, locked={**origin.old, name: origin.new[name]})
        assert key(box, other) != before.key, name


def test_a_context_that_is_an_image_is_part_of_it(origin: Origin, box: BuildBox) -> None:
    request = box.request(
        "FROM base\n", locked=origin.old, contexts={"base": f"docker-image://{origin.base}"}
    )
    assert key(box, request) != key(box, replace(request, locked=origin.new))


def test_without_a_lock_the_identity_is_that_of_older_releases(box: BuildBox) -> None:
    """What a node has built is not built anew by an upgrade."""
    box.write({"a": "a"})
    (box.context / "a").chmod(0o644)
    text = "FROM tests/not-here:1 AS x\nARG V\nFROM scratch\nCOPY a /a\nCOPY --from=x /b /b\n"
    request = box.request(
        text, platforms=("linux/amd64",), args={"V": "1"}, contexts={"c": "docker-image://c:1"}
    )
    golden = "5c06a037361a185371512afd8379059456ce545b9fdb16ed1a260e8dd683dab3"
    assert key(box, request) == golden
    assert key(box, replace(request, cache_from=("some:1",))) == golden, "it only makes it faster"
    assert key(box, replace(request, inline_cache=True)) != golden, "it is in the image"
