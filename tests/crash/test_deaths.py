"""kill -9 of a container's program, of the agent, of the zygote and of shims, while containers run."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from runtime.prepare import ASIDE
from runtime.shim import client
from tests.crash.agents import Agent
from tests.crash.bomb import children
from tests.crash.box import Box, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]

SLEEPER = 'image = "busy:1"\ncommand = ["sleep", "10000"]\nstop_grace_period = "100ms"\n'
COUNTER = """image = "busy:1"
command = ["sh", "-c", "i=0; while :; do echo $$i; i=$$((i+1)); usleep 2000; done"]
stop_grace_period = "100ms"
"""


def sleepers(box: Box, count: int, more: str = "") -> list[str]:
    text = "".join(f"[container.c{number}]\n{SLEEPER}\n" for number in range(count))
    (box.specs / "shop.toml").write_text(text + more)
    return [f"default/c{number}" for number in range(count)]


def state(box: Box, row: dict[str, Any]) -> client.State:
    found = client.read_state(box.paths.live(row["id"]))
    assert found is not None
    return found


def test_a_killed_program_runs_again_within_100_ms_though_no_agent_runs(box: Box) -> None:
    """From the kill to the exec of the next run. The median of seven: the machine may be busy with others."""
    sleepers(box, 7)
    box.well("apply", str(box.specs))
    lasted = []
    for row in box.ps().values():
        before = time.time()
        os.kill(row["pid"], signal.SIGKILL)
        until(
            lambda row=row: state(box, row).restarts == 1 and state(box, row).phase == "running",  # type: ignore[misc]
            "it runs again",
        )
        again = state(box, row)
        assert again.pid != row["pid"] and again.exit_code == 137
        lasted.append(again.started_at - before)
    print(f"from kill to exec: {', '.join(f'{1000 * seconds:.1f}' for seconds in sorted(lasted))} ms")
    assert statistics.median(lasted) < 0.1


def test_the_agents_death_is_seen_neither_by_containers_nor_in_their_logs(box: Box, agent: Agent) -> None:
    sleepers(box, 1, f"[container.counter]\n{COUNTER}")
    agent.start()
    until(agent.converged, "the agent converges")
    os.kill(box.ps()["default/c0"]["pid"], signal.SIGKILL)
    until(lambda: box.ps()["default/c0"]["restarts"] == 1 and all_run(box), "its shim restarts it")
    before = box.ps()
    for _ in range(3):
        agent.kill()
        lines = len(log(box, "counter"))
        until(lambda lines=lines: len(log(box, "counter")) > lines + 20, "it goes on")  # type: ignore[misc]
        agent.start()
        until(agent.converged, "the agent converges")
        assert box.ps() == before
    written = log(box, "counter")
    assert written == [str(number) for number in range(len(written))]
    assert agent.metric("stead_container_restarts_total", name="default/c0") == 1
    assert agent.metric("stead_steps_total") == 0  # nothing was done


def log(box: Box, name: str) -> list[str]:
    return box.well("logs", name).splitlines()


def test_killed_shims_and_zygotes_are_repaired_by_the_agent(box: Box, agent: Agent) -> None:
    """Any mixture of them, several times; what a killed shim left running is not left running twice."""
    names = sleepers(box, 4)
    agent.start()
    until(agent.converged, "the agent converges")
    chosen = random.Random(7)
    killed = 0
    for _ in range(4):
        before = box.ps()
        victims = chosen.sample(names, chosen.randint(1, 3))
        for name in victims:
            os.kill(state(box, before[name]).shim_pid, signal.SIGKILL)
        killed += len(victims)
        for pid in children(agent.pid):
            if b"zygote" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
        until(lambda killed=killed: lost(agent) >= killed, "each is noticed at once", 5.0)  # type: ignore[misc]
        until(lambda: all_run(box) and agent.converged(), "all run again")
        after = box.ps()
        assert {name for name in names if after[name]["pid"] != before[name]["pid"]} == set(victims)
        box.settled()
    assert agent.metric("stead_container_restarts_total") == 0  # by the shim: a new shim is no restart


def test_an_agent_holds_no_more_after_many_revisions_than_after_few(box: Box, agent: Agent) -> None:
    """Descriptors, processes and threads: of each replacement nothing stays behind. The threads that work
    beside a start or a removal come when they are first needed, with a connection to the database each."""
    sleepers(box, 3)
    agent.start()
    until(agent.converged, "the agent converges")

    def replace(number: int) -> None:
        text = (box.specs / "shop.toml").read_text().replace('"10000"', f'"{20000 + number}"')
        (box.specs / "shop.toml").write_text(re.sub(r'"2\d{4}"', f'"{20000 + number}"', text))
        until(lambda: agent.converged() and running(box) == {f"sleep {20000 + number}"}, "all are replaced")

    def held() -> tuple[int, int, int]:
        threads = len(os.listdir(f"/proc/{agent.pid}/task"))
        return agent.descriptors(), len(children(agent.pid)), threads

    for number in range(3):
        replace(number)
    before = held()
    for number in range(3, 12):
        replace(number)
    after = held()
    assert 2 * ASIDE < 9 * 3, "fewer than containers were replaced"
    assert all(now <= then + 2 * ASIDE for now, then in zip(after, before, strict=True)), (before, after)
    box.settled()


def running(box: Box) -> set[str]:
    """Command lines of the programs."""
    found = set()
    for row in box.ps().values():
        if row["phase"] != "running":
            return set()
        try:
            found.add(Path(f"/proc/{row['pid']}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip())
        except OSError:  # it has ended since
            return set()
    return found


def lost(agent: Agent) -> float:
    return agent.metric("stead_drift_total", kind="shim")


def all_run(box: Box) -> bool:
    return {row["phase"] for row in box.ps().values()} == {"running"}


def test_what_a_killed_shim_had_not_read_is_in_the_log_all_the_same(box: Box) -> None:
    """It is stopped, so that it cannot have read; no agent runs either."""
    waits = "while ! [ -e /data/go ]; do usleep 5000; done"
    said = f"echo before; {waits}; echo out; echo err >&2; echo > /data/said"
    (box.specs / "shop.toml").write_text(
        '[volume.data]\n[container.last]\nimage = "busy:1"\nvolumes = ["data:/data"]\n'
        f'command = ["sh", "-c", "{said}; sleep 1000"]\nstop_grace_period = "100ms"\n'
    )
    box.well("apply", str(box.specs))
    row, data = box.ps()["default/last"], box.paths.volumes / "default" / "data" / "_data"
    until(lambda: log(box, "last") == ["before"], "it begins")
    shim = state(box, row).shim_pid
    os.kill(shim, signal.SIGSTOP)
    (data / "go").touch()
    until((data / "said").exists, "it says the rest")
    assert log(box, "last") == ["before"]
    os.kill(shim, signal.SIGKILL)
    (data / "go").unlink()
    box.well("apply", str(box.specs))
    until(lambda: len(log(box, "last")) > 1, "it is started again")
    assert box.well("logs", "last").splitlines()[:4] == ["before", "out", "err", "before"]
    box.settled()
