"""Effects: `stead agent` as a process on a box, with a directory as its source unless told otherwise."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from agent.cli.main import Problem
from agent.cli.status import ask
from tests.crash.bomb import REPOSITORY, children
from tests.crash.box import DEADLINE, Box, is_gone, until
from tests.e2e.conftest import Node

COMMAND = [sys.executable, "-c", "from agent.cli.main import main; raise SystemExit(main())"]


class Agent:
    """`source` is the body of the one [[source]]; the agent's words are kept in `log`."""

    def __init__(self, box: Box, source: str = "") -> None:
        self.box, self.metrics, self.log = box, Node.free_port(), box.base / "agent.log"
        self.settings = box.base / "stead.toml"
        self.settings.write_text(
            f'[[source]]\nname = "shop"\n{source or f"""directory = "{box.specs}" """}\n'
            f'[listen]\nmetrics = "127.0.0.1:{self.metrics}"\n'
        )
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        roots = ["--root", str(self.box.paths.root), "--run", str(self.box.paths.run)]
        with self.log.open("ab") as log:
            command = [*COMMAND, *roots, "agent", "--settings", str(self.settings)]
            self.process = subprocess.Popen(command, stderr=log, cwd=REPOSITORY)
        self.box.inventory.agents = {self.pid}

    def end(self) -> None:
        """As systemd stops it; it ends well."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            code = self.process.wait(30)
            self.process = None
            assert code == 0, self.log.read_text()

    def kill(self) -> None:
        """kill -9; returns when what it had started for itself has ended, too."""
        assert self.process is not None
        left = children(self.process.pid)
        self.process.kill()
        self.process.wait(30)
        self.process = None
        for pid in left:
            until(lambda pid=pid: is_gone(pid), f"child {pid} of the agent ends")  # type: ignore[misc]

    # ------------------------------------------------------------ what it says

    def status(self) -> dict[str, Any]:
        """Of no state while it starts, or does not answer in time."""
        assert self.process is None or self.process.poll() is None, self.log.read_text()
        try:
            found: dict[str, Any] = ask(self.box.paths, "/v1/status")
            return found
        except (Problem, OSError):
            source = {"revision": "", "seen": "", "fetch_error": "", "errors": []}
            lists: dict[str, list[Any]] = {key: [] for key in ("blocked", "orphans", "backups", "jobs")}
            return {"state": "", "sources": [source], "error": "", **lists}

    def converged(self, revision: str = "") -> bool:
        """On what its source says now, or on this revision."""
        found = self.status()
        taken = [source["revision"] == source["seen"] != "" for source in found["sources"]]
        if revision and any(source["revision"] != revision for source in found["sources"]):
            return False
        return found["state"] == "converged" and taken != [] and all(taken)

    def blocked(self, name: str) -> dict[str, Any]:
        """The entry of a container; empty when it is not blocked."""
        return next((item for item in self.status()["blocked"] if item["name"] == name), {})

    def until_blocked(self, *names: str, deadline: float = DEADLINE) -> list[dict[str, Any]]:
        """The entries of one moment at which all of these had one; what is being tried again has none."""
        found: list[dict[str, Any]] = []

        def all_are() -> bool:
            found[:] = filter(None, map({item["name"]: item for item in self.status()["blocked"]}.get, names))
            return len(found) == len(names)

        until(all_are, f"{', '.join(names)} blocked", deadline)
        return found

    def scrape(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=30) as answer:
            return str(answer.read().decode())

    def metric(self, series: str, **labels: str) -> float:
        """The sum over the series that have these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        total = 0.0
        for line in self.scrape().splitlines():
            found = re.fullmatch(rf"{series}(?:{{(.*)}})? (\S+)", line)
            if found and all(pair in (found[1] or "").split(",") for pair in wanted):
                total += float(found[2])
        return total

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))


def push(box: Box, bare: Path, *, force: bool = False) -> str:
    """Commit what is in the specs' directory and push it to the bare repository; the commit."""
    git(box.specs, "add", "-A")
    git(box.specs, "commit", "-q", "--allow-empty", "-m", "change")
    git(box.specs, "push", "-q", *(["--force"] if force else []), str(bare), "main")
    return git(box.specs, "rev-parse", "HEAD")


def git(where: Path, *words: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", "-C", str(where), *who, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def document(text: str) -> Any:
    return json.loads(text)
