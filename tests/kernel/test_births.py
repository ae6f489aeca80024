"""Shims whose processes are made before their bundles: they wait to be started, and end where nobody is left
who could. Needs root."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime.shim import client
from tests.kernel.shim_box import Box, box, until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path) as made:
        yield made


def children(box: Box) -> list[int]:
    """Of the zygote."""
    process = box.zygote._process
    assert process is not None
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def write(box: Box, text: str) -> None:
    box.script(text)
    (box.bundle / "config.json").write_text(json.dumps(box.config))
    (box.bundle / "supervise.json").write_text(json.dumps(box.supervise))


@pytest.mark.parametrize("idle", [True, False])
def test_a_bundle_may_be_written_while_its_shim_is_born(container: Box, idle: bool) -> None:
    with container.zygote.fork(container.bundle, container.live, idle=idle) as birth:
        until(lambda: children(container))
        assert client.read_state(container.live) is None
        write(container, "echo up; sleep 1000")
        birth.start()
    assert container.state().phase == "running"
    until(lambda: container.output() == b"up\n")


@pytest.mark.parametrize("idle", [True, False])
def test_what_was_not_started_leaves_nothing(container: Box, idle: bool) -> None:
    write(container, "sleep 1000")
    with container.zygote.fork(container.bundle, container.live, idle=idle):
        until(lambda: children(container))
    until(lambda: not children(container))
    assert client.read_state(container.live) is None
    assert container.host.pids(container.cgroup) == []


def brought_up(box: Box) -> bool:
    """Whether its init waits before its exec: it has its root, which busybox is in. Its shim has said so."""
    if client.read_state(box.live) is None:
        return False
    pids = box.host.pids(box.cgroup)
    return len(pids) == 1 and os.path.exists(f"/proc/{pids[0]}/root/bin/busybox") and blocked(pids[0])


def blocked(pid: int) -> bool:
    """In read(2), which is call 0."""
    try:
        return Path(f"/proc/{pid}/syscall").read_text().startswith("0 ")
    except OSError:
        return False


@contextmanager
def up(box: Box, idle: bool) -> Iterator[client.Birth]:
    """A birth whose program waits for its start."""
    with box.zygote.fork(box.bundle, box.live, idle=idle) as birth:
        birth.go()
        until(lambda: brought_up(box))
        yield birth


@pytest.mark.parametrize("idle", [True, False])
def test_a_program_that_is_brought_up_waits_for_its_start(container: Box, idle: bool) -> None:
    write(container, "echo up; sleep 1000")
    with up(container, idle) as birth:
        assert container.state().phase == "starting"
        assert container.output() == b""
        birth.start()
    assert container.state().phase == "running"
    until(lambda: container.output() == b"up\n")


@pytest.mark.parametrize("idle", [True, False])
def test_a_program_whose_agent_dies_before_it_may_run_never_runs(container: Box, idle: bool) -> None:
    """It is still wanted, and was not ended by anybody: the next agent starts it."""
    container.supervise["restart"] = {"policy": "always"}
    write(container, "echo up; sleep 1000")
    with up(container, idle) as birth:
        line, birth._line = birth._line, None
        assert line is not None
        line.close()  # as its end closes it
    client.wait_free(container.bundle)
    assert container.host.pids(container.cgroup) == []
    assert container.output() == b""
    state = client.read_state(container.live)
    assert state is not None and state.phase == "lost" and not client.is_alive(state)
    assert client.read_exit(container.bundle) is None
    with container.zygote.fork(container.bundle, container.live, idle=idle) as birth:
        birth.start()
    until(lambda: container.output() == b"up\n")


@pytest.mark.parametrize("idle", [True, False])
def test_what_was_brought_up_and_is_not_started_has_ended_when_it_is_let_go(
    container: Box, idle: bool
) -> None:
    """Who clears up after it meets nobody who still works on it."""
    for moment in (0.0, 0.001, 0.002, 0.004, 0.008):
        write(container, "echo up; sleep 1000")
        with container.zygote.fork(container.bundle, container.live, idle=idle) as birth:
            birth.go()
            time.sleep(moment)
        assert container.host.pids(container.cgroup) == []
        state = client.read_state(container.live)
        assert state is None or state.phase == "lost"
    assert container.output() == b""
    client.wait_free(container.bundle)


@pytest.mark.parametrize("idle", [True, False])
def test_a_shim_that_holds_a_bundle_and_does_not_end_is_killed(
    container: Box, monkeypatch: pytest.MonkeyPatch, idle: bool
) -> None:
    monkeypatch.setattr(client, "PATIENCE", 0.1)
    write(container, "sleep 1000")
    with container.zygote.fork(container.bundle, container.live, idle=idle) as birth:
        birth.start()
    (container.live / "state.json").unlink()
    client.wait_free(container.bundle)
    until(lambda: not children(container))


@pytest.mark.parametrize("idle", [True, False])
def test_a_program_that_cannot_be_brought_up_is_told_at_its_start(container: Box, idle: bool) -> None:
    write(container, "true")
    container.config["process"]["args"] = ["/no/such"]
    (container.bundle / "config.json").write_text(json.dumps(container.config))
    with container.zygote.fork(container.bundle, container.live, idle=idle) as birth:
        birth.go()
        with pytest.raises(client.ShimError, match="no such file") as failed:
            birth.start()
    assert failed.value.exit_code == 127
    until(lambda: not children(container))
    exit = client.read_exit(container.bundle)
    assert exit is not None and exit.exit_code == 127


@pytest.mark.parametrize("idle", [True, False])
def test_a_stop_that_comes_before_the_start_holds(container: Box, idle: bool) -> None:
    write(container, "echo up; sleep 1000")
    with up(container, idle) as birth:
        client.stop(container.live, timeout=0.0)
        with pytest.raises(client.ShimError, match="stopped while it started"):
            birth.start()
    assert container.output() == b"" and container.host.pids(container.cgroup) == []


@pytest.mark.parametrize("idle", [True, False])
def test_a_zygote_that_dies_behind_a_birth_does_not_matter(container: Box, idle: bool) -> None:
    write(container, "sleep 1000")
    with container.zygote.fork(container.bundle, container.live, idle=idle) as birth:
        until(lambda: children(container))
        zygote = container.zygote._process
        assert zygote is not None
        zygote.kill()
        zygote.wait()
        birth.start()
    assert container.state().phase == "running"


def test_a_request_that_a_zygote_died_with_goes_to_the_next_one(container: Box) -> None:
    write(container, "sleep 1000")
    container.zygote.warm()
    zygote = container.zygote._process
    assert zygote is not None
    os.kill(zygote.pid, signal.SIGSTOP)
    with container.zygote.fork(container.bundle, container.live, idle=True) as birth:
        zygote.kill()
        zygote.wait()
        birth.start()
    assert container.state().phase == "running"
