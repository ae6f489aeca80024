"""The agent on a git repository: a pushed commit deploys, a bad one changes nothing, its death
disturbs no one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Node, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]


class Agent:
    """`stead agent` on a bare repository to which the specs of the node are pushed."""

    def __init__(self, node: Node) -> None:
        self.node, self.bare = node, node.base / "shop.git"
        self.git(node.base, "init", "-q", "--bare", "-b", "main", str(self.bare))
        self.git(node.specs, "init", "-q", "-b", "main")
        self.settings = node.base / "stead.toml"
        self.metrics = node.free_port()
        self.settings.write_text(
            f'[[source]]\nname = "shop"\ngit = "{self.bare}"\ninterval = "200ms"\n'
            f'[listen]\nmetrics = "127.0.0.1:{self.metrics}"\n'
        )
        self.log = node.base / "agent.log"
        self.process: subprocess.Popen[bytes] | None = None

    def git(self, where: Path, *words: str) -> None:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", str(where), *who, *words], check=True, capture_output=True)

    def push(self) -> None:
        self.git(self.node.specs, "add", "-A")
        self.git(self.node.specs, "commit", "-q", "-m", "change")
        self.git(self.node.specs, "push", "-q", str(self.bare), "main")

    def head(self) -> str:
        command = ["git", "-C", str(self.bare), "rev-parse", "main"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def start(self) -> None:
        command = [sys.executable, "-c", "from agent.cli.main import main; raise SystemExit(main())"]
        command += ["--root", str(self.node.base / "root"), "--run", str(self.node.base / "run")]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*command, "agent", "--settings", str(self.settings)], stderr=log)

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(30)
            self.process = None

    def status(self) -> dict[str, Any]:
        assert self.process is None or self.process.poll() is None, self.log.read_text()
        text = self.node.stead("status", "--json", code=None)
        if text.startswith("{"):
            return dict(json.loads(text))
        sources = [{"revision": "", "errors": []}]  # while it starts, or does not answer in time
        return {"state": "", "sources": sources, "blocked": [], "containers": {}}

    def converged(self) -> bool:
        found = self.status()
        return found["state"] == "converged" and bool(found["sources"][0]["revision"])


@pytest.fixture
def agent(node: Node) -> Iterator[Agent]:
    agent = Agent(node)
    yield agent
    agent.end()


def test_commits_deploy_and_a_bad_one_changes_nothing(node: Node, agent: Agent) -> None:
    node.write(MODE="one")
    agent.push()
    agent.start()
    until(lambda: node.phases() == {"default/web": "running", "default/idle": "running"})
    until(agent.converged)
    assert node.page() == "well\n"
    first = node.ps()

    node.write(MODE="two")
    agent.push()
    until(lambda: node.ps().get("default/web", first["default/web"])["id"] != first["default/web"]["id"])
    until(lambda: agent.converged() and node.ps()["default/web"]["health"] == "healthy")
    second = node.ps()
    assert second["default/idle"] == first["default/idle"]

    (node.specs / "bad.toml").write_text("[container.x]\nimagee = 1\n")
    agent.push()
    until(lambda: bool(agent.status()["sources"][0]["errors"]))
    assert "bad.toml:2:1" in node.stead("status", code=1)
    assert node.ps() == second


def test_the_agents_death_disturbs_no_container(node: Node, agent: Agent) -> None:
    node.write(MODE="one")
    agent.push()
    agent.start()
    until(agent.converged)
    before = node.ps()
    agent.end(signal.SIGKILL)
    os.kill(int(before["default/idle"]["pid"]), signal.SIGKILL)
    until(lambda: node.ps()["default/idle"]["restarts"] == 1)
    agent.start()
    until(agent.converged)
    after = node.ps()
    for key in ("id", "pid", "started_at", "restarts"):
        assert after["default/web"][key] == before["default/web"][key]
    assert after["default/idle"]["restarts"] == 1
    assert node.stead("logs", "idle").count("begun") == 2
    assert "no agent runs" not in node.stead("status")


def test_apply_says_that_an_agent_holds_the_root(node: Node, agent: Agent) -> None:
    node.write(MODE="one")
    agent.push()
    agent.start()
    until(agent.converged)
    assert "agent" in node.stead("apply", str(node.specs), code=1)
    agent.end()
    assert "no agent runs" in node.stead("status", code=1)


def test_metrics_tell_of_containers_in_cadvisors_words(node: Node, agent: Agent) -> None:
    node.write(MODE="one")
    agent.push()
    agent.start()
    until(agent.converged)

    def scrape() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{agent.metrics}/metrics", timeout=5) as answer:
            text: str = answer.read().decode()
            return text

    until(lambda: "container_memory_working_set_bytes{" in scrape())
    text = scrape()
    assert 'stead_objects{kind="container",state="running"} 2.0' in text
    assert 'name="default/web"' in text and "stead_source_info{" in text
    if promtool := shutil.which("promtool"):
        subprocess.run([promtool, "check", "metrics"], input=text.encode(), check=True)


def test_a_taken_address_for_metrics_ends_the_agent_with_a_line_that_says_so(agent: Agent) -> None:
    with socket.create_server(("127.0.0.1", agent.metrics)):
        agent.start()
        assert agent.process is not None
        assert agent.process.wait(30) == 1
        agent.process = None
    text = agent.log.read_text()
    assert f"cannot listen on 127.0.0.1:{agent.metrics}: address already in use" in text
    assert "Traceback" not in text
