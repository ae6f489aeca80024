"""Updates on a real machine, by a real agent: without a lost request, back by themselves, and on after a
kill."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from agent.cli.main import Problem
from agent.cli.status import ask
from agent.rollouts import opened
from runtime import attend
from runtime.paths import Paths
from tests.e2e.conftest import Node

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

#: containers that are replaced under load, and updates that fail
REPLACED, BROKEN = 50, 20
DEADLINE = 60.0


class Cluster:
    """An agent that follows the directory of a node, and what it says."""

    def __init__(self, node: Node) -> None:
        self.node, self.paths = node, Paths(node.base / "root", node.base / "run")
        self.settings = node.base / "stead.toml"
        source = f'[[source]]\nname = "shop"\ndirectory = "{node.specs}"\n'
        pool = f"10.{100 + os.getpid() % 100}.0.0/16"  # machines of other tests may have the usual one
        self.settings.write_text(f'{source}[listen]\nmetrics = ""\n[network]\npool = "{pool}"\n')
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.node.base / "agent.log").open("ab") as log:
            command = self.node.command("agent", "--settings", str(self.settings))
            self.process = subprocess.Popen(command, stderr=log)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(30) == 0, self.log()

    def log(self) -> str:
        return (self.node.base / "agent.log").read_text()[-4000:]

    def status(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = ask(self.paths, "/v1/status")
            return found
        except (Problem, OSError):
            return {"state": "", "sources": [], "blocked": [], "in_flight": [], "plan": []}

    def until(self, met: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        deadline = time.monotonic() + DEADLINE
        while not met(status := self.status()):
            assert time.monotonic() < deadline, f"{status['blocked']}\n{self.log()}"
            time.sleep(0.02)  # between two looks
        return status

    def write(
        self, version: str, *, replicas: int, more: str = "", command: str = "httpd -f -p 80 -h /www"
    ) -> None:
        text = f"""
project = "shop"

[container.web]
image = "busy:1"
command = {command.split()!r}
replicas = {replicas}
ports = ["127.0.0.1:{self.node.port}:80"]
environment = {{ VERSION = "{version}" }}
stop_grace_period = "100ms"
{more}
"""
        new = self.node.specs / ".new"
        new.write_text(text)
        new.rename(self.node.specs / "shop.toml")

    def running(self) -> dict[str, str]:
        """Versions of the containers that run, by name."""
        found = {}
        for record in attend.read_all(self.paths):
            state = attend.live_state(self.paths, record)
            if state is not None and state.phase == "running" and state.health in ("none", "healthy"):
                found[record.name] = record.decode().environment["VERSION"]
        return found


@pytest.fixture
def cluster(node: Node) -> Iterator[Cluster]:
    made = Cluster(node)
    yield made
    made.end()


def is_done(status: dict[str, Any]) -> bool:
    taken = [source["revision"] == source["seen"] != "" for source in status["sources"]]
    return status["state"] == "converged" and taken != [] and all(taken)


@contextmanager
def watched(cluster: Cluster) -> Iterator[list[int]]:
    """How many replicas were ready, again and again."""
    counts: list[int] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            counts.append(len(cluster.running()))
            over.wait(0.02)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield counts
    finally:
        over.set()
        thread.join()


def load(port: int) -> int:
    """500 requests, each by a connection of its own; how many were answered. Not one may fail."""
    command = ["ab", "-q", "-n", "500", "-c", "2", f"http://127.0.0.1:{port}/"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    said = dict(
        re.findall(r"^(Complete requests|Failed requests|Non-2xx responses): +(\d+)", done.stdout, re.M)
    )
    assert said == {"Complete requests": "500", "Failed requests": "0"}, done.stdout
    return 500


@pytest.mark.skipif(shutil.which("ab") is None, reason="needs ab (Debian: apache2-utils)")
def test_fifty_replacements_under_load_lose_no_request(cluster: Cluster) -> None:
    more = """
healthcheck = { tcp = ":80", interval = "50ms" }
update = { order = "start-first", parallelism = 0, monitor = "0s", drain = "2s" }
"""
    replicas = 2
    cluster.write("0", replicas=replicas, more=more)
    cluster.start()
    cluster.until(lambda status: is_done(status) and len(cluster.running()) == replicas)
    errors: list[BaseException] = []

    def replace() -> None:
        try:
            for version in range(1, REPLACED // replicas + 1):
                cluster.write(str(version), replicas=replicas, more=more)
                wanted = [str(version)] * replicas
                cluster.until(lambda _, wanted=wanted: list(cluster.running().values()) == wanted)  # type: ignore[misc]
        except BaseException as error:
            errors.append(error)

    replacing = threading.Thread(target=replace)
    replacing.start()
    answered = 0
    try:
        while replacing.is_alive():
            answered += load(cluster.node.port)
    finally:
        replacing.join()
    assert not errors, errors
    assert answered >= 500


def broken(number: int) -> tuple[str, str]:
    """(command, more of the spec) of an update that fails, each in its way."""
    match number % 3:
        case 0:
            return "sh -c false", 'restart = "no"\n'
        case 1:
            return "sh -c false", ""  # over and over
        case _:
            check = (
                '{ test = ["CMD", "sh", "-c", "false"], interval = "50ms", retries = 2, on_failure = "none" }'
            )
            return "httpd -f -p 80 -h /www", f"healthcheck = {check}\n"


def test_twenty_broken_updates_are_each_rolled_back_and_never_tried_again(cluster: Cluster) -> None:
    update = "update = { parallelism = 1 }\n"
    cluster.write("good", replicas=3, more=update)
    cluster.start()
    cluster.until(lambda status: is_done(status) and len(cluster.running()) == 3)
    with watched(cluster) as counts:
        for number in range(BROKEN):
            command, more = broken(number)
            cluster.write(f"broken {number}", replicas=3, command=command, more=update + more)
            revision = cluster.until(lambda status: is_new(status, cluster))["sources"][0]["revision"]
            cluster.until(lambda status, revision=revision: is_back(status, revision))  # type: ignore[misc]
            assert set(cluster.running().values()) == {"good"}
    assert min(counts) >= 2, counts
    with opened(cluster.paths.rollouts) as rollouts:
        known = rollouts.versions()["shop/web"]
    assert [version.good for version in known if not version.bad] == [True]
    made = [
        entry for entry in cluster.node.stead("history", "--limit", "2000").splitlines() if "create" in entry
    ]
    cluster.end()
    cluster.start()  # what was bad is so for the next agent, too
    cluster.until(lambda status: [item["code"] for item in status["blocked"]] == ["rolled-back"])
    after = [
        entry for entry in cluster.node.stead("history", "--limit", "2000").splitlines() if "create" in entry
    ]
    assert len(after) == len(made)
    assert "was rolled back to revision" in cluster.node.stead("status", code=1)


def is_new(status: dict[str, Any], cluster: Cluster) -> bool:
    """Whether what was written last is in force."""
    text = (cluster.node.specs / "shop.toml").read_bytes()
    from agent.sources.revision import digest

    wanted = digest({"shop.toml": text})
    return any(source["revision"] == wanted for source in status["sources"])


def is_back(status: dict[str, Any], revision: str) -> bool:
    """The update of this revision was rolled back, and nothing is left to do."""
    rolled = [item for item in status["blocked"] if item["code"] == "rolled-back"]
    busy = status["in_flight"] or status["plan"]
    return any(f"revision {revision[:12]} is not tried" in item["reason"] for item in rolled) and not busy


def test_a_rollout_goes_on_after_its_agent_was_killed(cluster: Cluster) -> None:
    more = 'update = { parallelism = 1, monitor = "300ms" }\n'
    cluster.write("one", replicas=4, more=more)
    cluster.start()
    cluster.until(lambda status: is_done(status) and len(cluster.running()) == 4)
    with watched(cluster) as counts:
        cluster.write("two", replicas=4, more=more)
        for left in (3, 2, 1):
            cluster.until(lambda _, left=left: list(cluster.running().values()).count("one") <= left)  # type: ignore[misc]
            cluster.kill()
            cluster.start()
        cluster.until(lambda status: is_done(status) and list(cluster.running().values()) == ["two"] * 4)
    assert min(counts) >= 3, counts


def test_apply_rolls_back_and_says_so(node: Node) -> None:
    """Without an agent, and without any registry."""
    cluster = Cluster(node)
    cluster.write("good", replicas=1)
    node.stead("apply", str(node.specs))
    cluster.write("bad", replicas=1, command="sh -c false", more='restart = "no"\n')
    said = node.stead("apply", str(node.specs), code=1)
    assert "not converged: rollout shop/web: was rolled back to revision" in said
    assert "container shop/web-1 exited with code 1" in said
    assert cluster.running() == {"shop/web-1": "good"}
    assert "was rolled back" in node.stead("plan", str(node.specs), code=2)
    assert "goes back: " in node.stead("explain", "shop/web-1")
    assert "released its bad version" in node.stead("release", "shop/web")
    cluster.write("bad", replicas=1)
    node.stead("apply", str(node.specs))
    assert cluster.running() == {"shop/web-1": "bad"}
    assert "goes back to revision" in node.stead("rollback", "web", "--reason", "by hand")
    said = node.stead("apply", str(node.specs))
    assert "note: rollout shop/web: revision" in said
    assert cluster.running() == {"shop/web-1": "good"}


def test_a_prune_by_hand_leaves_what_a_rollback_needs(node: Node) -> None:
    cluster = Cluster(node)
    more = 'update = { monitor = "100ms" }\n'  # it is good once it has run for so long
    cluster.write("one", replicas=1, more=more)
    node.stead("apply", str(node.specs))
    (node.base / "image" / "new").touch()
    for name in ("other:1", "busy:1"):  # the tag moves on; nothing needs the other one
        node.stead("image", "import", str(node.base / "image"), name)
        (node.base / "image" / "newer").touch()
    cluster.write("two", replicas=1, more=more)
    node.stead("apply", str(node.specs))
    said = node.stead("image", "prune", "-a", "-f")
    assert "untagged: other:1" in said and said.count("deleted: sha256:") >= 1
    assert "kept, since a rollback may need it: " in said
    node.stead("rollback", "web")
    node.stead("apply", str(node.specs))
    assert cluster.running() == {"shop/web-1": "one"}
    assert node.stead("exec", "web-1", "ls", "/", code=None).count("new") == 0
    assert "kept" not in node.stead("image", "prune", "-f"), "it is used now"
