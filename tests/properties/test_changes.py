"""Any tree is the same tree after it was a layer; the layer between any two trees makes the second of the
first. Real overlay mounts."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.images.changes import write_changes
from runtime.images.layers import LayerJob, LayerStore, chain_ids
from runtime.linux import mounts, overlay
from tests.kernel.images_box import Box, digest, tree

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: overlay mounts, owners, devices"),
]

examples = settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)

# ---------------------------------------------------------------- trees


@dataclass(frozen=True)
class Node:
    """`kind` is file, dir, link, fifo or device; `content` is a link's target, or `times` over a file's
    bytes; `inner` are a directory's; `same` asks for a hard link to the first file, where there is one."""

    kind: str
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    content: bytes = b""
    times: int = 1
    xattr: bytes | None = None
    inner: tuple[tuple[str, Node], ...] = ()
    same: bool = False


NAMES = ["a", "b", ".c", "é\n", "n" * 101, "a.b", "a-b"]
ids = st.sampled_from([0, 0, 1, 70_000, 3_000_000_000])
clocks = st.sampled_from([0, 16 * 10**17, 1_600_000_000_123_456_789, -5_000_000_001, 2**33 * 10**9])
xattrs = st.none() | st.sampled_from([b"", b"v", b"\0\n=" * 5])
common: dict[str, Any] = {"uid": ids, "gid": ids, "mtime": clocks}
files = st.builds(
    Node,
    st.just("file"),
    mode=st.sampled_from([0o644, 0o755, 0o4711, 0o2600, 0o000]),
    content=st.sampled_from([b"x", b"y"]),
    times=st.sampled_from([0, 1, 511, 512, 70_000, 1_100_000]),
    xattr=xattrs,
    same=st.booleans(),
    **common,
)
links = st.builds(Node, st.just("link"), content=st.sampled_from([b"a", b"/etc", b"t" * 150]), **common)
others = st.builds(Node, st.sampled_from(["fifo", "device"]), mode=st.sampled_from([0o600, 0o666]), **common)


def directories(inner: st.SearchStrategy[Node], most: int = 4) -> st.SearchStrategy[Node]:
    return st.builds(
        Node,
        st.just("dir"),
        mode=st.sampled_from([0o755, 0o700, 0o1777, 0o2775]),
        xattr=xattrs,
        inner=st.dictionaries(st.sampled_from(NAMES), inner, max_size=most).map(lambda d: tuple(d.items())),
        **common,
    )


leaves = files | links | others
trees = directories(st.recursive(leaves, directories, max_leaves=8), 5)


def make(path: Path, node: Node, known: list[Path]) -> None:
    """At `path`, where nothing is."""
    if node.kind == "dir":
        path.mkdir()
        for name, inner in node.inner:
            make(path / name, inner, known)
    elif node.kind == "file":
        if node.same and known:
            os.link(known[0], path)
            return
        path.write_bytes(node.content * node.times)
        known.append(path)
    elif node.kind == "link":
        os.symlink(node.content, path)
    elif node.kind == "fifo":
        os.mkfifo(path)
    else:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    dress(path, node)


def dress(path: Path, node: Node) -> None:
    os.chown(path, node.uid, node.gid, follow_symlinks=False)
    if node.kind != "link":
        path.chmod(node.mode)
    if node.kind in ("file", "dir"):
        if "user.note" in os.listxattr(path):
            os.removexattr(path, "user.note")
        if node.xattr is not None:
            os.setxattr(path, "user.note", node.xattr)
    os.utime(path, ns=(node.mtime, node.mtime), follow_symlinks=False)


def become(path: Path, node: Node, known: list[Path], anew: Iterator[bool]) -> None:
    """Make what is at `path` like `node`: in its place where it can be, unless it is to be made `anew`."""
    status = path.lstat()
    kind = {stat.S_IFDIR: "dir", stat.S_IFREG: "file"}.get(stat.S_IFMT(status.st_mode), "")
    if kind == node.kind == "dir" and not next(anew):
        wanted = dict(node.inner)
        for name in os.listdir(path):
            if name not in wanted:
                remove(path / name)
        for name, inner in wanted.items():
            if os.path.lexists(path / name):
                become(path / name, inner, known, anew)
            else:
                make(path / name, inner, known)
    elif kind == node.kind == "file" and not node.same and not next(anew):
        path.write_bytes(node.content * node.times)
        known.append(path)
    else:
        remove(path)
        make(path, node, known)
        return
    dress(path, node)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextmanager
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


@contextmanager
def shown(base: Path, *layers: Path, upper: Path | None = None) -> Iterator[Path]:
    """A mount of `layers`, top first."""
    (base / "merged").mkdir(exist_ok=True)
    work = None
    if upper is not None:
        work = base / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
    overlay.mount(layers, upper, work, base / "merged")
    try:
        yield base / "merged"
    finally:
        mounts.unmount(base / "merged")


# ---------------------------------------------------------------- properties


@given(trees)
@examples
def test_any_tree_is_the_same_tree_after_it_was_a_layer(wanted: Node) -> None:
    with place() as base:
        make(base / "tree", wanted, [])
        before = tree(base / "tree")
        archive = b"".join(write_changes(base / "tree"))
        assert b"".join(write_changes(base / "tree")) == archive
        assert tree(base / "tree") == before
        store, id = LayerStore(base / "layers"), digest(archive)
        (base / "layers").mkdir()
        store.unpack(LayerJob(id, id, (), lambda: [archive]), "x")
        assert tree(store.path(id)) == before
        assert b"".join(write_changes(store.path(id))) == archive


@given(trees, trees, st.lists(st.booleans(), min_size=30, max_size=30))
@examples
def test_the_layer_between_two_trees_makes_the_second_of_the_first(
    first: Node, second: Node, anew: list[bool]
) -> None:
    with place() as base:
        box = Box(base / "box")
        make(box.paths.root / "lower", first, [])
        lower = box.store.commit_layer(box.paths.root / "lower", "")
        upper = box.paths.root / "upper"
        upper.mkdir()
        with shown(base, box.store.layers.path(lower.chain_id), upper=upper) as merged:
            choices = iter(anew * 100)
            next(choices)
            become_root(merged, second, choices)
            wanted = tree(merged)
        archive = b"".join(write_changes(upper))
        (base / "layers").mkdir()
        store = LayerStore(base / "layers")
        chain = chain_ids([lower.diff_id, digest(archive)])
        below = b"".join(box.store.layer_tar(lower.chain_id))
        store.unpack(LayerJob(chain[0], lower.diff_id, (), lambda: [below]), "x")
        store.unpack(LayerJob(chain[1], digest(archive), chain[:1], lambda: [archive]), "x")
        with shown(base, store.path(chain[1]), store.path(chain[0])) as merged:
            assert tree(merged) == wanted
        committed = box.store.commit_layer(upper, lower.chain_id)
        paths = [box.store.layers.path(item.chain_id) for item in (committed, lower)]
        with shown(base, *paths) as merged:
            assert tree(merged) == wanted
        assert digest(b"".join(box.store.layer_tar(committed.chain_id))) == committed.diff_id
        box.close()


def become_root(merged: Path, node: Node, anew: Iterator[bool]) -> None:
    """A mount's root cannot be made anew."""
    become(merged, node, [], iter([False, *anew]))
