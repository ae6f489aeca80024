"""Effects: docker and podman in namespaces and directories of their own, driven by their command lines.

dockerd runs unmodified in a network and mount namespace that is made for it; podman's commands are run in
another one. Both use the cgroupfs driver, since cgroups of a machine without systemd have no other.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

IMAGE = "bench/busybox:1"
START = 60.0


class Unavailable(Exception):
    """The engine is not installed, or does not start here; the text says which."""


class Engine:
    """What both have in common: a prefix before every command, an environment, a supervisor a container."""

    name = ""
    options: tuple[str, ...] = ()  # of every run
    at_once: tuple[str, ...] = ()  # of every rm: do not wait for a program that takes no notice of SIGTERM
    plain_http: tuple[str, ...] = ()  # of every pull from a registry without TLS
    supervisor = ""  # comm of the process that stays beside each container

    def __init__(self, base: Path, run: Path | None = None) -> None:
        self.base, self.state = base, run or base  # what stays over a reboot, and what does not
        self.environment = dict(os.environ)
        self.prefix: list[str] = []
        self._holder: subprocess.Popen[bytes] | None = None

    def command(self, *words: str) -> list[str]:
        return [*self.prefix, *words]

    def call(self, *words: str) -> str:
        done = subprocess.run(
            self.command(*words), env=self.environment, capture_output=True, text=True, timeout=300
        )
        if done.returncode:
            raise Unavailable(f"{self.name} {' '.join(words[:2])}: {done.stderr.strip()[-300:]}")
        return done.stdout.strip()

    def run(self, name: str, *options: str) -> float:
        """Seconds that `run -d` takes."""
        begin = time.perf_counter()
        self.call("run", "-d", "--name", name, *self.options, *options, IMAGE, "sleep", "100000")
        return time.perf_counter() - begin

    def run_script(self, name: str, script: str, *options: str) -> None:
        self.call("run", "-d", "--name", name, *self.options, *options, IMAGE, "sh", "-c", script)

    @property
    def entering(self) -> list[str]:
        """Before a command that is to see the engine's own network."""
        assert self._holder is not None
        return ["nsenter", "-t", str(self._holder.pid), "-n"]

    def remove(self, names: Sequence[str]) -> None:
        if names:
            self.call("rm", "-f", *self.at_once, *names)

    def pid(self, name: str) -> int:
        return int(self.call("inspect", "-f", "{{.State.Pid}}", name))

    def close(self) -> None:
        if self._holder is not None:
            self._holder.terminate()
            self._holder.wait(60)

    def _hold(self, *command: str, log: Path) -> None:
        with log.open("wb") as out:
            self._holder = subprocess.Popen(
                ["unshare", "-n", "-m", "--propagation", "private", *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )


class Docker(Engine):
    name, supervisor = "docker", "containerd-shim"

    def __init__(self, base: Path, image: Path, run: Path | None = None) -> None:
        super().__init__(base, run)
        for program in ("dockerd", "docker", "containerd", "runc", "iptables"):
            if shutil.which(program) is None:
                raise Unavailable(f"docker: {program} is not installed")
        base.mkdir(parents=True)
        self.environment["DOCKER_HOST"] = f"unix://{base}/docker.sock"
        self.prefix = ["docker"]
        daemon = ["dockerd", "-H", self.environment["DOCKER_HOST"], "--data-root", f"{base}/data"]
        daemon += ["--exec-root", f"{self.state}/exec", "--pidfile", f"{base}/pid"]
        daemon += ["--exec-opt", "native.cgroupdriver=cgroupfs", "--config-file", f"{base}/none.json"]
        (base / "none.json").write_text("{}")
        self._hold(*daemon, log=base / "log")
        deadline = time.monotonic() + START
        while not (base / "docker.sock").exists() or self._fails("info"):
            assert self._holder is not None
            if time.monotonic() > deadline or self._holder.poll() is not None:
                raise Unavailable(f"docker: dockerd does not start: {(base / 'log').read_text()[-400:]}")
            time.sleep(0.2)
        self.call("import", str(image), IMAGE)

    def _fails(self, *words: str) -> bool:
        try:
            self.call(*words)
        except Unavailable:
            return True
        return False


class Podman(Engine):
    name, supervisor = "podman", "conmon"
    at_once = ("--time", "0")
    plain_http = ("--tls-verify=false",)
    options = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096")  # its own need CAP_SYS_RESOURCE

    def __init__(self, base: Path, image: Path, run: Path | None = None) -> None:
        super().__init__(base, run)
        for program in ("podman", "conmon", "runc"):
            if shutil.which(program) is None:
                raise Unavailable(f"podman: {program} is not installed")
        base.mkdir(parents=True)
        self._hold("sleep", "100000", log=base / "log")
        assert self._holder is not None
        time.sleep(0.2)  # unshare(1) says nothing when it is done
        self.prefix = ["nsenter", "-t", str(self._holder.pid), "-n", "-m", "podman"]
        self.prefix += ["--root", f"{base}/root", "--runroot", f"{self.state}/run"]
        self.prefix += ["--tmpdir", f"{self.state}/tmp"]
        self.prefix += ["--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]
        self.prefix += ["--network-config-dir", f"{base}/networks"]
        self.call("import", str(image), IMAGE)

    def close(self) -> None:
        """Its containers are nobody's children: they would outlive an interrupted run."""
        self.call("rm", "--all", "--force", "--time", "0")
        super().close()
