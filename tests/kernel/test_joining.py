"""Containers in namespaces of others, and with their volumes: what the owner must be. Needs root."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from runtime.faults import Fault
from runtime.wishes import RestartRequest
from specs.values import MountPoint
from tests.kernel.engine_box import Engine, engine
from tests.kernel.shim_box import until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("joining")) as made:
        yield made


@pytest.fixture
def owner(box: Engine) -> Iterator[str]:
    name = box.start("sleep 1000", mounts=(MountPoint("volume", "", "/data"),), ipc_mode="shareable")
    yield name
    box.runtime.remove_container(name)


def test_memory_is_shared_with_those_who_ask_and_only_where_it_may_be(box: Engine, owner: str) -> None:
    box.exec(owner, "echo theirs >/dev/shm/x")
    assert box.run("cat /dev/shm/x", ipc_mode=f"container:{owner}").lines == ["theirs"]
    alone = box.start("sleep 1000")
    with pytest.raises(Fault, match="does not share its memory"):
        box.start("true", ipc_mode=f"container:{alone}")
    box.runtime.remove_container(alone)


def test_a_namespace_of_one_that_does_not_run_is_waited_for(box: Engine, owner: str) -> None:
    box.runtime.stop_container(owner)
    for mode in ("pid_mode", "ipc_mode", "uts_mode"):
        with pytest.raises(Fault, match="is not running") as raised:
            box.start("true", **{mode: f"container:{owner}"})
        assert raised.value.code == "container-not-running"


def test_the_end_of_a_pid_namespace_ends_all_in_it_and_its_shim_says_why_it_cannot_start(
    box: Engine, owner: str
) -> None:
    restart = RestartRequest("always", initial=30.0)
    guest = box.start("sleep 1000", pid_mode=f"container:{owner}", restart=restart)
    assert box.exec(guest, "echo /proc/[0-9]*").lines[0].startswith("/proc/1 ")
    box.runtime.stop_container(owner)
    until(lambda: "the container whose pid namespace it has has ended" in box.state(guest).error)
    box.runtime.remove_container(guest)


def test_volumes_of_another_are_mounted_but_where_it_has_its_own(box: Engine, owner: str) -> None:
    box.exec(owner, "echo theirs >/data/x")
    asked = {"volumes_from": ((owner, True),)}
    assert box.run("cat /data/x; touch /data/y 2>&1", **asked).lines == [
        "theirs",
        "touch: /data/y: Read-only file system",
    ]
    own = MountPoint("tmpfs", "", "/data")
    assert box.run("ls -A /data", mounts=(own,), **asked).lines == []
    with pytest.raises(Fault, match="there is no container t/none, whose volumes"):
        box.start("true", volumes_from=(("t/none", False),))
