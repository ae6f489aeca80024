"""Containers that depend on others, on a real machine: they follow once, and in order."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.crash.agents import Agent
from tests.crash.box import Box, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]

SLEEPER = 'image = "busy:1"\ncommand = ["sleep", "10000"]\nstop_grace_period = "100ms"\n'
SHOP = f"""
[container.init]
image = "busy:1"
command = ["sh", "-c", "echo once >> /data/log"]
restart = "on-failure"
volumes = ["data:/data"]

[container.db]
{SLEEPER}depends_on = {{ init = "completed" }}

[container.web]
{SLEEPER}depends_on = {{ db = {{ restart = true }} }}

[container.proxy]
{SLEEPER}depends_on = {{ web = {{ restart = true }} }}

[container.aside]
{SLEEPER}depends_on = ["db"]

[container.joined]
{SLEEPER}network_mode = "container:db"

[container.inside]
{SLEEPER}pid = "container:db"

[volume.data]
prune = true
"""


STOPPED = f"""
[container.init]
image = "busy:1"
command = ["sh", "-c", "trap 'exit 0' TERM; while :; do usleep 20000; done"]
restart = "on-failure"
healthcheck = {{ test = "false", interval = "100ms", retries = 1, on_failure = "stop" }}

[container.web]
{SLEEPER}depends_on = {{ init = "completed" }}
"""


def rows(box: Box) -> dict[str, dict[str, Any]]:
    return {name.removeprefix("default/"): row for name, row in box.ps().items()}


def spread(box: Box, text: str) -> None:
    (box.specs / "shop.toml").write_text(text)


def runs_in(pid: int, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def test_who_depends_on_what_was_started_anew_follows_once(box: Box, agent: Agent) -> None:
    spread(box, SHOP)
    agent.start()
    until(agent.converged, "all of it runs")
    before = rows(box)
    assert before["init"]["phase"] == "exited" and before["init"]["exit_code"] == 0

    os.kill(before["db"]["pid"], signal.SIGKILL)
    until(lambda: rows(box)["db"]["restarts"] == 1, "its shim restarts it")
    until(lambda: rows(box)["proxy"]["pid"] not in (0, before["proxy"]["pid"]), "the last one follows")
    assert agent.metric("stead_container_restarts_total", name="default/inside") == 1, "not for its tries"
    assert nobody_is_at_fault(agent)
    until(agent.converged, "the agent has nothing to do")
    after = rows(box)
    assert after["web"]["pid"] != before["web"]["pid"], "it says restart"
    assert after["aside"] == before["aside"] and after["init"] == before["init"]
    assert runs_in(after["joined"]["pid"], "net") == runs_in(after["db"]["pid"], "net")
    assert runs_in(after["inside"]["pid"], "pid") == runs_in(after["db"]["pid"], "pid")
    assert after["joined"]["pid"] == before["joined"]["pid"], "a network outlives a run of its owner"
    starts = actions(box)
    assert starts.count("stop container default/web") == starts.count("stop container default/proxy") == 1

    spread(box, SHOP.replace("[container.db]\n", '[container.db]\nenvironment = { NEW = "1" }\n'))
    until(lambda: rows(box).get("db", after["db"])["id"] != after["db"]["id"], "the database is replaced")
    until(lambda: actions(box).count("stop container default/proxy") == 2, "the last one follows")
    assert nobody_is_at_fault(agent)
    until(agent.converged, "the agent has nothing to do")
    again = rows(box)
    assert again["aside"] == after["aside"] and again["init"] == after["init"], "nothing else was touched"
    for name, kind in (("joined", "net"), ("inside", "pid")):
        assert again[name]["phase"] == "running"
        assert runs_in(again[name]["pid"], kind) == runs_in(again["db"]["pid"], kind), name
    done = actions(box)
    assert [done.count(f"stop container default/{name}") for name in ("web", "proxy", "aside")] == [2, 2, 0]
    assert done.count("start container default/joined") == 2, "built anew with its owner, and not twice"
    (log,) = (box.paths.root / "volumes").glob("*/data/**/log")
    assert Path(log).read_text() == "once\n", "what has completed is not run again"
    agent.end()
    box.settled()


def test_what_its_probe_stopped_has_not_completed(box: Box, agent: Agent) -> None:
    """Also where its program, told to end, ends with 0."""
    spread(box, STOPPED)
    agent.start()
    agent.until_blocked("default/web")
    until(lambda: rows(box)["init"]["phase"] == "exited", "its probe stops it")
    until(lambda: "its probe failed" in agent.blocked("default/web").get("reason", ""), "it is said")
    (web,) = agent.until_blocked("default/web")
    assert rows(box)["init"]["exit_code"] == 0 and rows(box)["web"]["phase"] == "created"
    reason = "waits for container default/init to be completed: it was stopped because its probe failed"
    assert (web["reason"], web["code"]) == (reason, "dependency-failed")
    agent.end()


def nobody_is_at_fault(agent: Agent) -> bool:
    return all(item["code"] != "rollout-failed" for item in agent.status()["blocked"])


def actions(box: Box) -> list[str]:
    """Every step that was done, oldest first."""
    from agent.journal import read_actions

    found = read_actions(box.paths.journal, limit=1000)
    return [f"{entry.verb} {entry.kind} {entry.name}" for entry in reversed(found)]
