"""The tree of a commit: its links stay inside, and it is not too large. Real git, and archives by hand."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.sources.git import GitFailed, GitSettings, GitSource, unpack
from agent.sources.revision import Failure
from runtime.linux.trees import remove
from tests.deep import dig
from tests.kernel.test_sources import checkout, commit, follow


def test_a_spec_of_a_tree_may_be_a_link_to_another_file_of_it(tmp_path: Path) -> None:
    work = checkout(tmp_path)
    (work / "b.toml").symlink_to("dir/c.toml")
    (work / "dir").mkdir()
    (work / "dir" / "c.toml").symlink_to("../a.toml")
    commit(work, {"a.toml": "one"})

    def act(take: Callable[..., Any]) -> None:
        assert take().files == dict.fromkeys(("a.toml", "b.toml", "dir/c.toml"), b"one")

    follow(GitSource(GitSettings(str(work)), tmp_path / "mine"), act)


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("../../x.toml", "leaves the source"),
        ("/etc/passwd", "leaves the source"),
        ("no.toml", "link to nothing"),
    ],
)
def test_a_spec_of_a_tree_that_is_a_link_elsewhere_is_refused(target: str, why: str, tmp_path: Path) -> None:
    work = checkout(tmp_path)
    (work / "b.toml").symlink_to(target)
    commit(work, {"a.toml": "one"})

    def act(take: Callable[..., Any]) -> None:
        found = take()
        assert isinstance(found, Failure) and "b.toml" in found.text and why in found.text

    follow(GitSource(GitSettings(str(work)), tmp_path / "mine"), act)


def test_links_in_a_tree_stay_inside(tmp_path: Path) -> None:
    work = checkout(tmp_path)
    (work / "good").symlink_to("a.toml")
    (work / "bad").symlink_to("../../../../etc/passwd")
    (work / "worse").symlink_to("/etc/passwd")
    commit(work, {"a.toml": "one"})
    source = GitSource(GitSettings(str(work)), tmp_path / "mine")

    def act(take: Callable[..., Any]) -> None:
        found = take()
        source.accept(found)
        assert (Path(found.root) / "good").read_text() == "one"
        assert not os.path.lexists(Path(found.root) / "bad")
        assert not os.path.lexists(Path(found.root) / "worse")
        assert (Path(found.tree) / "worse").readlink() == Path("/etc/passwd")  # builds copy it as it is

    follow(source, act)


def test_a_link_in_a_subdirectory_may_lead_up_to_the_root_of_the_tree(tmp_path: Path) -> None:
    work = checkout(tmp_path)
    (work / "x").mkdir()
    (work / "x" / "up").symlink_to("../a.toml")
    (work / "x" / "out").symlink_to("../../a.toml")
    commit(work, {"a.toml": "one"})
    source = GitSource(GitSettings(str(work)), tmp_path / "mine")

    def act(take: Callable[..., Any]) -> None:
        found = take()
        source.accept(found)
        assert (Path(found.root) / "x" / "up").read_text() == "one"
        assert not os.path.lexists(Path(found.root) / "x" / "out")

    follow(source, act)


def test_nothing_is_made_below_a_link_of_a_tree(tmp_path: Path) -> None:
    """As only a forged tree object has it: a name twice, as a link and as a directory with a link in it."""
    data, outside = io.BytesIO(), tmp_path / "outside"
    outside.mkdir()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, target in (("a", str(outside)), ("a/b/c", "x")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    data.seek(0)
    with tarfile.open(fileobj=data) as tar, pytest.raises(GitFailed, match="below a link"):
        unpack(tar, tmp_path / "tree")
    assert os.listdir(outside) == []


def test_a_tree_that_is_too_deep_is_refused_until_it_is_mended(tmp_path: Path) -> None:
    work = checkout(tmp_path)
    commit(work, {"a.toml": "one"})
    dig(work, 1500, "d")
    commit(work, {"b.toml": "two"})

    def act(take: Callable[..., Any]) -> None:
        found = take()
        assert isinstance(found, Failure) and "deeper than 256 directories" in found.text
        assert len(found.text) < 300
        remove(work / "d")
        commit(work, {"b.toml": "three"})
        assert take().files == {"a.toml": b"one", "b.toml": b"three"}

    try:
        follow(GitSource(GitSettings(str(work)), tmp_path / "mine"), act)
    finally:
        if (work / "d").exists():
            remove(work / "d")


def test_a_tree_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = checkout(tmp_path)
    (work / "big.bin").write_bytes(os.urandom(4 << 20))
    commit(work, {"a.toml": "one"})
    monkeypatch.setattr("agent.sources.git.MAX_TREE_BYTES", 1 << 20)

    def act(take: Callable[..., Any]) -> None:
        found = take()
        assert isinstance(found, Failure) and "the tree: larger than 1 MiB" in found.text

    follow(GitSource(GitSettings(str(work)), tmp_path / "mine"), act)
