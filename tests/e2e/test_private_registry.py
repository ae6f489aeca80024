"""Images in specs from a registry that wants to know who asks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Node, until
from tests.e2e.test_agent import Agent
from tests.kernel.images_box import LocalRegistry, needs_registry
from tests.kernel.test_login import USERS

pytestmark = [
    pytest.mark.root,
    pytest.mark.registry,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
    needs_registry,
]


@pytest.fixture
def registry(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalRegistry]:
    """It has the image private:1. Nobody is logged in afterwards."""
    (tmp_path / "htpasswd").write_text(USERS)
    made = LocalRegistry(tmp_path / "registry", htpasswd=tmp_path / "htpasswd")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    (tmp_path / "elsewhere").mkdir()
    other = Node(tmp_path / "elsewhere")
    other.stead("image", "import", str(tmp_path / "image"), f"{made.address}/private:1")
    log_in(made.address)
    other.stead("image", "push", "-q", f"{made.address}/private:1")
    other.stead("logout", made.address)
    yield made
    made.stop()


def log_in(address: str) -> None:
    program = "from agent.cli.main import main; raise SystemExit(main())"
    command = [sys.executable, "-c", program, "login", "-u", "me", "--password-stdin", address]
    subprocess.run(command, input=b"secret\n", check=True, capture_output=True)


def test_a_login_brings_what_an_agent_was_denied(node: Node, registry: LocalRegistry) -> None:
    (node.specs / "app.toml").write_text(
        f'[container.app]\nimage = "{registry.address}/private:1"\nnetwork_mode = "none"\n'
        """command = ["sh", "-c", "trap 'exit 0' TERM; while true; do sleep 0.1; done"]\n"""
    )
    agent = Agent(node)
    agent.push()
    agent.start()
    try:
        until(lambda: "wants credentials" in node.stead("status", code=None))
        said = node.stead("status", code=None) + node.stead("explain", "app", code=None)
        assert f"stead login {registry.address}" in said and "secret" not in said
        log_in(registry.address)
        until(lambda: node.phases().get("default/app") == "running")
        assert "secret" not in node.stead("history") + node.stead("explain", "app")
    finally:
        agent.end()
