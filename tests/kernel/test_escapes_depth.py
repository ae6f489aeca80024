"""A container that makes directories deeper than Python calls itself, and than any path is long. Needs root.

Whoever goes down such a tree by calling itself ends with a RecursionError, and whoever does so by paths with
ENAMETOOLONG or somewhere else: nothing of the container could be removed, and each look at it failed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.build.workspace import DIRECTORY
from tests.kernel.engine_box import Engine, engine
from tests.kernel.shim_box import until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

#: A shell goes down as far as a path is long, and then another such tree is moved to where it is.
DIG = """
dig() { mkdir -p /deep/$1; cd /deep/$1; i=0; while [ $i -lt 2000 ]; do mkdir d; cd ./d; i=$((i+1)); done; }
dig b; echo abc >file; dig a; mv /deep/b .; echo dug
"""

#: The second time the volume is where the link leads.
LINK = """
cd /srv/x/in; if [ -e file ]; then echo made; exit; fi; echo abc >file; cd /
mv /srv /was; p=/new; while [ ${#p} -lt 2400 ]; do p=$p/a; done; ln -s $p /srv
"""


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("depth")) as made:
        yield made


def stead(box: Engine, *words: str, code: int = 0) -> str:
    done = subprocess.run(box.stead(*words), capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert len(done.stderr) < 2000
    return done.stdout + done.stderr


def left(box: Engine) -> list[str]:
    """Directories of that name, wherever in the store: find(1) goes as deep as need be."""
    command = ["find", str(box.paths.root), "-name", "deep", "-prune"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_a_containers_deep_files_are_counted_and_removed(box: Engine) -> None:
    name = box.start(DIG + "exec sleep 1000")
    until(lambda: "dug" in box.output(name), 60)
    assert "4B (virtual" in stead(box, "ps", "-as")
    stead(box, "system", "df", "-v")
    stead(box, "inspect", "-s", name)
    deep = "has more than 256 directories above it"
    assert deep in stead(box, "export", "-o", str(box.paths.run / "out.tar"), name, code=1)
    assert deep in stead(box, "commit", name, "t/deep:1", code=1)
    assert stead(box, "diff", name, code=1).endswith("... is a path too long to go on\n")
    said = stead(box, "cp", f"{name}:/deep", str(box.paths.run / "copy"), code=1)
    assert "more than 256 directories in each other" in said
    stead(box, "rm", "-f", name)
    assert left(box) == []


def test_a_volumes_deep_files_are_counted_and_removed(box: Engine) -> None:
    stead(box, "volume", "create", "deeper")
    assert "dug" in stead(box, "run", "--rm", "-v", "deeper:/deep", "tests/busybox:1", "sh", "-c", DIG)
    assert "deeper" in stead(box, "system", "df", "-v")
    assert "directories above it" in stead(box, "volume", "backup", "deeper", code=1)
    stead(box, "volume", "rm", "deeper")
    stead(box, "volume", "create", "deeper")
    stead(box, "run", "--rm", "-v", "deeper:/deep", "tests/busybox:1", "sh", "-c", DIG)
    assert "deeper" in stead(box, "volume", "prune", "-af")
    assert os.listdir(box.paths.volumes) in ([], [".removed"])


def test_a_destination_behind_a_link_to_deep_nothing_is_made(box: Engine) -> None:
    stead(box, "volume", "create", "linked")
    stead(box, "run", "--name", "linked", "-v", "linked:/srv/x/in", "tests/busybox:1", "sh", "-c", LINK)
    stead(box, "cp", "linked:/srv/x/in/file", str(box.paths.run / "copy"))
    assert "made" in stead(box, "start", "-a", "linked")
    stead(box, "rm", "-fv", "linked")


@pytest.mark.parametrize(
    ("option", "last", "code"),
    [("", "true", 1), ("", "false", 1), ("--mount=type=cache,target=/deep", "true", 0)],
    ids=["layer", "failed", "cache"],
)
def test_a_builds_deep_files_are_removed(
    box: Engine, tmp_path: Path, option: str, last: str, code: int
) -> None:
    text = f"FROM tests/busybox:1\nRUN {option} <<E\n{DIG}{last}\nE\n"
    (tmp_path / "Dockerfile").write_text(text)
    done = subprocess.run(box.stead("build", str(tmp_path)), capture_output=True, text=True, timeout=120)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr[-2000:]
    stead(box, "system", "df")
    stead(box, "builder", "prune", "-af")
    assert left(box) == []
    caches = box.paths.root / DIRECTORY / "cache"
    assert not caches.exists() or os.listdir(caches) == []
