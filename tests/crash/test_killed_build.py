"""kill -9 in a build, anywhere: the next build comes to the same image, nothing is left, and the cache is
whole."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest

from runtime.build.workspace import KEPT, SLICE
from tests.crash.box import Box, share, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]

#: Where a build changes something: directories, layers, rows, processes, networks.
CHANGES = re.compile(
    r"runtime/(build/(workspace|cache|copy|copying|executor|network|stages|run|stubs)\.py:\S+"
    r"|images/(compose|catalog)\.py:\S*(commit|adopt|add|record|name)\S*"
    r"|database\.py:Database\.write|net/fabric\.py:\S*(reserve|attach|create|remove)\S*) (call|return)"
)
MOST = 30
DOCKERFILE = "FROM busy:1\nCOPY a /a\nRUN echo run > /b; sleep 0.05\nWORKDIR /w\nCOPY d /d\n"


@pytest.fixture
def context(box: Box) -> str:
    place = box.base / "context"
    (place / "d").mkdir(parents=True)
    (place / "Dockerfile").write_text(DOCKERFILE)
    (place / "a").write_text("a")
    for number in range(5):
        (place / "d" / str(number)).write_text(str(number) * 1000)
    return str(place)


def leftovers(box: Box) -> list[str]:
    work = box.paths.root / "build"
    left = [name for name in os.listdir(work) if name not in KEPT]
    left += os.listdir(box.paths.run / "build")
    return left + box.inventory.strays()


def sums(box: Box) -> str:
    """What the image shows, without its times."""
    out = box.base / "out.tar"
    out.unlink(missing_ok=True)
    box.well("build", "-o", f"type=tar,dest={out}", str(box.base / "context"))
    listed = subprocess.run(["tar", "-tf", str(out)], capture_output=True, check=True, text=True).stdout
    return "\n".join(sorted(listed.splitlines()))


def test_a_build_killed_anywhere_is_finished_by_the_next(box: Box, context: str) -> None:
    passed = box.places("build", "-t", "built:1", context)
    places = [f"{place} {nth}" for place, count in passed.items() for nth in sorted({1, count})]
    places = [place for place in places if CHANGES.fullmatch(place.rpartition(" ")[0])]
    assert len(places) > 2 * MOST, places
    whole = sums(box)
    places, reached = share(places[:: len(places) // MOST]), 0
    for place in places:
        box.well("builder", "prune", "-f")
        box.well("image", "rm", "built:1")
        reached += box.killed("build", "--no-cache", "-t", "built:1", context, place=place)
        box.well("build", "-t", "built:1", context)
        assert leftovers(box) == [], place
        assert sums(box) == whole, place
        box.well("image", "verify")
    assert reached > len(places) // 2


def test_a_step_that_runs_ends_with_the_build(box: Box, context: str) -> None:
    """The build is killed while a program of it runs: program, mounts and cgroup go with it."""
    dockerfile = box.base / "slow"
    dockerfile.write_text("FROM busy:1\nRUN sleep 1000\n")
    place = "runtime/build/executor.py:Executor._follow call 1"
    assert box.killed("build", "-f", str(dockerfile), context, place=place)
    (build,) = (name for name in os.listdir(box.paths.root / "build") if name not in KEPT)
    host = box.inventory.cgroups
    until(lambda: not [name for name in host.children(SLICE) if build in name], "the step ends")
    box.well("build", "-t", "built:1", context)
    assert leftovers(box) == []
