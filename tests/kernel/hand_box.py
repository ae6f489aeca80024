"""A machine with an agent and a busybox image, on which people type commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.linux import cgroups, mounts
from runtime.local import LocalRuntime
from runtime.paths import Paths
from runtime.prepare import cgroup_path
from runtime.records import read_containers
from tests.kernel.docker_box import Said
from tests.kernel.engine_box import IMAGE, rootfs
from tests.kernel.node_box import PROGRAM, Node
from tests.kernel.shim_box import until

BUSYBOX = IMAGE.familiar
SETTINGS = """
[listen]
metrics = ""
[network]
pool = "10.213.0.0/16"
[[source]]
directory = "{specs}"
name = "shop"
"""


class Hand:
    """`run` and what it needs; `specs` is a directory that the agent follows."""

    def __init__(self, base: Path) -> None:
        self.paths = Paths(base / "root", base / "run")
        self.specs = base / "specs"
        self.agents: list[subprocess.Popen[bytes]] = []
        self.specs.mkdir()
        (base / "stead.toml").write_text(SETTINGS.format(specs=self.specs))
        with LocalRuntime(self.paths) as runtime:
            runtime.import_image(rootfs(base / "image"), IMAGE)

    def command(self, *words: str) -> list[str]:
        roots = ("--root", str(self.paths.root), "--run", str(self.paths.run))
        return [sys.executable, "-c", PROGRAM, *roots, *words]

    def popen(self, *words: str, **more: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command(*words), **more)

    def start_agent(self) -> None:
        settings = str(self.specs.parent / "stead.toml")
        with open(self.specs.parent / "agent.log", "ab") as log:
            self.agents.append(self.popen("agent", "--settings", settings, stderr=log))
        until(self.paths.agent_socket.exists)

    def end_agent(self, number: int = signal.SIGTERM) -> None:
        agent = self.agents.pop()
        agent.send_signal(number)
        agent.wait(30)
        self.paths.agent_socket.unlink(missing_ok=True)

    def run(self, *words: str, stdin: str = "") -> Said:
        return Node(self.paths).run(*words, stdin=stdin)

    def do(self, *words: str, code: int = 0, stdin: str = "") -> str:
        said = self.run(*words, stdin=stdin)
        assert said.code == code, (words, said)
        return said.out.strip() if code == 0 else said.errors.strip()

    def row(self, name: str) -> dict[str, Any]:
        rows = {row["name"]: row for row in json.loads(self.do("ps", "-a", "--json"))}
        return rows.get(name, {})

    def phase(self, name: str) -> str:
        return str(self.row(name).get("phase", "gone"))

    def names(self) -> set[str]:
        return {row["name"] for row in json.loads(self.do("ps", "-a", "--json"))}

    def home(self, id: str) -> Path:
        return self.paths.container(id)


@contextmanager
def hand(base: Path, *, agent: bool = True) -> Iterator[Hand]:
    """With nothing left of it afterwards."""
    made = Hand(base)
    if agent:
        made.start_agent()
    try:
        yield made
    finally:
        for path in made.specs.iterdir():
            path.unlink()
        while made.agents:
            made.end_agent()
        _clear(made)
        assert [mount.target for mount in mounts.table() if str(base) in mount.target] == []


def _clear(made: Hand) -> None:
    with LocalRuntime(made.paths) as runtime:
        ids = []
        for record in read_containers(runtime.database.read()):
            ids.append(record.id)
            runtime.containers.stop(record.name, timeout=0.0)
            runtime.remove_container(record.name)
        runtime.sweep()
        for network in runtime.fabric.networks():
            runtime.remove_network(network.name)
    assert os.listdir(made.paths.run / "containers") == []
    host = cgroups.detect()
    assert not [id for id in ids if host.exists(cgroup_path(id))]
