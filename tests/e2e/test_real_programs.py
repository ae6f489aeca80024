"""The main job on real input: a git repository, a real registry, Debian's nginx and redis in containers."""

from __future__ import annotations

import json
import os
import shutil
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.agents import Agent, git, push
from tests.crash.box import Box, Nursery, until
from tests.e2e.conftest import Node
from tests.e2e.programs import push_busybox, push_nginx, push_redis
from tests.kernel.images_box import LocalRegistry

TOOLS = ("nft", "git", "docker-registry", "skopeo", "umoci", "buildah", "dpkg-deb")

pytestmark = [
    pytest.mark.root,
    pytest.mark.registry,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    *(pytest.mark.skipif(shutil.which(tool) is None, reason=f"needs {tool}") for tool in TOOLS),
]

NAMES = {"shop/web", "shop/store", "shop/tool"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    base = tmp_path_factory.mktemp("programs")
    running = LocalRegistry(base / "registry")
    try:
        for fill in (push_nginx, push_redis, push_busybox):
            fill(running, base)
        yield running
    finally:
        running.stop()
        shutil.rmtree(base)


class Shop:
    """Specs in a work tree, pushed to a bare repository that the agent clones."""

    def __init__(self, box: Box, registry: LocalRegistry) -> None:
        self.box, self.registry, self.bare = box, registry, box.base / "shop.git"
        self.http, self.redis = Node.free_port(), Node.free_port()
        git(box.base, "init", "-q", "--bare", "-b", "main", str(self.bare))
        git(box.specs, "init", "-q", "-b", "main")
        self.agent = Agent(box, f'git = "{self.bare}"\ninterval = "200ms"')

    def write(self, level: str, *, tool: bool = True) -> None:
        images = "".join(
            f'[image.{name}]\nfrom = "{self.registry.address}/{name}:1"\n'
            for name in ("nginx", "redis", "busybox")
        )
        (self.box.specs / "shop.toml").write_text(
            f"""project = "shop"
{images}
[volume.data]

[container.web]
image = "nginx"
ports = ["127.0.0.1:{self.http}:80"]
memory = "128MiB"
healthcheck = {{ http = "http://:80/", interval = "500ms" }}

[container.store]
image = "redis"
ports = ["127.0.0.1:{self.redis}:6379"]
volumes = ["data:/data"]
environment = {{ LEVEL = "{level}" }}
healthcheck = {{ tcp = ":6379", interval = "500ms" }}
"""
        )
        extra = (
            '[container.tool]\nimage = "busybox"\ncommand = ["sleep", "10000"]\nstop_grace_period = "0s"\n'
        )
        (self.box.specs / "tool.toml").write_text('project = "shop"\n' + (extra if tool else ""))

    def push(self, *, force: bool = False) -> str:
        return push(self.box, self.bare, force=force)

    def follows(self, commit: str) -> None:
        """The commit is in force, and all of it runs."""
        until(lambda: self.agent.converged(commit), f"the agent converges on {commit}", 60.0)

    def ids(self) -> dict[str, str]:
        return {name: row["id"] for name, row in self.box.ps().items()}

    def runs(self) -> dict[str, tuple[object, ...]]:
        """Which run of which container it is; health may change meanwhile."""
        keys = ("id", "pid", "started_at", "restarts", "phase")
        return {name: tuple(row[key] for key in keys) for name, row in self.box.ps().items()}

    def page(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/", timeout=5) as answer:
            assert "nginx" in answer.headers["Server"]
            return str(answer.read().decode())

    def ask(self, command: str) -> str:
        """One inline command of redis' protocol; the answer's last line."""
        with socket.create_connection(("127.0.0.1", self.redis), 5) as connection:
            connection.sendall(f"{command}\r\n".encode())
            return connection.recv(4096).decode().split("\r\n")[-2]

    def environment(self, name: str) -> list[str]:
        """As it was given: redis writes its title over its own."""
        bundle = self.box.paths.container(self.ids()[name]) / "config.json"
        return list(json.loads(bundle.read_text())["process"]["env"])


@pytest.fixture
def shop(tmp_path: Path, registry: LocalRegistry) -> Iterator[Shop]:
    nursery = Nursery()
    made = Shop(Box(tmp_path, nursery), registry)
    yield made
    made.agent.end()
    made.box.well("down", str(made.box.specs), "--volumes")
    assert made.box.inventory.strays() == []
    nursery.close()


def test_pushed_commits_deploy_and_change_exactly_what_they_say(shop: Shop) -> None:
    shop.write("one")
    first = shop.push()
    shop.agent.start()
    shop.follows(first)
    assert set(shop.ids()) == NAMES
    assert shop.page() == "real nginx\n"
    assert shop.ask("PING") == "+PONG" and shop.ask("SET colour green") == "+OK"
    assert shop.ask("GET colour") == "green"

    before = shop.ids()
    shop.write("two")  # one variable of one container
    shop.follows(shop.push())
    after = shop.ids()
    assert {name for name in NAMES if after[name] != before[name]} == {"shop/store"}
    assert "LEVEL=two" in shop.environment("shop/store")
    assert shop.ask("GET colour") == "green"  # it saved at its stop signal, to its volume

    shop.write("two", tool=False)  # one container goes
    shop.follows(shop.push())
    assert shop.ids() == {name: id for name, id in after.items() if name != "shop/tool"}

    good = shop.agent.status()["sources"][0]["revision"]
    running = shop.runs()
    (shop.box.specs / "tool.toml").write_text('project = "shop"\n[container.tool]\nimagee = "busybox"\n')
    bad = shop.push()
    until(lambda: shop.agent.status()["sources"][0]["seen"] == bad, "the bad commit is seen")
    until(lambda: shop.agent.status()["sources"][0]["errors"], "it is refused")
    code, text = shop.box.stead("status")
    assert code == 1 and "tool.toml:3:1: " in text and "image" in text
    assert shop.agent.status()["sources"][0]["revision"] == good
    assert shop.runs() == running

    git(shop.box.specs, "revert", "--no-edit", "HEAD")
    shop.follows(shop.push())
    assert shop.box.stead("status")[0] == 0
    assert shop.runs() == running

    git(shop.box.specs, "reset", "-q", "--hard", first)  # history is rewritten: back to the first state
    shop.follows(shop.push(force=True))
    assert set(shop.ids()) == NAMES and "LEVEL=one" in shop.environment("shop/store")
    assert shop.ids()["shop/web"] == before["shop/web"]
    assert shop.ask("GET colour") == "green" and shop.page() == "real nginx\n"
    assert "GET / HTTP" in shop.box.well("logs", "web")


def test_all_comes_back_without_the_registry_and_without_the_repository(shop: Shop) -> None:
    """As after a reboot: no agent, no shims, no mounts; and nobody to be asked."""
    shop.write("one")
    commit = shop.push()
    shop.agent.start()
    shop.follows(commit)
    shop.agent.kill()
    before = shop.ids()
    for row in shop.box.ps().values():
        shop.box.kill(row["id"])
    shop.bare.rename(shop.bare.with_name("gone"))
    unreachable = shop.registry.address
    shop.agent.start()
    until(
        lambda: shop.agent.status()["state"] == "converged" and set(shop.ids()) == NAMES and all_run(shop),
        f"all runs again without {unreachable}",
        60.0,
    )
    assert shop.ids() == before
    assert "cannot" in shop.agent.status()["sources"][0]["fetch_error"]
    assert shop.page() == "real nginx\n"
    shop.bare.with_name("gone").rename(shop.bare)


def all_run(shop: Shop) -> bool:
    return all(
        row["phase"] == "running" and row["health"] in ("none", "healthy") for row in shop.box.ps().values()
    )
