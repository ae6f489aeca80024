"""Finding a container as people name it, and looking at it without the agent. Needs root."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from runtime import attend
from runtime.faults import Fault
from tests.kernel.engine_box import Engine, engine

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("attend")) as made:
        yield made


def test_a_container_is_found_by_its_name_a_part_of_it_or_its_id(box: Engine) -> None:
    for name in ("shop/web", "blog/web", "shop/db"):
        box.create("true", name=name)
    id = box.id("shop/db")
    for given in ("shop/db", "db", id, id[:8]):
        assert attend.find(box.paths, given).name == "shop/db"
    with pytest.raises(Fault, match=r"2 containers fit: blog/web, shop/web \(write the full name\)"):
        attend.find(box.paths, "web")
    for missing in ("cache", "shop", "shop/cache", id[:2]):
        with pytest.raises(Fault, match="there is no container of this name"):
            attend.find(box.paths, missing)


def test_a_container_can_be_inspected_before_while_and_after_it_runs(box: Engine) -> None:
    name = box.create("exit 3")
    before = attend.inspect_container(box.paths, name)
    assert (before["state"], before["config"], before["wanted"]) == (None, None, "created")
    box.runtime.start_container(name)
    box.result(name)
    after = attend.inspect_container(box.paths, name)
    assert (after["state"]["exit_code"], after["wanted"]) == (3, "running")
    assert after["config"]["process"]["args"] == ["sh", "-c", "exit 3"]
    name = box.start("sleep 1000")
    during = attend.inspect_container(box.paths, name)
    assert (during["state"]["phase"], during["state"]["pid"]) == ("running", box.state(name).pid)
