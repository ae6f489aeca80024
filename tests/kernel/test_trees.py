"""Directory trees of any depth, that change meanwhile, and with mounts in them."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.linux import mounts, trees
from tests.at_once import at_once
from tests.deep import dig

#: More than Python calls itself, and more than a path of four bytes a level has room for.
DEPTH = 3000


@pytest.fixture
def top(tmp_path: Path) -> Iterator[Path]:
    top = tmp_path / "top"
    top.mkdir()
    yield top
    if top.exists():
        trees.remove(top)


#: What a call holds meanwhile and afterwards: in a process of its own, where nobody else opens or closes.
COUNT = """
import os, sys
from runtime.linux import trees
def held(): return len(os.listdir("/proc/self/fd"))
before = most = held()
if sys.argv[1] == "walk":
    for _ in trees.walk(sys.argv[2]): most = max(most, held())
else:
    trees.remove(sys.argv[2])
print(most - before, held() - before)
"""


def descriptors(verb: str, top: Path) -> tuple[int, int]:
    """More than before, at most while it is done, and afterwards."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT, verb, top], capture_output=True, text=True, check=True
    )
    meanwhile, afterwards = map(int, done.stdout.split())
    return meanwhile, afterwards


def test_every_directory_of_a_deep_tree_is_seen(top: Path) -> None:
    dig(top, DEPTH)
    (top / "side").mkdir()
    os.symlink("/etc", top / "link")
    seen = []
    for fd, names in trees.walk(top):
        seen.append(sorted(names))
        assert all(os.stat(name, dir_fd=fd, follow_symlinks=False) for name in names)
    assert seen[0] == ["link"]
    assert seen.count(["file"]) == DEPTH and seen.count([]) == 1
    meanwhile, afterwards = descriptors("walk", top)
    assert meanwhile <= 2 and afterwards == 0


def test_a_deep_tree_is_removed(top: Path) -> None:
    dig(top, DEPTH)
    dig(top / "deep", DEPTH, "second")
    outside = top.with_name("outside")
    outside.write_text("stays")
    os.symlink(outside, top / "link")
    os.mkfifo(top / "pipe")
    assert descriptors("remove", top) == (0, 0)
    assert not top.exists()
    assert outside.read_text() == "stays"
    with pytest.raises(FileNotFoundError):
        trees.remove(top)
    trees.remove(top, ignore_errors=True)


def test_a_link_is_not_followed_to_what_is_to_be_removed(top: Path) -> None:
    (top / "kept").mkdir()
    link = top.with_name("link")
    os.symlink(top, link)
    with pytest.raises(NotADirectoryError):
        trees.remove(link)
    assert (top / "kept").exists()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount")
@pytest.mark.parametrize("ignore_errors", [False, True])
def test_what_is_mounted_stays_and_the_rest_goes(top: Path, ignore_errors: bool) -> None:
    """A bind mount has the device of the tree it is in."""
    other = top.with_name("other")
    other.mkdir()
    (other / "kept").write_text("kept")
    for name in ("a/b", "a/mounted", "z/y"):
        (top / name).mkdir(parents=True)
        (top / name / "file").touch()
    mounts.bind(other, top / "a/mounted")
    try:
        assert sum(len(names) for _, names in trees.walk(top)) == 2
        if ignore_errors:
            trees.remove(top, ignore_errors=True)
        else:
            with pytest.raises(OSError) as caught:
                trees.remove(top)
            assert caught.value.errno == errno.EBUSY
        assert (other / "kept").read_text() == "kept"
        assert os.listdir(top) == ["a"] and os.listdir(top / "a") == ["mounted"]
    finally:
        mounts.unmount(top / "a/mounted")


def test_two_that_remove_one_tree_both_succeed(top: Path) -> None:
    for number in range(50):
        (top / f"{number}/a/b").mkdir(parents=True)
        (top / f"{number}/a/b/file").touch()
    errors = at_once(2, lambda: trees.remove(top))
    assert not top.exists()
    assert all(isinstance(error, FileNotFoundError) for error in errors)


def test_a_directory_that_is_moved_out_of_the_tree_leads_nobody_out(top: Path) -> None:
    """`..` of it is another directory then, of which nothing is touched."""
    outside = top.with_name("outside")
    (outside / "precious").mkdir(parents=True)
    (top / "a/b/c").mkdir(parents=True)
    steps = trees.walk(top)
    while not os.readlink(f"/proc/self/fd/{next(steps)[0]}").endswith("/c"):
        pass
    os.rename(top / "a/b", outside / "b")
    os.rename(outside / "b/c", outside / "c")
    with pytest.raises(OSError) as caught:
        next(steps)
    assert caught.value.errno == errno.ESTALE
    assert (outside / "precious").exists()


def test_a_directory_that_became_a_link_is_not_entered(top: Path) -> None:
    outside = top.with_name("outside")
    outside.mkdir()
    (outside / "file").touch()
    (top / "a").mkdir()
    (top / "a/inner").touch()
    steps = trees.walk(top)
    next(steps)
    shutil.rmtree(top / "a")
    os.symlink(outside, top / "a")
    assert list(steps) == []
