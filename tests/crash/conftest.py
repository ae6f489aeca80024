"""State directories with an image of busybox, and what must hold when a test is over."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime.linux import namespaces
from tests.crash.agents import Agent
from tests.crash.box import Box, Nursery, busybox

#: state directories in which one loop of crashes goes on at a time: most of it is waiting
SIDE_BY_SIDE = 3


@pytest.fixture(scope="session")
def nurseries() -> Iterator[list[Nursery]]:
    made = [Nursery() for _ in range(SIDE_BY_SIDE)]
    yield made
    for nursery in made:
        nursery.close()


def opened(base: Path, nursery: Nursery) -> Box:
    base.mkdir(exist_ok=True)
    made = Box(base, nursery)
    made.well("image", "import", str(busybox(base / "image")), "busy:1")
    return made


def ended(box: Box) -> None:
    box.well("down", str(box.specs), "--volumes")
    assert box.inventory.strays() == []
    assert box.inventory.records().known == set()


@pytest.fixture
def box(tmp_path: Path, nurseries: list[Nursery]) -> Iterator[Box]:
    made = opened(tmp_path, nurseries[0])
    yield made
    ended(made)


@contextmanager
def on_island(spot: Path) -> Iterator[Nursery]:
    """A network namespace, bound to the file `spot`, in which the caller is, too: all of nftables is ours."""
    namespaces.create_netns(spot)
    try:
        with namespaces.in_netns(spot):
            nursery = Nursery()
            yield nursery
            nursery.close()
    finally:
        namespaces.delete_netns(spot)


@contextmanager
def isle(base: Path) -> Iterator[Box]:
    """A box on an island."""
    with on_island(base / "island") as nursery:
        made = opened(base, nursery)
        try:
            yield made
        finally:
            made.stead("down", str(made.specs), "--volumes")
        ended(made)


@pytest.fixture
def island(tmp_path: Path) -> Iterator[Box]:
    with isle(tmp_path) as made:
        yield made


@pytest.fixture
def agent(box: Box) -> Iterator[Agent]:
    """Not started yet. It ends before its box does."""
    made = Agent(box)
    yield made
    made.end()


@pytest.fixture
def boxes(tmp_path: Path, nurseries: list[Nursery]) -> Iterator[list[Box]]:
    with ThreadPoolExecutor() as threads:
        bases = [tmp_path / f"box{number}" for number in range(len(nurseries))]
        made = list(threads.map(opened, bases, nurseries))
        yield made
        list(threads.map(ended, made))
