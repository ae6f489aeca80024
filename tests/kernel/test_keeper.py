"""A shim that keeps an idle container, and becomes a whole one when something happens. Needs root."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import logs
from runtime.linux import namespaces, pidfd
from runtime.shim import client
from tests.kernel.shim_box import Box, box, until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

#: KiB that an idle shim may have for itself: 0.6 MiB, and more where our sources were compiled just now.
#: CPython 3.12 does not count references of what never ends.
OWN = 500 if sys.version_info >= (3, 12) else 650


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path) as made:
        yield made


def own_memory(pid: int) -> int:
    """KiB that no other process shares."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return next(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:"))


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def kept(container: Box, text: str) -> client.State:
    """Start it; wait until the starter has gone and the program is the keeper's child."""
    state = container.spawn(text)
    until(lambda: children(state.shim_pid) == [state.pid])
    return state


def lines(container: Box) -> list[bytes]:
    return [line for _, _, line in logs.read(container.bundle / "log")]


def test_an_idle_shim_is_small(container: Box) -> None:
    """Of many shims each has about this much of its own; what they share is the zygote's."""
    state = kept(container, "sleep 1000")
    assert own_memory(state.shim_pid) < OWN


def test_taking_output_keeps_a_shim_small(container: Box) -> None:
    state = kept(container, "while :; do echo line; sleep 0.01; done")
    until(lambda: len(lines(container)) > 20)
    assert own_memory(state.shim_pid) < OWN + 500
    assert children(state.shim_pid) == [state.pid]


def test_output_is_whole_and_in_order_whoever_takes_it(container: Box) -> None:
    """From before the exec is known, through the handover, to a client that makes it a whole shim."""
    count = 3000
    program = f"i=0; while [ $i -lt {count} ]; do echo $i; i=$((i+1)); done; echo end >&2; exec sleep 1000"
    container.spawn(program)
    until(lambda: len(lines(container)) > 10)
    assert client.ping(container.live).phase == "running"
    until(lambda: b"end\n" in lines(container) and len(lines(container)) > count)  # they are two pipes
    assert [line for line in lines(container) if line != b"end\n"] == [b"%d\n" % n for n in range(count)]


def test_a_kept_program_that_dies_is_started_anew_and_counted(container: Box) -> None:
    container.with_network()
    state = container.spawn("echo up; sleep 1000", restart={"policy": "always"}, restarts=2)
    until(lambda: children(state.shim_pid) == [state.pid] and lines(container) == [b"up\n"])
    os.kill(state.pid, signal.SIGKILL)
    again = until(lambda: container.state().pid not in (0, state.pid) and container.state())
    assert (again.shim_pid, again.shim_start) == (state.shim_pid, state.shim_start)
    assert (again.restarts, again.exit_code, again.oom_killed) == (3, 137, False)
    until(lambda: lines(container) == [b"up\n", b"up\n"])


def test_a_kept_container_finds_its_network_again_after_the_name_is_gone(container: Box) -> None:
    container.with_network()
    state = container.spawn("sleep 1000", restart={"policy": "always"})
    until(lambda: children(state.shim_pid) == [state.pid])
    net = os.readlink(f"/proc/{state.pid}/ns/net")
    namespaces.delete_netns(container.live / "netns")
    os.kill(state.pid, signal.SIGKILL)
    again = until(lambda: container.state().pid not in (0, state.pid) and container.state())
    until(lambda: container.state().phase == "running")
    assert os.readlink(f"/proc/{again.pid}/ns/net") == net


def test_a_kept_container_that_closed_its_output_goes_on(container: Box) -> None:
    state = kept(container, "echo last; sleep 0.1; exec sleep 1000 >&- 2>&-")
    until(lambda: lines(container) == [b"last\n"])
    until(lambda: not any("pipe" in _target(state, number) for number in (1, 2)))
    client.stop(container.live, timeout=0)
    assert container.ended().exit_code == 137


def _target(state: client.State, number: int) -> str:
    try:
        return os.readlink(f"/proc/{state.pid}/fd/{number}")
    except FileNotFoundError:
        return ""


def test_a_signal_ends_the_container_without_an_exit_record(container: Box) -> None:
    state = kept(container, "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done")
    until(lambda: lines(container) == [b"ready\n"])
    os.kill(state.shim_pid, signal.SIGTERM)
    until(lambda: not client.is_alive(state))
    assert client.read_exit(container.bundle) is None
    assert container.state().phase == "lost"


def test_a_signal_that_comes_while_the_program_starts_is_passed_on(container: Box) -> None:
    """A frozen cgroup holds the start up: the starter has nothing to hand over yet."""
    caught: list[client.ShimError] = []

    def spawn() -> None:
        try:
            container.spawn("sleep 1000")
        except client.ShimError as error:
            caught.append(error)

    _freeze(container, True)
    thread = threading.Thread(target=spawn)
    thread.start()
    try:
        until(lambda: client.read_state(container.live))
        os.kill(container.state().shim_pid, signal.SIGTERM)
        until(lambda: container.state().phase == "lost")  # SIGKILL ends what is frozen
    finally:
        _freeze(container, False)
        thread.join(10)
    assert [error.message for error in caught] == ["it was stopped while it started"]
    until(lambda: not client.is_alive(container.state()))


def _freeze(container: Box, frozen: bool) -> None:
    assert container.host.v2 is not None
    container.host.v2.freeze(container.cgroup, frozen)


def test_a_killed_keeper_leaves_no_shim_behind_and_a_new_one_takes_over(container: Box) -> None:
    state = kept(container, "sleep 1000")
    os.kill(state.shim_pid, signal.SIGKILL)
    until(lambda: not client.is_alive(state))
    again = container.spawn("sleep 1000")
    assert client.is_alive(again)
    assert again.shim_pid != state.shim_pid
    until(lambda: not pidfd.is_alive(state.pid, state.pid_start))


def test_a_shim_with_a_probe_or_a_terminal_has_no_starter(container: Box) -> None:
    probe = {"exec": ["/bin/true"], "interval": 60.0}
    state = container.spawn("sleep 1000", probe=probe)
    assert children(state.shim_pid)[0] == state.pid


def test_a_client_finds_the_state_that_the_starter_wrote(container: Box) -> None:
    state = kept(container, "sleep 1000")
    assert client.ping(container.live) == state == container.state()
    client.adjust(container.live, {"restart": {"policy": "always"}, "name": "other/name"})
    assert container.state().name == "other/name"
