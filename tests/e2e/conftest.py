"""A state directory driven by the command `stead`, with a busybox image in it; for the tests of this
folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.linux import mounts
from tests import ports

DEADLINE = 30.0


class Node:
    """One state directory with a directory of specs, driven by the command `stead`."""

    def __init__(self, base: Path) -> None:
        self.base, self.specs = base, base / "shop"
        self.specs.mkdir()
        self.port = self.free_port()

    free_port = staticmethod(ports.free_port)

    def command(self, *words: str) -> list[str]:
        command = [sys.executable, "-c", "from agent.cli.main import entry; entry()"]
        return [*command, "--root", str(self.base / "root"), "--run", str(self.base / "run"), *words]

    def stead(self, *words: str, code: int | None = 0) -> str:
        done = subprocess.run(self.command(*words), capture_output=True, text=True, timeout=60)
        if code is not None:
            assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def ps(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in json.loads(self.stead("ps", "--json"))}

    def phases(self) -> dict[str, str]:
        return {name: row["phase"] for name, row in self.ps().items()}

    def write(self, **variables: str) -> None:
        environment = ", ".join(f'{key} = "{value}"' for key, value in variables.items())
        (self.specs / "shop.toml").write_text(
            f"""
[container.web]
image = "busy:1"
command = ["httpd", "-f", "-p", "80", "-h", "/www"]
ports = ["127.0.0.1:{self.port}:80"]
environment = {{ {environment} }}
memory = "64MiB"
stop_grace_period = "100ms"
healthcheck = {{ http = "http://:80/", interval = "200ms" }}

[container.idle]
image = "busy:1"
command = ["sh", "-c", "trap 'exit 0' TERM; echo begun; while true; do sleep 0.1; done"]
"""
        )

    def page(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=30) as answer:
            text: str = answer.read().decode()
            return text

    def answers(self) -> bool:
        """A program that was started anew listens a moment later."""
        try:
            return self.page() == "well\n"
        except OSError:
            return False


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    binary = shutil.which("busybox")
    if binary is None or subprocess.run(["ldd", binary], capture_output=True).returncode == 0:
        pytest.skip("needs Debian's busybox-static")
    node = Node(tmp_path)
    root = tmp_path / "image"
    for name in ("bin", "www", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy2(binary, root / "bin" / "busybox")
    for name in ("sh", "httpd", "sleep", "cat", "env", "ls"):
        (root / "bin" / name).symlink_to("busybox")
    (root / "www" / "index.html").write_text("well\n")
    node.stead("image", "import", str(root), "busy:1")
    yield node
    node.stead("down", str(node.specs), "--volumes")
    mounted = [mount.target for mount in mounts.table() if str(tmp_path) in mount.target]
    assert mounted == []
    assert os.listdir(tmp_path / "run" / "containers") == []


def until(condition: Callable[[], bool]) -> float:
    """Seconds until it held."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < DEADLINE
        time.sleep(0.005)  # between two looks
    return time.monotonic() - begin
