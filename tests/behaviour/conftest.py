"""The engines: each starts once, has its tests, and ends.

`stead` asks an agent. `alone` is Stead without one, which answers for the tests that are marked so, and
podman for half of all, by chance. They answer for all, and docker has its turn, where STEAD_RIVALS names
them.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.rivals import Unavailable
from tests.behaviour.engines import Engine, start

DIFFERENCES = Path(__file__).parents[2] / "docs" / "differences.md"


OURS = ("stead", "alone")
NAMED = os.environ.get("STEAD_RIVALS", "").replace(",", " ").split()
ENGINES = list(dict.fromkeys(["stead", "alone", "podman", *NAMED]))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The items are of all folders."""
    left = (
        [] if "alone" in NAMED else [item for item in items if "[alone" in item.name and not _is_marked(item)]
    )
    if "podman" not in NAMED:  # what a rival does changes with none of our commits: half of it by chance
        left += [item for item in items if "[podman" in item.name][os.getpid() % 2 :: 2]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in left]


def _is_marked(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


@pytest.fixture(scope="session", params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    name = str(request.param)
    if os.geteuid() != 0 or shutil.which("nft") is None:
        pytest.skip("needs root and nftables")
    try:
        made = start(name, tmp_path_factory.mktemp(name))
    except Unavailable as cause:
        pytest.skip(str(cause))
    yield made
    made.close()


@pytest.fixture(autouse=True)
def differs(request: pytest.FixtureRequest) -> None:
    """`@pytest.mark.differs(WORDS, *ENGINES)`: they are expected to fail; WORDS are in the document."""
    for mark in request.node.iter_markers("differs"):
        words, *names = mark.args
        found = request.getfixturevalue("engine").name if "engine" in request.fixturenames else ""
        if found in OURS and "stead" in names:
            assert words in DIFFERENCES.read_text()
        if found in names or (
            found in OURS and "stead" in names
        ):  # other releases of a rival may do what this one does not
            request.applymarker(pytest.mark.xfail(strict=found in OURS, reason=words))


@pytest.fixture
def name(request: pytest.FixtureRequest, engine: Engine) -> Iterator[str]:
    """A container's name that is the test's own; the container is removed afterwards."""
    made = re.sub(r"\W", "-", request.node.originalname.removeprefix("test_"))[:40].strip("-")
    yield made
    engine.forget(made)
