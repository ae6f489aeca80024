"""What people do by hand to what a source declares, while an agent runs and while none does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Node, until
from tests.e2e.test_agent import Agent

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]


@pytest.fixture
def agent(node: Node) -> Iterator[Agent]:
    made = Agent(node)
    node.write(COLOR="blue")
    made.push()
    made.start()
    until(made.converged)
    yield made
    made.end()


def test_what_was_paused_stays_so_over_agents_and_specs_and_what_happened_is_told(agent: Agent) -> None:
    node = agent.node
    assert node.stead("pause", "idle") == "idle\n"
    pid = node.ps()["default/idle"]["pid"]
    until(lambda: agent.status()["containers"]["default/idle"] == "paused")
    assert agent.status()["state"] == "converged"
    agent.end(signal.SIGKILL)
    agent.start()
    until(agent.converged)
    (note,) = [item for item in agent.status()["blocked"] if item["code"] == "paused"]
    assert note["name"] == "default/idle" and "stead unpause default/idle" in note["reason"]
    text = (node.specs / "shop.toml").read_text()
    (node.specs / "shop.toml").write_text(text.replace("echo begun", "echo anew"))
    agent.push()
    until(lambda: agent.status()["sources"][0]["revision"] == agent.head() and agent.converged())
    assert node.phases()["default/idle"] == "paused" and node.ps()["default/idle"]["pid"] == pid
    assert "cannot update container default/web" in (said := node.stead("update", "-m", "1g", "web", code=1))
    assert "change it there: shop.toml:2" in said
    node.stead("unpause", "idle")
    until(lambda: "anew" in node.stead("logs", "idle", code=None))
    until(agent.converged)

    # what happens while no agent lives is told with its own time
    form = "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}"
    ended = ["container die default/idle", "container start default/idle"]
    words = node.command(
        "events", "--format", form, "--since", str(time.time()), "-f", "container=default/idle"
    )
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        agent.end(signal.SIGKILL)
        os.kill(int(node.ps()["default/idle"]["pid"]), signal.SIGKILL)
        assert [follower.stdout.readline().strip() for _ in range(2)] == ended
        follower.terminate()
    agent.start()
    until(agent.converged)
    told = node.stead("events", "--since", "10m", "--until", "0s", "--format", form).splitlines()
    idle = [line for line in told if line.startswith("container") and line.endswith(" default/idle")]
    assert [line.split()[1] for line in idle[:3]] == ["create", "start", "pause"] and idle[-2:] == ended
    assert {"agent revision accepted shop", "agent step start default/idle"} <= set(told)
    assert "container health_status: healthy default/web" in told


def test_the_name_of_a_service_means_its_replicas(agent: Agent) -> None:
    node = agent.node
    text = (node.specs / "shop.toml").read_text()
    (node.specs / "shop.toml").write_text(text.replace("[container.idle]", "[container.idle]\nreplicas = 3"))
    agent.push()
    until(lambda: agent.status()["sources"][0]["revision"] == agent.head() and agent.converged())
    names = [f"default/idle-{number}" for number in (1, 2, 3)]
    assert node.stead("stop", "idle", "web").splitlines() == [*names, "web"]
    until(lambda: [node.phases().get(name) for name in names] == ["stopped"] * 3)
    assert node.stead("stop", "idle-1", "nobody", code=1).startswith("idle-1\n")
    assert node.stead("start", "default/idle", "web").splitlines() == [*names, "web"]
    until(lambda: [node.phases().get(name) for name in names] == ["running"] * 3)
    until(agent.converged)
