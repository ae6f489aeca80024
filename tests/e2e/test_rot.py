"""What `stead image verify` set aside comes back by the agent, and containers run on what is right again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Node, until
from tests.kernel.images_box import LocalRegistry, needs_registry

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]


@pytest.fixture
def registry(node: Node) -> Iterator[LocalRegistry]:
    """With the node's image as shop/busy:1, under which name it is used."""
    running = LocalRegistry(node.base / "registry")
    name = f"{running.address}/shop/busy:1"
    node.stead("image", "tag", "busy:1", name)
    node.stead("image", "push", name)
    node.stead("image", "rm", "busy:1", name)
    yield running
    running.stop()


@pytest.fixture
def agent(node: Node) -> Iterator[None]:
    settings = node.base / "stead.toml"
    settings.write_text(f'[[source]]\nname = "shop"\ndirectory = "{node.specs}"\n[listen]\nmetrics = ""\n')
    command = [sys.executable, "-c", "from agent.cli.main import main; raise SystemExit(main())"]
    command += ["--root", str(node.base / "root"), "--run", str(node.base / "run"), "agent"]
    with (node.base / "agent.log").open("wb") as log:
        process = subprocess.Popen([*command, "--settings", str(settings)], stderr=log)
    yield
    process.send_signal(signal.SIGTERM)
    process.wait(30)


def spoil(path: Path) -> None:
    """Other bytes of the same number."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@needs_registry
@pytest.mark.parametrize("archive", [False, True], ids=["layer", "layer and archive"])
def test_the_agent_brings_back_what_rotted_and_starts_containers_anew(
    node: Node, registry: LocalRegistry, agent: None, archive: bool
) -> None:
    image = f"{registry.address}/shop/busy:1"
    (node.specs / "shop.toml").write_text(
        f'[image.busy]\nfrom = "{image}"\n[container.web]\nimage = "{image}"\n'
        'command = ["sh", "-c", "cat /www/index.html; sleep 1000"]\nstop_grace_period = "100ms"\n'
    )
    until(lambda: node.phases().get("default/web") == "running")
    root = node.base / "root"
    (page,) = root.glob("layers/*/www/index.html")
    spoil(page)
    said = node.stead("image", "verify", "--dry-run", code=1)
    assert f"{page}: its content differs" in said
    if archive:
        largest = max((root / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
        spoil(largest)
        for layer in root.glob("layers/*"):
            shutil.rmtree(layer)
    before = node.ps()["default/web"]["pid"]
    node.stead("image", "verify", code=1)
    until(lambda: page.exists() and page.read_text() == "well\n")
    until(lambda: any(row["phase"] == "running" and row["pid"] != before for row in node.ps().values()))
    assert node.stead("logs", "default/web").splitlines()[-1] == "well"
    assert "all well" in node.stead("image", "verify")
