"""A full table of processes, a limit that is refused, a run directory without room: told, and made up for."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runtime.linux import cgroups
from runtime.shim import client
from tests.crash.agents import Agent
from tests.crash.bomb import children
from tests.crash.box import Box, until
from tests.crash.conftest import ended, opened

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]

#: failures that need a person are tried again after 5 s, 10 s, ...
PATIENCE = 120.0


def sleeper(name: str) -> str:
    return (
        f'[container.{name}]\nimage = "busy:1"\ncommand = ["sleep", "10000"]\nstop_grace_period = "100ms"\n'
    )


def state(box: Box, name: str) -> client.State:
    found = client.read_state(box.paths.live(box.ps()[f"default/{name}"]["id"]))
    assert found is not None
    return found


# ---------------------------------------------------------------- processes


@contextmanager
def few_processes(pid: int, count: int) -> Iterator[Path]:
    """The process and what it forks may be so many; yields the file that says so."""
    host = cgroups.detect()
    root = next(root for root in host.roots() if Path(root, "cgroup.procs").exists() and has_pids(root))
    group = Path(root) / f"stead-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(pid))
        (group / "pids.max").write_text(str(count))
        yield group / "pids.max"
    finally:
        (group / "pids.max").write_text("max")
        for member in (group / "cgroup.procs").read_text().split():
            (Path(root) / "cgroup.procs").write_text(member)
        group.rmdir()


def has_pids(root: str) -> bool:
    """Whether a child of this cgroup can limit processes."""
    controllers = Path(root, "cgroup.subtree_control")
    if controllers.exists():
        return "pids" in controllers.read_text()
    return Path(root).name == "pids"


def test_a_full_table_of_processes_is_told_and_all_starts_when_there_is_room(box: Box, agent: Agent) -> None:
    (box.specs / "shop.toml").write_text(sleeper("first"))
    agent.start()
    until(agent.converged, "the agent converges")
    first = box.ps()["default/first"]
    for pid in children(agent.pid):  # a zygote that is made anew is in the agent's group
        if b"zygote" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    threads = len(os.listdir(f"/proc/{agent.pid}/task"))
    with few_processes(agent.pid, threads) as limit:
        (box.specs / "more.toml").write_text(sleeper("more"))
        told = ("resource temporarily unavailable", "can't start new thread")
        text = ""

        def is_told() -> bool:
            nonlocal text
            text = (agent.log.read_text() + str(agent.blocked("default/more"))).lower()
            return any(words in text for words in told)

        try:
            until(is_told, "it is told", PATIENCE)
        except AssertionError:
            raise AssertionError(text) from None
        assert box.ps()["default/first"] == first  # whose supervisor is elsewhere, and goes on
        limit.write_text("max")
        until(lambda: agent.converged() and "default/more" in box.ps(), "it starts", PATIENCE)
    assert box.ps()["default/first"] == first
    box.settled()


def test_a_limit_that_the_kernel_refuses_names_the_file_and_is_blocked_alone(box: Box, agent: Agent) -> None:
    bad = sleeper("bad") + 'cpuset = "0-4095"\n'
    (box.specs / "shop.toml").write_text(sleeper("good") + bad)
    agent.start()
    (found,) = agent.until_blocked("default/bad")
    reason = found["reason"]
    assert "cpuset" in reason and ("out of range" in reason or "invalid argument" in reason), reason
    until(lambda: box.ps()["default/good"]["phase"] == "running", "the other one runs")
    (box.specs / "shop.toml").write_text(sleeper("good") + sleeper("bad"))
    until(agent.converged, "it converges when its specs do", PATIENCE)
    box.settled()


# ---------------------------------------------------------------- the run directory


def test_shims_heal_on_a_run_directory_without_room(tmp_path: Path, nurseries: list[Any]) -> None:
    """State records cannot be written: containers are restarted all the same, and told right afterwards."""
    run = tmp_path / "run"
    run.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(run)], check=True)
    try:
        box = opened(tmp_path, nurseries[0])
        (box.specs / "shop.toml").write_text(sleeper("c0"))
        box.well("apply", str(box.specs))
        pid = state(box, "c0").pid
        ballast = run / "ballast"
        with ballast.open("wb", buffering=0) as file:
            for size in (65536, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue
        before = programs(box)
        os.kill(pid, signal.SIGKILL)
        until(lambda: programs(box) and programs(box) != before, "its shim restarts it without a record")
        ballast.unlink()
        (again,) = programs(box)
        os.kill(again, signal.SIGKILL)
        until(
            lambda: state(box, "c0").phase == "running" and state(box, "c0").pid not in (pid, again),
            "it is told",
        )
        assert state(box, "c0").restarts == 2
        box.settled()
        ended(box)
    finally:
        subprocess.run(["umount", "-l", str(run)], check=True)


def programs(box: Box) -> set[int]:
    """Pids of `sleep` in the containers of this box."""
    return {pid for pid, (_, words) in box.inventory.programs().items() if words.startswith(b"sleep")}
