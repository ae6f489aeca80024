"""Two agents with state directories of their own on one machine: neither sees what the other does."""

from __future__ import annotations

import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime.net import addresses, links
from tests.crash.agents import Agent
from tests.crash.box import Box, Nursery, busybox, until
from tests.crash.conftest import on_island
from tests.e2e.conftest import Node

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]


class Side(Agent):
    """One of the two, with a page of its own."""

    def __init__(self, base: Path, nursery: Nursery) -> None:
        base.mkdir()
        super().__init__(Box(base, nursery))
        image = busybox(base / "image")
        (image / "www" / "index.html").write_text(base.name)
        self.box.well("image", "import", str(image), "busy:1")
        self.port = Node.free_port()
        self.write(self.port)

    def write(self, port: int) -> None:
        """The same names on both sides."""
        (self.box.specs / "shop.toml").write_text(
            f"""
[network.one]
[network.two]
[container.web]
image = "busy:1"
command = ["httpd", "-f", "-p", "80", "-h", "/www"]
ports = ["127.0.0.1:{port}:80"]
networks = ["one", "two"]
stop_grace_period = "100ms"
"""
        )

    def page(self) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=1) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def well(self) -> bool:
        return self.converged() and self.page() == self.box.base.name

    def table(self) -> str:
        return addresses.table_name(str(self.box.paths.root.resolve()))


@contextmanager
def two(base: Path, nursery: Nursery) -> Iterator[list[Side]]:
    made = [Side(base / name, nursery) for name in ("left", "right")]
    yield made
    for side in made:
        side.end()
        side.box.well("down", str(side.box.specs), "--volumes")
        assert side.box.inventory.strays() == []


@pytest.fixture
def sides(tmp_path: Path, nurseries: list[Nursery]) -> Iterator[list[Side]]:
    with two(tmp_path, nurseries[0]) as made:
        yield made


@pytest.fixture
def sides_of_an_island(tmp_path: Path) -> Iterator[list[Side]]:
    """Nobody else takes a subnet there."""
    with on_island(tmp_path / "island") as nursery, two(tmp_path, nursery) as made:
        yield made


def test_two_agents_side_by_side_do_not_disturb_each_other(sides: list[Side]) -> None:
    left, right = sides
    for side in sides:  # at one time: both look for free subnets of the same pool
        side.start()
    for side in sides:
        until(side.well, f"{side.box.base.name} converges")
    subnets = [subnet for side in sides for subnet in side.box.inventory.subnets()]
    assert len(set(subnets)) == 4
    undisturbed = right.box.ps()

    subprocess.run(["nft", "delete", "table", "inet", left.table()], check=True)
    left.write(left.port)
    with (left.box.specs / "shop.toml").open("a") as file:
        file.write("# look\n")
    until(lambda: left.metric("stead_drift_total", kind="firewall") >= 1 and left.well(), "left is repaired")
    assert right.metric("stead_drift_total") == 0

    left.end()
    left.box.well("down", str(left.box.specs), "--volumes")
    assert left.box.inventory.strays() == []
    assert right.page() == "right" and right.box.ps() == undisturbed
    right.box.settled()


def test_a_port_of_the_other_state_directory_is_taken_until_it_is_given_up(sides: list[Side]) -> None:
    left, right = sides
    left.start()
    until(left.well, "left converges")
    right.write(left.port)
    right.start()
    (found,) = right.until_blocked("default/web")
    assert found["code"] == "port-taken" and left.table() in found["reason"]
    assert left.page() == "left"
    left.end()
    left.box.well("down", str(left.box.specs), "--volumes")
    right.port = left.port
    until(right.well, "right takes the port", 60.0)


def test_a_run_directory_of_another_root_is_refused_and_its_containers_live_on(sides: list[Side]) -> None:
    """Whoever forgets one of the two options must not take the other's containers for leftovers."""
    left, right = sides
    left.start()
    until(left.well, "left converges")
    before = left.box.ps()
    mixed = ["--root", str(right.box.paths.root), "--run", str(left.box.paths.run)]
    for verb in ("apply", "plan", "down"):
        code, text = left.box.stead(*mixed, verb, str(right.box.specs))
        assert code == 1 and f"belongs to the containers of {left.box.paths.root}" in text, text
    assert left.box.ps() == before and left.page() == "left"


def test_a_subnet_that_was_lost_to_another_is_said_and_taken_back_when_it_is_free(
    sides_of_an_island: list[Side],
) -> None:
    """After a reboot the other one came first: what had a bridge before has none now."""
    left, right = sides_of_an_island
    left.start()
    until(left.well, "left converges")
    left.kill()
    before = left.box.ps()
    for row in before.values():
        left.box.kill(row["id"])
    for name in links.links():
        if name.startswith(addresses.bridge_prefix(str(left.box.paths.root.resolve()))):
            subprocess.run(["ip", "link", "delete", name], check=True)
    right.start()
    until(right.well, "right converges")
    assert set(right.box.inventory.subnets()) == set(left.box.inventory.subnets())
    left.start()
    codes: set[str] = set()

    def blocked() -> bool:
        codes.update(item["code"] for item in left.status()["blocked"])
        return bool(codes)

    until(blocked, "left is blocked")
    assert codes == {"subnet-overlap"}
    assert right.page() == "right"
    right.end()
    right.box.well("down", str(right.box.specs), "--volumes")
    until(left.well, "left converges again", 90.0)
    assert {name: row["id"] for name, row in left.box.ps().items()} == {
        name: row["id"] for name, row in before.items()
    }


def test_networks_made_at_one_time_never_overlap(tmp_path: Path, nurseries: list[Nursery]) -> None:
    boxes = []
    for number, nursery in enumerate(nurseries):
        (base := tmp_path / f"box{number}").mkdir()
        boxes.append(Box(base, nursery))
        names = "".join(f"[network.n{name}]\n" for name in range(4))
        (boxes[-1].specs / "nets.toml").write_text(names)
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda box: box.well("apply", str(box.specs)), boxes))
    found = [subnet for box in boxes for subnet in box.inventory.subnets()]
    for box in boxes:
        box.well("down", str(box.specs))
        assert box.inventory.strays() == []
    assert len(found) == 12 and len(set(found)) == 12
