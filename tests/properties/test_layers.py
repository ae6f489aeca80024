"""Any tree made a layer and unpacked is the same tree; the difference of two, applied, gives the second."""

from __future__ import annotations

import functools
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.images.changes import write_changes, write_tree
from runtime.images.layers import LayerJob, LayerStore, chain_ids
from runtime.linux import mounts, overlay
from tests.kernel.images_box import digest, tree

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
slow = settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)

NAMES = ["a", "b", "c", "caf\u00e9 \U0001f600", "l" * 120]
TIME = 1_600_000_000 * 10**9

paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
owners = st.sampled_from([0, 1000, 70_000, 3_000_000_000])
modes = st.sampled_from([0o644, 0o755, 0o4755, 0o2711, 0o1777, 0o000])
contents = st.one_of(st.binary(max_size=50), st.sampled_from([b"x" * 512, b"y" * 70_000]))
xattrs = st.dictionaries(
    st.sampled_from(["user.a", "user.b"]), st.binary(min_size=1, max_size=20), max_size=2
)
things = st.one_of(
    st.tuples(st.just("file"), contents, owners, modes, xattrs),
    st.tuples(st.just("directory"), st.just(b""), owners, modes, xattrs),
    st.tuples(st.just("link"), st.sampled_from([b"a", b"../b", b"/etc/x"]), owners, modes, xattrs),
    st.tuples(st.just("fifo"), st.just(b""), owners, modes, xattrs),
    st.tuples(st.just("device"), st.just(b""), owners, modes, xattrs),
    st.tuples(st.just("hard link"), paths.map(os.fsencode), owners, modes, xattrs),
)
trees = st.lists(st.tuples(paths, things), max_size=8)


def clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


def make(root: Path, wanted: list[tuple[str, Any]]) -> None:
    """Each thing in turn; what cannot be where it should is left out."""
    for name, (kind, content, owner, mode, notes) in wanted:
        path = root / name
        if any(
            parent.is_symlink() or (parent.exists() and not parent.is_dir()) for parent in parents(root, path)
        ):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "hard link":
            target = root / os.fsdecode(content)
            if target == path or not os.path.lexists(target) or (target.is_dir() and not target.is_symlink()):
                continue
            if any(parent.is_symlink() for parent in parents(root, target)) or path in target.parents:
                continue
            clear(path)
            os.link(target, path, follow_symlinks=False)
            continue
        if kind != "directory" or not path.is_dir() or path.is_symlink():
            clear(path)
        put(path, kind, content, owner, mode, notes)
    settle(root)


def parents(root: Path, path: Path) -> list[Path]:
    return [parent for parent in path.parents if root in parent.parents]


def put(path: Path, kind: str, content: bytes, owner: int, mode: int, notes: dict[str, bytes]) -> None:
    if kind == "file":
        path.write_bytes(content)
    elif kind == "directory":
        path.mkdir(exist_ok=True)
    elif kind == "link":
        path.symlink_to(os.fsdecode(content))
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 7))
    os.chown(path, owner, owner, follow_symlinks=False)
    if kind != "link":
        os.chmod(path, mode)
    if kind in ("file", "directory"):
        for key, value in notes.items():
            os.setxattr(path, key, value)


def settle(root: Path) -> None:
    """Times that do not depend on when this ran."""
    for folder, folders, files in os.walk(root, topdown=False):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            os.utime(path, ns=(TIME, TIME), follow_symlinks=False)
    os.utime(root, ns=(TIME, TIME))


@functools.cache
def memory() -> str | None:
    """Where it is fast, if that file system has all that layers need (user xattrs: Linux 6.6)."""
    try:
        with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
            os.setxattr(file.name, "user.x", b"y")
    except OSError:
        return None
    return "/dev/shm"


@contextmanager
def workplace() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=memory()) as place:
        root = Path(place)
        for name in ("layers", "one", "upper", "work", "merged", "again"):
            (root / name).mkdir()
        yield root


def unpacked(root: Path, archives: list[bytes]) -> list[Path]:
    """The layers' directories, bottom first."""
    store = LayerStore(root / "layers")
    diff_ids = [digest(item) for item in archives]
    chain = chain_ids(diff_ids)
    for index, archive in enumerate(archives):
        store.unpack(LayerJob(chain[index], diff_ids[index], chain[:index], lambda a=archive: [a]), "x")
    return [store.path(item) for item in chain]


@given(trees)
@slow
def test_any_tree_made_a_layer_and_unpacked_is_the_same_tree(wanted: list[tuple[str, Any]]) -> None:
    with workplace() as root:
        make(root / "one", wanted)
        (found,) = unpacked(root, [b"".join(write_tree(root / "one"))])
        assert tree(found) == tree(root / "one")


@given(trees, trees, st.lists(paths, max_size=3))
@slow
def test_what_one_tree_becomes_another_by_gives_the_other_when_applied(
    before: list[tuple[str, Any]], after: list[tuple[str, Any]], gone: list[str]
) -> None:
    with workplace() as root:
        make(root / "one", before)
        first = b"".join(write_tree(root / "one"))
        (lower,) = unpacked(root, [first])
        overlay.mount([lower], root / "upper", root / "work", root / "merged")
        try:
            for name in gone:
                path = root / "merged" / name
                if not any(parent.is_symlink() for parent in parents(root / "merged", path)):
                    clear(path)
            make(root / "merged", after)
            wanted = tree(root / "merged")
        finally:
            mounts.unmount(root / "merged")
        second = b"".join(write_changes(root / "upper"))
        assert b"".join(write_changes(root / "upper")) == second
        layers = unpacked(root, [first, second])
        for name in ("upper", "work"):
            shutil.rmtree(root / name)
            (root / name).mkdir()
        overlay.mount(list(reversed(layers)), root / "upper", root / "work", root / "again")
        try:
            found = tree(root / "again")
            del found["."], wanted["."]  # which is that of the container's own layer
            assert found == wanted
        finally:
            mounts.unmount(root / "again")
