"""Images in specs with a real registry: a tag that moves, a lock file, a registry that is gone."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Node
from tests.e2e.test_agent import Agent
from tests.kernel.images_box import LocalRegistry, needs_registry

pytestmark = [
    pytest.mark.root,
    pytest.mark.registry,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
    needs_registry,
]


DEADLINE = 60.0  # the slowest things wait for a look every ten seconds


def until(condition: Callable[[], bool]) -> None:
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < DEADLINE
        time.sleep(0.05)  # between two looks


class Registry:
    """`release` puts a version of the image behind the tag app:1."""

    def __init__(self, node: Node, base: Path) -> None:
        self.node, self.base = node, base
        (base / "elsewhere").mkdir()
        self.other = Node(base / "elsewhere")  # the machine that makes the images
        self.server = LocalRegistry(base / "registry")
        self.name = f"{self.server.address}/app:1"

    def release(self, version: str, ballast: bytes = b"") -> None:
        tree = self.base / version
        shutil.copytree(self.base / "image", tree, symlinks=True)
        (tree / "version").write_text(version)
        (tree / "ballast").write_bytes(ballast)
        self.other.stead("image", "import", str(tree), self.name)
        self.other.stead("image", "push", "-q", self.name)

    def write(self, pull: str = "missing") -> None:
        (self.node.specs / "app.toml").write_text(
            f'[image.app]\nfrom = "{self.name}"\npull = "{pull}"\n'
            '[container.app]\nimage = "app"\nnetwork_mode = "none"\nstop_grace_period = "100ms"\n'
            """command = ["sh", "-c", "trap 'exit 0' TERM; while true; do sleep 0.1; done"]\n"""
        )

    def running(self) -> str:
        """The version that runs; empty: none."""
        if self.node.phases().get("default/app") != "running":
            return ""
        return self.node.stead("exec", "app", "cat", "/version", code=None).strip()


@pytest.fixture
def registry(node: Node, tmp_path: Path) -> Iterator[Registry]:
    registry = Registry(node, tmp_path)
    yield registry
    registry.server.stop()


@pytest.fixture
def agent(node: Node, registry: Registry) -> Iterator[Agent]:
    agent = Agent(node)
    yield agent
    agent.end()


def test_a_lock_file_says_what_runs_until_it_is_renewed(node: Node, registry: Registry) -> None:
    registry.release("v1")
    registry.write()
    file = node.specs / "stead.lock.toml"
    assert "(not locked) -> sha256:" in node.stead("lock", str(node.specs), "--check", code=2)
    assert not file.exists()
    node.stead("lock", str(node.specs))
    locked = tomllib.loads(file.read_text())["digest"]
    assert list(locked) == [registry.name]
    assert "is up to date" in node.stead("lock", str(node.specs), "--check")

    registry.release("v2")
    node.stead("apply", str(node.specs))
    assert registry.running() == "v1"
    assert "is up to date" in node.stead("lock", str(node.specs), "--check")
    old = locked[registry.name]
    assert f"app:1: {old} -> sha256:" in node.stead("lock", "-u", str(node.specs), "--dry-run")
    assert tomllib.loads(file.read_text())["digest"] == locked
    first = file.read_text()
    node.stead("lock", "--update", str(node.specs), registry.name)
    node.stead("apply", str(node.specs))
    assert registry.running() == "v2"

    registry.server.stop()  # what was in force before needs no network
    file.write_text(first)
    node.stead("apply", str(node.specs))
    assert registry.running() == "v1"
    assert "is not in stead.lock.toml" in _with_another_tag(node, registry)


def _with_another_tag(node: Node, registry: Registry) -> str:
    (node.specs / "b.toml").write_text('[container.b]\nimage = "busy:2"\n')
    return node.stead("validate", str(node.specs), code=1)


def test_a_lock_names_what_is_wrong(node: Node, registry: Registry) -> None:
    registry.release("v1")
    registry.write()
    assert "only used with --update" in node.stead("lock", str(node.specs), "busy:1", code=2)
    assert "the specs name no image 'nginx'" in node.stead("lock", "-u", str(node.specs), "nginx", code=1)
    (node.specs / "c.toml").write_text(f'[image.c]\nfrom = "{registry.server.address}/none:3"\n')
    text = node.stead("lock", str(node.specs), code=1)
    assert "cannot look up image" in text and "none:3" in text and "nothing was changed" in text
    assert not (node.specs / "stead.lock.toml").exists()


def test_a_tag_that_moves_replaces_its_container_and_explain_says_why(
    node: Node, registry: Registry, agent: Agent
) -> None:
    registry.release("v1")
    registry.write("10s")
    agent.push()
    agent.start()
    until(lambda: registry.running() == "v1")
    first = node.ps()["default/app"]["id"]
    registry.release("v2")
    until(lambda: registry.running() == "v2")
    assert node.ps()["default/app"]["id"] != first
    assert f"image {registry.name} went from sha256:" in node.stead("explain", "app")
    assert f"image {registry.name} went from sha256:" in node.stead("explain", registry.name)


def test_a_registry_that_is_gone_stops_nothing(node: Node, registry: Registry, agent: Agent) -> None:
    registry.release("v1")
    registry.write("always")
    agent.push()
    agent.start()
    until(lambda: registry.running() == "v1")
    agent.end()
    registry.server.stop()
    node.stead("halt")
    registry.write("10s")  # another revision, and what it says is due at once
    (node.specs / "more.toml").write_text('[container.more]\nimage = "app"\nnetwork_mode = "none"\n')
    agent.push()
    agent.start()
    until(lambda: registry.running() == "v1" and "default/more" in node.ps())


def write_build(node: Node, text: str, run: str = "true") -> None:
    app = node.specs / "app"
    app.mkdir(exist_ok=True)
    (app / "Dockerfile").write_text(f"FROM busy:1\nARG MODE\nRUN {run}\nCOPY version /version\n")
    (app / ".dockerignore").write_text("*.md\n")
    (app / "version").write_text(text)
    (node.specs / "app.toml").write_text(
        '[image.app]\nbuild = { context = "app", args = { MODE = "x" }, network = "none" }\n'
        '[container.app]\nimage = "app"\nnetwork_mode = "none"\nstop_grace_period = "100ms"\n'
        """command = ["sh", "-c", "trap 'exit 0' TERM; while true; do sleep 0.1; done"]\n"""
    )


def test_a_push_builds_and_runs_and_a_failing_build_stops_nothing(node: Node) -> None:
    agent = Agent(node)
    try:
        _builds(node, agent)
    finally:
        agent.end()


def _builds(node: Node, agent: Agent) -> None:
    def running() -> str:
        if node.phases().get("default/app") != "running":
            return ""
        return node.stead("exec", "app", "cat", "/version", code=None)

    def built() -> int:
        return node.stead("explain", "localhost/default/app", code=None).count("build image")

    write_build(node, "one")
    agent.push()
    agent.start()
    until(lambda: running() == "one")
    until(agent.converged)
    first = node.ps()

    (node.specs / "app" / "notes.md").write_text("ignored")
    (node.specs / "other.txt").write_text("in no context")
    agent.push()
    until(lambda: agent.converged() and agent.status()["sources"][0]["revision"] == agent.head())
    assert node.ps() == first

    write_build(node, "two")
    agent.push()
    until(lambda: running() == "two")
    assert "context file version changed" in node.stead("explain", "localhost/default/app")
    second, count = node.ps(), built()

    write_build(node, "three", run="sh -c 'echo last words; exit 3'")
    agent.push()
    until(lambda: "last words" in node.stead("status", code=None))
    said = node.stead("explain", "localhost/default/app")
    assert "app/Dockerfile:3" in said and "last words" in said and "blocked" in said
    assert node.ps() == second and running() == "two"
    write_build(node, "three")
    agent.push()
    until(lambda: running() == "three")
    until(agent.converged)

    agent.end()  # what it was built from outlives the agent
    third, count = node.ps(), built()
    assert node.stead("plan", str(node.specs)).strip() == "nothing to do"
    agent.start()
    until(agent.converged)
    assert node.ps() == third and built() == count


def test_a_rotten_layer_is_pulled_anew_and_its_container_goes_on(
    node: Node, registry: Registry, agent: Agent
) -> None:
    registry.release("v1")
    registry.write()
    agent.push()
    agent.start()
    until(lambda: registry.running() == "v1")
    until(agent.converged)
    (layer,) = (node.base / "root" / "layers").glob("*/version")
    layer.write_text("rot")
    assert "version" in node.stead("image", "verify", registry.name, code=1)
    until(lambda: layer.exists() and layer.read_text() == "v1")  # out of its archive
    until(lambda: registry.running() == "v1")
    until(agent.converged)
    assert "a layer of it is missing" in node.stead("explain", registry.name)

    for blob in (node.base / "root" / "blobs" / "sha256").iterdir():
        if blob.stat().st_size > 100_000:
            blob.unlink()
    shutil.rmtree(layer.parent)
    until(lambda: layer.exists() and layer.read_text() == "v1")
    until(lambda: registry.running() == "v1")
    until(agent.converged)
    node.stead("image", "verify", registry.name)


def test_a_layer_of_what_was_built_is_built_anew(node: Node) -> None:
    agent = Agent(node)
    write_build(node, "one")
    agent.push()
    agent.start()
    try:
        until(lambda: node.phases().get("default/app") == "running")
        until(agent.converged)
        first = node.ps()["default/app"]["id"]
        (layer,) = (node.base / "root" / "layers").glob("*/version")
        shutil.rmtree(layer.parent)
        until(lambda: any(row["phase"] == "running" and row["id"] != first for row in node.ps().values()))
        until(agent.converged)
        assert node.stead("exec", "app", "cat", "/version") == "one"
    finally:
        agent.end()


def test_a_pull_that_does_not_fit_is_blocked_with_its_sizes_until_there_is_room(
    node: Node, registry: Registry
) -> None:
    registry.release("v1", os.urandom(20_000_000))
    place = node.base / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "none", str(place)], check=True)
    small = Node(place)
    agent = Agent(small)
    registry.node = small
    try:
        registry.write()
        agent.push()
        agent.start()
        until(lambda: f"MB free on {place}" in small.stead("status", code=None))
        assert f"cannot pull image {registry.name}: needs " in small.stead("status", code=1)
        blobs = [path for path in (place / "root" / "blobs").rglob("*") if path.is_file()]
        assert not any(path.stat().st_size > 1_000_000 for path in blobs)
        subprocess.run(["mount", "-o", "remount,size=400m", str(place)], check=True)
        until(lambda: registry.running() == "v1")
    finally:
        agent.end()
        small.stead("down", str(small.specs))
        # who holds outputs beside shims has a file there for a moment longer
        until(lambda: subprocess.run(["umount", str(place)], capture_output=True).returncode == 0)


def test_what_nothing_needs_goes_and_a_rollback_needs_no_network(
    node: Node, registry: Registry, agent: Agent
) -> None:
    agent.settings.write_text(agent.settings.read_text() + '[images]\ngc_interval = "1s"\nkeep_for = "1h"\n')
    registry.write()
    agent.start()
    ids = []
    for version in ("v1", "v2", "v3"):
        registry.release(version)
        node.stead("lock", "--update", str(node.specs))
        agent.push()
        until(lambda version=version: registry.running() == version)
        until(agent.converged)
        ids.append(node.stead("image", "ls", "-q", "--no-trunc", registry.name).strip())
    with sqlite3.connect(node.base / "root" / "stead.db", timeout=10) as database:  # a day passes
        database.execute("UPDATE images SET added = added - 86400, used = used - 86400")
    database.close()

    def there() -> list[str]:
        listed = node.stead("image", "ls", "-a", "-q", "--no-trunc")
        return [id for id in ids if id in listed]

    until(lambda: there() == ids[1:])
    assert "no name and not used for" in node.stead("history")
    registry.server.stop()
    agent.git(node.specs, "revert", "--no-edit", "HEAD")
    agent.git(node.specs, "push", "-q", str(agent.bare), "main")
    until(lambda: registry.running() == "v2")


def test_an_agent_that_ends_interrupts_its_build_and_the_next_one_builds(node: Node) -> None:
    agent = Agent(node)
    write_build(node, "one", run="sleep 600")
    agent.push()
    agent.start()
    try:
        until(lambda: "build image" in node.stead("history"))
        until(lambda: bool(list((node.base / "root" / "build").glob("*/lock"))))
        begin = time.monotonic()
        agent.end()
        assert time.monotonic() - begin < 20
        write_build(node, "one")
        agent.push()
        agent.start()
        until(lambda: node.phases().get("default/app") == "running")
    finally:
        agent.end()
