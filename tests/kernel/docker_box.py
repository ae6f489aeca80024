"""Docker beside us, as the measure of what its users expect. dockerd runs in namespaces of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

START = 60.0  # seconds that dockerd may take
needs_docker = pytest.mark.skipif(
    not all(map(shutil.which, ("dockerd", "docker", "containerd"))), reason="needs dockerd and docker"
)


@dataclass(frozen=True)
class Said:
    """How a command ended and what it printed."""

    code: int
    out: str
    errors: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


@dataclass(frozen=True)
class Docker:
    host: str
    pid: int = 0  # of the daemon

    def inside(self, *words: str) -> list[str]:
        """The command in the daemon's network namespace."""
        return ["nsenter", "-t", str(self.pid), "-n", *words]

    def run(self, *words: str) -> Said:
        done = subprocess.run(
            ["docker", *words],
            env={**os.environ, "DOCKER_HOST": self.host},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def well(self, *words: str) -> str:
        said = self.run(*words)
        assert said.code == 0, said.errors
        return said.out.strip()


@contextlib.contextmanager
def docker(base: Path, *more: str) -> Iterator[Docker]:
    """A daemon without a network, gone afterwards; `more` options of dockerd."""
    base.mkdir(parents=True)
    (base / "none.json").write_text("{}")
    host = f"unix://{base}/docker.sock"
    command = ["unshare", "-n", "-m", "--propagation", "private", "dockerd", "-H", host]
    command += ["--data-root", f"{base}/data", "--exec-root", f"{base}/exec", "--pidfile", f"{base}/pid"]
    command += ["--config-file", f"{base}/none.json", "--exec-opt", "native.cgroupdriver=cgroupfs"]
    command += ["--iptables=false", "--ip6tables=false", "--bridge=none", *more]
    with (base / "log").open("wb") as log:
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    made = Docker(host, daemon.pid)
    try:
        deadline = time.monotonic() + START
        while not (base / "docker.sock").exists() or made.run("info").code:
            if daemon.poll() is not None or time.monotonic() > deadline:
                pytest.skip(f"dockerd does not start here: {(base / 'log').read_text()[-300:]}")
            time.sleep(0.1)
        yield made
    finally:
        daemon.terminate()
        daemon.wait(60)
        subprocess.run(["rm", "-rf", str(base)], check=True)
