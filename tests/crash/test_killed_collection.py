"""kill -9 while images are pruned, collected, set aside: the store verifies clean, the next try finishes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.bomb import REPOSITORY
from tests.crash.box import Box, share
from tests.kernel.images_box import BASE, Layout, file, layer

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

#: functions that change something, or come between two that do
CHANGES = re.compile(
    r"runtime/images/(collect\.py:Collector\.(_perform|collect|evict|prune)"
    r"|catalog\.py:Catalog\.(delete|unname)"
    r"|layers\.py:LayerStore\.(hide|discard|clear_aside)"
    r"|blobs\.py:BlobStore\.remove) (call|return)"
)


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    made = Layout(tmp_path / "layout")
    for name in ("one", "two"):
        made.image([BASE, layer(file(name, os.urandom(50_000)))], tag=name)
    return made.path


def fill(box: Box, layout: Path) -> None:
    for name in ("one", "two"):
        box.well("image", "import", str(layout), f"app:{name}")


def files(box: Box) -> list[str]:
    rotten = box.paths.root / "rotten"
    return [
        *os.listdir(box.paths.layers),
        *os.listdir(box.paths.blobs),
        *(os.listdir(rotten) if rotten.exists() else ()),
    ]


def test_a_prune_killed_anywhere_leaves_a_whole_store_and_is_finished_by_the_next(
    box: Box, layout: Path
) -> None:
    words = ("image", "prune", "-a", "-f")
    box.well(*words)
    fill(box, layout)
    places = [f"{place} {n}" for place, n in box.places(*words).items() if CHANGES.fullmatch(place)]
    assert len(places) > 10
    for place in share(places):
        fill(box, layout)
        assert box.killed(*words, place=place), place
        box.well("image", "verify")
        box.well(*words)
        assert files(box) == [], place


def test_a_collection_killed_anywhere_leaves_a_whole_store_and_is_finished_by_the_next(
    box: Box, layout: Path, tmp_path: Path
) -> None:
    """As the agent does it: what has no name and no use is old enough at once."""
    box.well("image", "prune", "-a", "-f")
    fill(box, layout)
    code, seen = collect(box, "")
    assert code == 0
    places = [f"{place} {n}" for place, n in seen.items() if CHANGES.fullmatch(place)]
    assert len(places) > 5
    for place in share(places):
        fill(box, layout)
        assert collect(box, place)[0] == -signal.SIGKILL, place
        box.well("image", "verify")
        assert collect(box, "")[0] == 0
        assert files(box) == [], place


COLLECT = """
import json, sys, time
from pathlib import Path
from runtime.database import Database
from runtime.images.garbage import Limits
from runtime.images.store import IMAGES_SCHEMA, ImageStore
from runtime.paths import Paths
from tests.crash.bomb import Bomb

paths = Paths(Path(sys.argv[1]), Path(sys.argv[2]))
database = Database(paths.database)
store = ImageStore(paths, database)
bomb = Bomb(sys.argv[3], Path(sys.argv[2]) / "survivors")
bomb.arm()
store.collect((), time.time() + 3600, Limits(unused_for=1.0, keep_for=1.0))
sys.setprofile(None)
print(json.dumps(bomb.seen))
"""


def collect(box: Box, place: str) -> tuple[int, dict[str, int]]:
    done = subprocess.run(
        [sys.executable, "-c", COLLECT, str(box.paths.root), str(box.paths.run), place],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode, json.loads(done.stdout) if done.returncode == 0 else {}


def test_setting_aside_killed_anywhere_is_finished_by_the_next_look(box: Box, layout: Path) -> None:
    words = ("image", "verify", "-q")
    fill(box, layout)

    def harm() -> None:
        for path in box.paths.layers.glob("*/one"):
            path.chmod(0o777)

    harm()
    assert box.stead(*words)[0] == 1
    place = "runtime/images/layers.py:LayerStore.set_aside"
    for end in ("call", "return"):
        fill(box, layout)
        harm()
        assert box.killed(*words, place=f"{place} {end}")
        box.stead(*words)
        fill(box, layout)
        box.well("image", "verify")
    box.well("image", "prune", "-a", "-f")
    assert not list(box.paths.layers.glob("*/one"))
