"""The agent as a service of systemd: whatever happens to it, containers and their output go on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.vm.machine import Node

pytestmark = [pytest.mark.root, pytest.mark.vm, pytest.mark.timeout(800, func_only=True)]

SAME = ("id", "pid", "started_at", "restarts")
UNIT = "/run/systemd/system/stead.service.d"


def lasting(node: Node) -> dict[str, list[Any]]:
    """What a container that nobody touched keeps."""
    return {name: [row[key] for key in SAME] for name, row in node.ps().items()}


def counts_without_a_gap(numbers: list[int]) -> bool:
    return numbers == list(range(numbers[0], numbers[0] + len(numbers)))


@pytest.fixture(autouse=True)
def unbroken(node: Node) -> Iterator[None]:
    """Containers and their output are the same before and after each test of this file."""
    node.settle()
    before, ticks, since = lasting(node), node.ticks(), node.now()
    yield
    node.settle()
    assert lasting(node) == before
    counted = len(ticks[-1])
    runs = node.until(lambda: len((found := node.ticks())[-1]) > counted and found, "tick goes on")
    assert len(runs) == len(ticks) and counts_without_a_gap(runs[-1])
    assert node.run("systemctl is-failed stead", code=None) != "failed\n"
    said = node.run(f"journalctl -b -u stead --no-pager -o cat --since '{since}'")
    assert "left-over process" not in said


def test_a_restart_of_the_service_touches_no_container(node: Node) -> None:
    agent = node.main_pid()
    at = node.run("date -u +%Y-%m-%dT%H:%M:%S+00:00").strip()
    node.run("systemctl restart stead")
    assert node.main_pid() != agent
    node.settle()
    lines = node.run(f"stead logs -t --since {at} tick").splitlines()
    assert lines[0][:19] >= at[:19] and lines == sorted(lines)
    assert counts_without_a_gap([int(line.split()[2]) for line in lines])


def test_containers_live_without_the_agent_and_are_found_again(node: Node) -> None:
    node.run("systemctl stop stead")
    assert "no agent runs" in node.run("stead status", code=1)
    assert set(node.phases().values()) == {"running"}
    assert node.run("curl -sf --max-time 20 http://127.0.0.1:8080/") == "well\n"
    assert node.run("stead exec tick id -u") == "0\n"
    node.run("systemctl start stead")


def test_the_death_of_the_agent_is_its_own(node: Node) -> None:
    agent = node.main_pid()
    node.run(f"kill -9 {agent}")
    node.until(lambda: node.main_pid() not in (0, agent), "systemd has started the agent again")


def test_an_agent_that_hangs_is_started_again_and_one_that_works_is_not(node: Node) -> None:
    """With a watchdog that is shorter than the unit's, so that the test is."""
    node.run(
        f"mkdir -p {UNIT} && printf '[Service]\\nWatchdogSec=8\\n' >{UNIT}/short.conf"
        " && systemctl daemon-reload && systemctl restart stead"
    )
    try:
        agent = node.main_pid()
        show = "systemctl show -p WatchdogTimestampMonotonic --value stead"
        first = int(node.run(show))
        node.until(lambda: int(node.run(show)) - first > 16e6, "it is fed for two of its periods")
        assert node.main_pid() == agent
        node.run(f"kill -STOP {agent}")
        node.until(lambda: node.main_pid() not in (0, agent), "systemd has started the agent again")
        assert "Watchdog timeout" in node.run("journalctl -b -u stead --no-pager -o cat -n 200")
    finally:
        node.run(f"rm {UNIT}/short.conf && systemctl daemon-reload")


def test_what_systemd_does_to_its_own_cgroups_leaves_containers_their_limits(node: Node) -> None:
    files = ["cpu.max", "memory.max", "cgroup.controllers"]
    before = node.cgroup(node.ps()["web"]["id"], *files)
    assert before[0] == "50000 100000" and {"cpu", "cpuset", "io"} <= set(before[2].split())
    node.run(
        "systemctl daemon-reload; systemd-run -q --wait -p CPUQuota=50% -p CPUWeight=20 -p IOWeight=50 true"
    )
    assert node.cgroup(node.ps()["web"]["id"], *files) == before
