"""Files of a repository that containers have mounted: a commit reaches them while they run."""

from __future__ import annotations

from tests.e2e.conftest import Node, until
from tests.e2e.test_agent import Agent, agent, pytestmark

__all__ = ["agent", "pytestmark"]


def test_a_mounted_directory_of_a_repository_follows_its_commits(node: Node, agent: Agent) -> None:
    (node.specs / "www").mkdir()
    (node.specs / "web.toml").write_text(
        """
[container.web]
image = "busy:1"
command = ["sleep", "100000"]
volumes = ["./www:/data", "./www/index.html:/index.html:ro"]
stop_grace_period = "100ms"
"""
    )

    def publish(text: str) -> None:
        (node.specs / "www/index.html").write_text(text)
        agent.push()

    publish("one")
    agent.start()
    until(agent.converged)
    before = node.ps()
    node.stead("exec", "web", "sh", "-c", "echo mine >/data/own")
    for text in ("two", "three", "four"):
        publish(text)
        until(lambda text=text: node.stead("exec", "web", "cat", "/data/index.html") == text)  # type: ignore[misc]
    assert node.stead("exec", "web", "cat", "/data/own") == "mine\n"
    assert node.ps() == before
