"""Containers in namespaces of others, and with their volumes: what the owner must be. Needs root."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from runtime.faults import Fault
from runtime.observations import Phase
from runtime.shim.supervise import OWNER_ENDED
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


def test_what_ends_with_the_owner_of_its_pid_namespace_goes_on_in_the_next_one_and_nothing_counts_it(
    box: Engine,
) -> None:
    """By the shims alone. However long its own pause would be: the owner is looked for."""
    owner = box.start("sleep 1000", restart=RestartRequest("always", initial=0.5))
    modes = {f"{kind}_mode": f"container:{owner}" for kind in ("pid", "uts")}
    policy = RestartRequest("on-failure", max_retries=1, initial=600.0)
    guest = box.start("sleep 1000", restart=policy, **modes)

    def spaces(name: str) -> list[str]:
        pid = box.state(name).pid
        return [os.readlink(f"/proc/{pid}/ns/{kind}") if pid else "" for kind in ("pid", "uts")]

    known = set()
    for pause in (False, True, True):  # of its owner: the first restart is at once
        known.add(box.state(owner).pid)
        os.kill(box.state(owner).pid, signal.SIGKILL)
        if pause:
            until(lambda: OWNER_ENDED in box.state(guest).error)
        until(lambda: box.state(owner).pid not in known | {0} and box.state(owner).phase == "running")
        until(lambda: box.state(guest).phase == "running" and spaces(guest) == spaces(owner))
        assert box.state(guest).error == ""
    state = box.state(guest)
    assert state.restart_reasons == {"owner": 3} and (state.streak, state.attempts) == (0, 0)
    assert box.runtime.observe().containers[guest].defects == ()

    os.kill(state.pid, signal.SIGKILL)  # its own end counts, and is not taken for the owner's
    until(lambda: box.state(guest).phase == "running" and box.state(guest).pid != state.pid)
    assert box.state(guest).restart_reasons == {"owner": 3, "signal": 1}
    box.runtime.stop_container(guest)
    box.runtime.remove_container(guest)
    box.runtime.remove_container(owner)


def test_what_waits_for_its_owner_can_be_stopped_and_is_no_drift_but_of_another_owner_it_is(
    box: Engine,
) -> None:
    owner = box.start("sleep 1000")
    guest = box.start("sleep 1000", pid_mode=f"container:{owner}", restart=RestartRequest("always"))
    box.runtime.stop_container(owner)
    until(lambda: OWNER_ENDED in box.state(guest).error)
    assert box.runtime.observe().containers[guest].defects == ()
    box.runtime.remove_container(owner)
    box.start("sleep 1000", name=owner)
    (defect,) = box.runtime.observe().containers[guest].defects
    assert defect.kind == "joined" and defect.restart, "its shim knows only the other owner"
    box.runtime.stop_container(guest)
    assert box.runtime.observe().containers[guest].phase is Phase.STOPPED
    box.runtime.start_container(guest)
    assert box.exec(guest, "echo /proc/[0-9]*").lines[0].startswith("/proc/1 ")
    box.runtime.remove_container(guest)
    box.runtime.remove_container(owner)


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
