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
from typing import NamedTuple

import pytest

from runtime.shim import client, forking
from tests.kernel.shim_box import Box, box, until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


class Way(NamedTuple):
    """`idle`: by a keeper. `early`: the first process is forked before the bundle is there."""

    idle: bool
    early: bool


WAYS = pytest.mark.parametrize(
    "way",
    [Way(idle, early) for idle in (True, False) for early in (True, False)],
    ids=lambda way: f"{'idle' if way.idle else 'whole'}-{'early' if way.early else 'late'}",
)
IDLE_OR_NOT = pytest.mark.parametrize("idle", [True, False])


def born(box: Box, way: Way) -> forking.Birth:
    """A birth; if `early`, cgroup and network are said to be there."""
    early = {key: box.config[key] for key in ("root", "linux")} | {"process": {}} if way.early else None
    birth = box.zygote.fork(box.bundle, box.live, idle=way.idle, cgroup=box.cgroup, early=early)
    birth.ground()
    return birth


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


@WAYS
def test_a_bundle_may_be_written_while_its_shim_is_born(container: Box, way: Way) -> None:
    with born(container, way) as birth:
        until(lambda: children(container))
        assert client.read_state(container.live) is None
        write(container, "echo up; sleep 1000")
        birth.start()
    assert container.state().phase == "running"
    until(lambda: container.output() == b"up\n")


@WAYS
def test_what_was_not_started_leaves_nothing(container: Box, way: Way) -> None:
    write(container, "sleep 1000")
    with born(container, way):
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
def up(box: Box, way: Way) -> Iterator[forking.Birth]:
    """A birth whose program waits for its start."""
    with born(box, way) as birth:
        birth.go()
        until(lambda: brought_up(box))
        yield birth


@WAYS
def test_a_program_that_is_brought_up_waits_for_its_start(container: Box, way: Way) -> None:
    write(container, "echo up; sleep 1000")
    with up(container, way) as birth:
        assert container.state().phase == "starting"
        assert container.output() == b""
        birth.start()
    assert container.state().phase == "running"
    until(lambda: container.output() == b"up\n")


@WAYS
def test_a_program_whose_agent_dies_before_it_may_run_never_runs(container: Box, way: Way) -> None:
    """It is still wanted, and was not ended by anybody: the next agent starts it."""
    container.supervise["restart"] = {"policy": "always"}
    write(container, "echo up; sleep 1000")
    with up(container, way) as birth:
        line, birth._line = birth._line, None
        assert line is not None
        line.close()  # as its end closes it
    client.wait_free(container.bundle)
    assert container.host.pids(container.cgroup) == []
    assert container.output() == b""
    state = client.read_state(container.live)
    assert state is not None and state.phase == "lost" and not client.is_alive(state)
    assert client.read_exit(container.bundle) is None
    with born(container, way) as birth:
        birth.start()
    until(lambda: container.output() == b"up\n")


@WAYS
def test_what_was_brought_up_and_is_not_started_has_ended_when_it_is_let_go(container: Box, way: Way) -> None:
    """Who clears up after it meets nobody who still works on it."""
    for moment in (0.0, 0.001, 0.002, 0.004, 0.008):
        write(container, "echo up; sleep 1000")
        with born(container, way) as birth:
            birth.go()
            time.sleep(moment)
        assert container.host.pids(container.cgroup) == []
        state = client.read_state(container.live)
        assert state is None or state.phase == "lost"
    assert container.output() == b""
    client.wait_free(container.bundle)


@WAYS
def test_a_shim_that_holds_a_bundle_and_does_not_end_is_killed(
    container: Box, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    monkeypatch.setattr(client, "PATIENCE", 0.1)
    write(container, "sleep 1000")
    with born(container, way) as birth:
        birth.start()
    (container.live / "state.json").unlink()
    client.wait_free(container.bundle)
    until(lambda: not children(container))


@WAYS
def test_a_program_that_cannot_be_brought_up_is_told_at_its_start(container: Box, way: Way) -> None:
    write(container, "true")
    container.config["process"]["args"] = ["/no/such"]
    (container.bundle / "config.json").write_text(json.dumps(container.config))
    with born(container, way) as birth:
        birth.go()
        with pytest.raises(client.ShimError, match="no such file") as failed:
            birth.start()
    assert failed.value.exit_code == 127
    until(lambda: not children(container))
    exit = client.read_exit(container.bundle)
    assert exit is not None and exit.exit_code == 127


@WAYS
def test_a_stop_that_comes_before_the_start_holds(container: Box, way: Way) -> None:
    write(container, "echo up; sleep 1000")
    with up(container, way) as birth:
        client.stop(container.live, timeout=0.0)
        with pytest.raises(client.ShimError, match="stopped while it started"):
            birth.start()
    assert container.output() == b"" and container.host.pids(container.cgroup) == []


@WAYS
def test_a_zygote_that_dies_behind_a_birth_does_not_matter(container: Box, way: Way) -> None:
    write(container, "sleep 1000")
    with born(container, way) as birth:
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


# ---------------------------------------------------------------- a first process that is there early


def waiting(box: Box) -> int:
    """The pid of the first process that waits for its bundle."""
    pids = until(lambda: [pid for pid in box.host.pids(box.cgroup) if blocked(pid)])
    assert len(pids) == 1
    return int(pids[0])


@IDLE_OR_NOT
def test_a_first_process_waits_for_a_bundle_that_is_not_there(container: Box, idle: bool) -> None:
    with born(container, Way(idle, early=True)) as birth:
        pid = waiting(container)
        assert not (container.bundle / "config.json").exists()
        assert client.read_state(container.live) is None
        write(container, "echo up; sleep 1000")
        birth.start()
    assert container.state().pid == pid
    until(lambda: container.output() == b"up\n")


@IDLE_OR_NOT
def test_what_waits_has_nothing_of_its_shim(container: Box, idle: bool) -> None:
    """CVE-2024-21626: no descriptor of a directory, no working directory but the root, and nobody who could
    look into its memory."""
    with born(container, Way(idle, early=True)):
        pid = waiting(container)
        links = {
            os.readlink(f"/proc/{pid}/fd/{fd}").partition(":")[0] for fd in os.listdir(f"/proc/{pid}/fd")
        }
        assert links <= {"/dev/null", "pipe"}
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert status["NSpid"].split()[-1] == "1"
        assert Path(f"/proc/{pid}/stat").stat().st_uid == 0


@IDLE_OR_NOT
def test_a_first_process_that_is_not_started_has_ended_when_it_is_let_go(container: Box, idle: bool) -> None:
    for moment in (0.0, 0.001, 0.002, 0.004, 0.008):
        with born(container, Way(idle, early=True)):
            time.sleep(moment)
        assert container.host.pids(container.cgroup) == []
    with born(container, Way(idle, early=True)):
        waiting(container)
    assert container.host.pids(container.cgroup) == []
    assert client.read_state(container.live) is None
    client.wait_free(container.bundle)


@IDLE_OR_NOT
def test_a_first_process_ends_with_the_shim_that_forked_it(container: Box, idle: bool) -> None:
    with born(container, Way(idle, early=True)) as birth:
        waiting(container)
        for pid in children(container):
            os.kill(pid, signal.SIGKILL)
        until(lambda: container.host.pids(container.cgroup) == [])
        write(container, "echo up; sleep 1000")
        birth.start()  # by another one
    until(lambda: container.output() == b"up\n")


@IDLE_OR_NOT
def test_a_first_process_that_somebody_kills_while_it_waits_is_followed_by_another(
    container: Box, idle: bool
) -> None:
    with born(container, Way(idle, early=True)) as birth:
        pid = waiting(container)
        os.kill(pid, signal.SIGKILL)
        until(lambda: ") Z " in Path(f"/proc/{pid}/stat").read_text())
        write(container, "echo up; sleep 1000")
        birth.start()
    until(lambda: container.output() == b"up\n")
    assert container.state().phase == "running"


@IDLE_OR_NOT
def test_what_cannot_be_forked_early_is_told_at_its_start(container: Box, idle: bool) -> None:
    container.host.remove(container.cgroup)
    with born(container, Way(idle, early=True)) as birth:
        write(container, "sleep 1000")
        with pytest.raises(client.ShimError, match=r"cgroup .* is gone"):
            birth.start()
    until(lambda: not children(container))


@IDLE_OR_NOT
def test_a_bundle_that_lost_its_root_meanwhile_starts_nothing(container: Box, idle: bool) -> None:
    with born(container, Way(idle, early=True)) as birth:
        waiting(container)
        write(container, "sleep 1000")
        container.rootfs.rename(container.rootfs.with_name("gone"))
        with pytest.raises(client.ShimError, match="root"):
            birth.start()
    assert container.host.pids(container.cgroup) == []
    container.rootfs.with_name("gone").rename(container.rootfs)


@IDLE_OR_NOT
def test_a_bundle_that_cannot_be_read_is_told(container: Box, idle: bool) -> None:
    with born(container, Way(idle, early=True)) as birth:
        waiting(container)
        write(container, "sleep 1000")
        (container.bundle / "config.json").write_text("{")
        with pytest.raises(client.ShimError, match="cannot start supervisor"):
            birth.start()
    until(lambda: container.host.pids(container.cgroup) == [])


def test_an_early_fork_is_for_namespaces_that_a_plain_one_gives(container: Box) -> None:
    """A user namespace is made by a process in between, which needs the whole bundle."""
    container.config["linux"]["namespaces"].append({"type": "user"})
    birth = born(container, Way(idle=True, early=True))
    try:
        until(lambda: children(container))
        time.sleep(0.1)
        assert container.host.pids(container.cgroup) == []
    finally:
        birth.close()
