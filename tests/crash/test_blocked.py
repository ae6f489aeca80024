"""What cannot be had blocks its own container, says why wherever one looks, and converges by itself later."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.agents import Agent
from tests.crash.box import Box, busybox, until
from tests.e2e.conftest import Node
from tests.kernel.images_box import Layout, LocalRegistry, file, layer

pytestmark = [
    pytest.mark.root,
    pytest.mark.registry,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
    pytest.mark.skipif(shutil.which("docker-registry") is None, reason="needs docker-registry"),
    pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo"),
]

SLEEP = 'command = ["/bin/sleep", "10000"]\nstop_grace_period = "100ms"\n'
#: failures that need a person are tried again after 5 s, 10 s, ...
PATIENCE = 120.0


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[LocalRegistry]:
    running = LocalRegistry(tmp_path / "registry")
    yield running
    running.stop()


def image_layer(base: Path) -> bytes:
    """Busybox as an uncompressed layer."""
    root = busybox(base)
    done = subprocess.run(["tar", "-C", str(root), "-cf", "-", "."], check=True, capture_output=True)
    return done.stdout


def test_each_is_blocked_for_its_own_reason_and_converges_when_that_is_gone(
    box: Box, agent: Agent, registry: LocalRegistry, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image([image_layer(tmp_path / "rootfs")], tag="good")
    layout.image([layer(file("bin/sh", "x"), file("../../etc/shadow", "mine"))], tag="evil")
    registry.push(layout.path, "evil", "evil:1")
    closed, taken = Node.free_port(), socket.create_server(("127.0.0.1", 0))
    request.addfinalizer(taken.close)
    missing, port = tmp_path / "missing", taken.getsockname()[1]
    (box.specs / "shop.toml").write_text(
        f"""
[container.well]
image = "busy:1"
{SLEEP}
[image.absent]
from = "{registry.address}/absent:1"
[container.absent]
image = "absent"
{SLEEP}
[image.closed]
from = "127.0.0.1:{closed}/closed:1"
[container.closed]
image = "closed"
{SLEEP}
[image.evil]
from = "{registry.address}/evil:1"
[container.evil]
image = "evil"
{SLEEP}
[container.port]
image = "busy:1"
ports = ["127.0.0.1:{port}:80"]
{SLEEP}
[container.bind]
image = "busy:1"
volumes = [{{ type = "bind", source = "{missing}", target = "/data" }}]
{SLEEP}
"""
    )
    expected = {
        "absent": ("image-not-found", "absent:1"),
        "closed": ("registry-unreachable", f"127.0.0.1:{closed}"),
        "evil": ("layer-invalid", "../../etc/shadow"),
        "port": ("port-taken", f"port {port}/tcp is used by"),
        "bind": ("mount-source-missing", str(missing)),
    }
    agent.start()
    told = agent.until_blocked(*(f"default/{name}" for name in expected))
    for found, (name, (code, text)) in zip(told, expected.items(), strict=True):
        assert found["code"] == code and text in found["reason"], found
        assert text in box.well("explain", name)
        labels = {"kind": "container", "code": code}
        until(lambda labels=labels: agent.metric("stead_blocked", **labels) == 1, "it is counted")  # type: ignore[misc]
    assert box.ps()["default/well"]["phase"] == "running"
    until(lambda: agent.status()["state"] == "blocked", "between two tries it is blocked")

    registry.push(layout.path, "good", "absent:1")
    other = LocalRegistry(tmp_path / "other", port=closed)
    other.push(layout.path, "good", "closed:1")
    registry.push(layout.path, "good", "evil:1")
    taken.close()
    missing.mkdir()
    try:
        until(agent.converged, "all converge by themselves", PATIENCE)
    finally:
        other.stop()
    assert {row["phase"] for row in box.ps().values()} == {"running"}
    assert agent.metric("stead_blocked") == 0
    box.settled()
    layers = os.listdir(box.paths.layers)
    assert [name for name in layers if name.startswith(".")] == []


def test_two_sources_may_want_one_port_and_the_second_waits_for_the_first(box: Box, agent: Agent) -> None:
    port = Node.free_port()
    other = box.base / "other"
    other.mkdir()
    published = 'image = "busy:1"\ncommand = ["httpd", "-f", "-p", "80", "-h", "/www"]\n'
    published += f'ports = ["127.0.0.1:{port}:80"]\nstop_grace_period = "100ms"\n'
    (box.specs / "a.toml").write_text(f"[container.first]\n{published}")
    (other / "b.toml").write_text(f'project = "other"\n[container.second]\n{published}')
    agent.start()
    until(agent.converged, "the first runs")
    agent.end()
    with agent.settings.open("a") as file:
        file.write(f'[[source]]\nname = "other"\ndirectory = "{other}"\n')
    agent.start()
    (found,) = agent.until_blocked("other/second")
    assert found["code"] == "port-taken" and "used by container default/first" in found["reason"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
        assert answer.read() == b"well\n"
    (box.specs / "a.toml").write_text("")
    until(agent.converged, "the second takes the port", PATIENCE)
    assert box.ps()["other/second"]["phase"] == "running"
    (other / "b.toml").write_text("")
    until(lambda: not box.ps(), "the second goes")
