"""Containers that a person pauses: nothing runs in them, nothing is started there, an end thaws. Root."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from agent.cli.main import main
from runtime import frozen
from runtime.commit import CommitRequest, Writings
from runtime.faults import Fault
from runtime.linux import cgroups
from runtime.observations import Phase
from runtime.pausing import paused
from runtime.shim import client
from runtime.wishes import ProbeRequest, RestartRequest
from tests.kernel.engine_box import Engine, engine
from tests.kernel.shim_box import until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

HOST = cgroups.detect()
COUNT = "while :; do echo x >> /tmp/beat; done"


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("pausing")) as made:
        yield made


def stead(box: Engine, *words: str) -> int:
    return main(["--root", str(box.paths.root), "--run", str(box.paths.run), *words])


def ticks(box: Engine, name: str) -> list[str]:
    return Path(f"/proc/{box.state(name).pid}/stat").read_text().split()[13:15]


def phase(box: Engine, name: str) -> Phase:
    return box.runtime.observe().containers[name].phase


def test_what_is_paused_does_nothing_until_it_is_unpaused(
    box: Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    name = box.start(COUNT)
    until(lambda: (box.paths.rootfs(box.id(name)) / "tmp/beat").exists())
    assert stead(box, "pause", name) == 0
    before = ticks(box, name)
    assert phase(box, name) is Phase.PAUSED
    assert stead(box, "ps", "--format", "{{.State}} {{.Status}}") == 0
    shown = capfd.readouterr().out.splitlines()
    assert shown[0] == name and shown[1].startswith("paused Up ") and shown[1].endswith("(Paused)")
    with pytest.raises(Fault, match="it is paused already"):
        box.runtime.pause_container(name)
    assert stead(box, "pause", name) == 1
    with pytest.raises(Fault, match="it is paused"):
        box.exec(name, "true")
    process, fds = box.config(name)["process"], tuple(os.open(os.devnull, os.O_RDWR) for _ in range(3))
    with pytest.raises(client.ShimError, match="the container is paused"):
        client.exec_process(box.live(name), process, stdio=fds)
    for fd in fds:
        os.close(fd)
    assert ticks(box, name) == before
    assert stead(box, "container", "unpause", name) == 0
    until(lambda: ticks(box, name) != before)
    assert phase(box, name) is Phase.RUNNING
    with pytest.raises(Fault, match="it is not paused"):
        box.runtime.unpause_container(name)
    assert box.exec(name, "echo well").text == "well\n"
    box.runtime.remove_container(name)


def test_stopping_a_paused_container_lets_it_hear_the_signal(box: Engine) -> None:
    name = box.start(
        "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done", stop_grace_period=20.0
    )
    until(lambda: "up" in box.output(name))
    box.runtime.pause_container(name)
    began = time.monotonic()
    box.runtime.stop_container(name)
    assert time.monotonic() - began < 10
    assert client.read_exit(box.home(name)).exit_code == 7
    assert "bye" in box.output(name)
    box.runtime.remove_container(name)


def test_a_killed_one_ends_and_its_next_run_is_not_paused(box: Engine) -> None:
    name = box.start("exec sleep 1000", restart=RestartRequest("always"))
    first = box.state(name).pid
    box.runtime.pause_container(name)
    client.kill(box.live(name), "SIGKILL")
    until(lambda: box.state(name).pid not in (0, first) and phase(box, name) is Phase.RUNNING)
    assert not HOST.is_frozen(box.state(name).cgroup)
    box.runtime.remove_container(name)


def test_other_signals_wait_until_it_goes_on(box: Engine) -> None:
    name = box.start("trap 'echo heard' USR1; echo up; while :; do sleep 0.05; done")
    until(lambda: "up" in box.output(name))
    box.runtime.pause_container(name)
    client.kill(box.live(name), "SIGUSR1")
    assert phase(box, name) is Phase.PAUSED
    box.runtime.unpause_container(name)
    until(lambda: "heard" in box.output(name))
    box.runtime.remove_container(name)


def test_probes_rest_while_it_is_paused_and_go_on_afterwards(box: Engine) -> None:
    probe = ProbeRequest(shell="true", interval=0.05, timeout=1.5, retries=1)
    name = box.start("exec sleep 1000", probe=probe)
    until(lambda: box.state(name).health == "healthy")
    box.runtime.pause_container(name)
    last = time.time()
    until(lambda: time.time() > last + 2.0)
    state = box.state(name)
    assert (state.health, state.restarts) == ("healthy", 0)
    assert state.health_log[-1].started_at <= last
    box.runtime.unpause_container(name)
    until(lambda: box.state(name).health_log[-1].started_at > last + 2.0)
    assert box.state(name).health == "healthy"
    box.runtime.remove_container(name)


@contextmanager
def by_hand(box: Engine, name: str) -> Iterator[None]:
    box.runtime.pause_container(name)
    yield
    box.runtime.unpause_container(name)


def by_a_backup(box: Engine, name: str) -> AbstractContextManager[None]:
    return paused(HOST, [(name, box.state(name).cgroup)], box.paths)


@pytest.mark.parametrize("freeze", [by_hand, by_a_backup])
def test_a_probe_that_was_frozen_for_a_while_does_not_fail_for_it(
    box: Engine, freeze: Callable[[Engine, str], AbstractContextManager[None]]
) -> None:
    """It goes on before its time is over, and has too little left."""
    shell = "touch /tmp/begun; i=0; while [ $((i+=1)) -le 20 ]; do sleep 0.1; done"
    probe = ProbeRequest(shell=shell, interval=0.05, timeout=4.0, retries=1)
    name = box.start("exec sleep 1000", probe=probe, restart=RestartRequest("always"))
    until(lambda: box.state(name).health == "healthy")
    begun = box.paths.rootfs(box.id(name)) / "tmp/begun"
    begun.unlink()
    until(begun.exists)
    with freeze(box, name):
        time.sleep(2.5)
    last = time.time()
    until(lambda: box.state(name).health_log[-1].started_at > last)
    assert (box.state(name).health, box.state(name).restarts) == ("healthy", 0)
    assert {result.exit_code for result in box.state(name).health_log} == {0}
    box.runtime.remove_container(name)


def test_a_commit_leaves_what_is_paused_paused_and_thaws_what_is_not(box: Engine) -> None:
    name = box.start(COUNT)
    writings = Writings(box.paths, box.runtime.images, HOST)
    record = box.runtime.containers.record(name, "look at")
    request = CommitRequest(created="2026-01-01T00:00:00Z")
    box.runtime.pause_container(name)
    before = ticks(box, name)
    writings.commit(record, request)
    assert HOST.is_frozen(box.state(name).cgroup) and ticks(box, name) == before
    box.runtime.unpause_container(name)
    writings.commit(record, request)
    until(lambda: ticks(box, name) != before)
    assert not frozen.is_paused(box.live(name))
    box.runtime.remove_container(name)


def test_a_pause_that_was_killed_half_way_is_done_by_the_next(box: Engine) -> None:
    name = box.start(COUNT)
    (box.live(name) / frozen.MARK).touch()
    box.runtime.pause_container(name)
    assert HOST.is_frozen(box.state(name).cgroup)
    box.runtime.unpause_container(name)
    (box.live(name) / frozen.MARK).touch()
    box.runtime.unpause_container(name)
    assert phase(box, name) is Phase.RUNNING
    box.runtime.remove_container(name)


def test_what_does_not_run_cannot_be_paused(box: Engine) -> None:
    name = box.create("true")
    with pytest.raises(Fault) as raised:
        box.runtime.pause_container(name)
    assert raised.value.code == "container-not-running"
    box.runtime.remove_container(name)
