"""kill -9 in a pull, in an import, and of an agent that deploys: nothing half-made is taken for whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.agents import Agent
from tests.crash.box import Box, until
from tests.crash.test_killed_anywhere import changes, write
from tests.e2e.conftest import Node
from tests.kernel.images_box import Layout, LocalRegistry, directory, file, layer

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[LocalRegistry]:
    if shutil.which("docker-registry") is None or shutil.which("skopeo") is None:
        pytest.skip("needs docker-registry and skopeo")
    running = LocalRegistry(tmp_path / "registry")
    yield running
    running.stop()


@pytest.mark.registry
def test_a_pull_killed_anywhere_is_finished_by_the_next(
    box: Box, registry: LocalRegistry, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "layout")
    layers = [layer(directory(f"d{n}"), file(f"d{n}/f", os.urandom(300_000))) for n in range(3)]
    layout.image(layers, tag="three")
    registry.push(layout.path, "three", "three:1")
    name = f"{registry.address}/three:1"
    places = changes(box, "image", "pull", name)
    reached = 0
    for place in places:
        box.well("image", "rm", name)
        assert stored(box) == before(box), place
        reached += box.killed("image", "pull", name, place=place)
        box.well("image", "pull", name)
        assert len(os.listdir(box.paths.layers)) == 4, place  # and that of busybox
        assert box.inventory.strays() == [], place
    assert reached > 0.7 * len(places)


def stored(box: Box) -> set[str]:
    return set(os.listdir(box.paths.layers))


def before(box: Box) -> set[str]:
    """Of the one image that every box has."""
    return {name for name in stored(box) if (box.paths.layers / name / "bin" / "busybox").exists()}


def test_an_import_killed_anywhere_is_finished_by_the_next(box: Box, tmp_path: Path) -> None:
    source = str(tmp_path / "image")
    box.well("image", "rm", "busy:1")
    places = changes(box, "image", "import", source, "busy:1")
    for place in places:
        box.well("image", "rm", "busy:1")
        box.killed("image", "import", source, "busy:1", place=place)
        box.well("image", "import", source, "busy:1")
        assert len(stored(box)) == 1, place
        assert box.inventory.strays() == [], place


#: where the agent is killed while it deploys: before it is known, half made, and made but not told
STEPS = (
    "runtime/containers.py:Containers.create return 2",
    "runtime/prepare.py:Preparation.cgroup return 3",
    "runtime/prepare.py:Preparation._network return 2",
    "runtime/shim/forking.py:Birth.ground return 2",
    "runtime/shim/forking.py:Zygote.send return 1",
    "runtime/shim/forking.py:Birth.start return 3",
)


def test_an_agent_killed_while_it_deploys_is_followed_by_one_that_finishes(box: Box, agent: Agent) -> None:
    write(box, Node.free_port())
    for place in STEPS:
        assert box.killed("agent", "--settings", str(agent.settings), place=place), place
        agent.start()
        until(agent.converged, f"all runs after {place}")
        agent.end()
        box.settled()
        box.well("down", str(box.specs), "--volumes")
        assert box.inventory.strays() == [], place
