"""Effects: Stead with state of its own: in this process, and as an agent in another one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from agent import process
from runtime.local import LocalRuntime
from runtime.paths import Paths
from runtime.wishes import Attachment, ContainerRequest, NetworkRequest
from specs.values import ImageRef

IMAGE = "bench/busybox:1"
NETWORK = "bench/default"
COMMAND = [sys.executable, "-c", "from agent.cli.main import entry; entry()"]


class Stead:
    """One root and run directory with the image in it."""

    def __init__(self, base: Path, rootfs: Path, run: Path | None = None) -> None:
        self.base, self.paths = base, Paths(base / "root", run or base / "run")
        self.specs = base / "bench"
        self.specs.mkdir(parents=True)
        self._agent: subprocess.Popen[bytes] | None = None
        with LocalRuntime(self.paths) as runtime:
            runtime.import_image(rootfs, ImageRef.parse(IMAGE))

    def open(self, *, stays: bool = False) -> LocalRuntime:
        """In this process, as the agent has it; `stays`: with places for containers to come, too."""
        runtime = LocalRuntime(self.paths, stays=stays)
        runtime.create_network(NetworkRequest(NETWORK, "bench", "f"))
        process.settle()
        return runtime

    @staticmethod
    def request(name: str) -> ContainerRequest:
        return ContainerRequest(
            name=f"bench/{name}",
            source="bench",
            identity="i",
            adjustable="a",
            facets="{}",
            image=ImageRef.parse(IMAGE),
            command=("sleep", "100000"),
            networks=(Attachment(NETWORK),),
            stop_grace_period=0.1,
        )

    # ------------------------------------------------------------ specs, agent

    def declare(self, count: int) -> None:
        """One file with so many containers, in one rename as editors do it."""
        lines = []
        for number in range(count):
            lines.append(f'[container.c{number}]\nimage = "{IMAGE}"\ncommand = ["sleep", "100000"]')
            lines.append('stop_grace_period = "100ms"\n')
        (self.specs / ".new").write_text("\n".join(lines))
        os.replace(self.specs / ".new", self.specs / "bench.toml")

    def start_agent(self) -> int:
        settings = self.base / "stead.toml"
        settings.write_text(
            f'[[source]]\nname = "bench"\ndirectory = "{self.specs}"\n'
            '[listen]\nmetrics = ""\n[guard]\nremovals = 100\n'
        )
        with (self.base / "agent.log").open("ab") as log:
            self._agent = subprocess.Popen([*self.words("agent"), "--settings", str(settings)], stderr=log)
        until(lambda: self.status().get("state") == "converged")
        return self._agent.pid

    def stop_agent(self) -> None:
        if self._agent is not None:
            self._agent.send_signal(signal.SIGTERM)
            self._agent.wait(60)
            self._agent = None

    def status(self) -> dict[str, object]:
        done = subprocess.run([*self.words("status", "--json")], capture_output=True, text=True, timeout=60)
        return dict(json.loads(done.stdout)) if done.stdout.startswith("{") else {}

    def words(self, *words: str) -> list[str]:
        return [*COMMAND, "--root", str(self.paths.root), "--run", str(self.paths.run), *words]

    def states(self) -> list[dict[str, object]]:
        """The shims' records, read from disk: what `stead ps` reads."""
        found = []
        for path in (self.paths.run / "containers").glob("*/state.json"):
            try:
                found.append(json.loads(path.read_bytes()))
            except (OSError, ValueError):
                continue
        return found

    def running(self) -> int:
        return sum(1 for state in self.states() if state["phase"] == "running")

    def all_run(self, count: int) -> float:
        """Seconds until so many run. A record that said so is not read again: who looks on must not have the
        processors that the work needs."""
        seen: set[str] = set()
        place = f"{self.paths.run}/containers"

        def there() -> bool:
            for name in os.listdir(place):
                if name not in seen and self._runs(f"{place}/{name}/state.json"):
                    seen.add(name)
            return len(seen) == count

        return until(there, pause=0.02)

    @staticmethod
    def _runs(path: str) -> bool:
        try:
            with open(path, "rb") as file:
                return bool(json.loads(file.read())["phase"] == "running")
        except (OSError, ValueError):
            return False

    def close(self) -> None:
        self.stop_agent()
        with LocalRuntime(self.paths) as runtime:
            observed = runtime.observe()
            for name in observed.containers:
                runtime.remove_container(name)
            for name in observed.networks:
                runtime.remove_network(name)
        shutil.rmtree(self.base)


def until(condition, timeout: float = 120.0, pause: float = 0.005) -> float:  # type: ignore[no-untyped-def]
    """Seconds until it holds."""
    begin = time.perf_counter()
    while not condition():
        if time.perf_counter() - begin > timeout:
            raise TimeoutError("the condition did not come true")
        time.sleep(pause)
    return time.perf_counter() - begin


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system time of these processes, children that ended left out. proc_pid_stat(5)."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def rollup(pid: int, key: str) -> float:
    """A value of /proc/PID/smaps_rollup in MiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    return 0.0
