"""Directories and git repositories as sources: real files, real inotify, real git."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from agent.sources.directory import DirectorySource, Unreadable, read
from agent.sources.git import GitSettings, GitSource, without_credentials
from agent.sources.revision import Failure, Revision, Yield

DEADLINE = 30.0


def follow(source: Any, act: Callable[[Callable[[], Any]], Any]) -> None:
    """Run `act(next)` beside the source; `next()` gives what it yields next."""

    async def main() -> None:
        stop = asyncio.Event()
        found: asyncio.Queue[Yield] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        async def pump(revisions: AsyncIterator[Yield]) -> None:
            async for item in revisions:
                found.put_nowait(item)

        task = asyncio.create_task(pump(source.revisions(stop)))

        def take(timeout: float = DEADLINE) -> Yield:
            future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(found.get(), timeout), loop)
            return future.result()

        try:
            await asyncio.to_thread(act, take)
        finally:
            stop.set()
            source.abort()
            await task

    asyncio.run(main())


def nothing_comes(take: Callable[..., Any], seconds: float = 0.4) -> bool:
    try:
        take(seconds)
    except TimeoutError:
        return True
    return False


# ---------------------------------------------------------------- directory


def test_a_change_is_seen_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("one")

    def act(take: Callable[..., Any]) -> None:
        first = take()
        assert first.files == {"a.toml": b"one"} and first.note == "1 file"
        begin = time.monotonic()
        (tmp_path / "a.toml").write_text("two")
        second = take()
        assert second.files == {"a.toml": b"two"}
        assert second.id != first.id
        assert time.monotonic() - begin < 5.0

    follow(DirectorySource(tmp_path), act)


def test_swap_files_and_other_noise_make_no_revision(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("one")

    def act(take: Callable[..., Any]) -> None:
        take()
        for name in (".a.toml.swp", "a.toml~", "4913", ".#a.toml", "#a.toml#", "photo.jpg"):
            (tmp_path / name).write_text("x")
            (tmp_path / name).unlink()
        os.utime(tmp_path / "a.toml")
        assert nothing_comes(take)

    follow(DirectorySource(tmp_path), act)


def test_an_atomic_save_is_one_revision(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("one")

    def act(take: Callable[..., Any]) -> None:
        take()
        (tmp_path / ".a.toml.new").write_text("two")
        (tmp_path / "a.toml").rename(tmp_path / "a.toml~")
        (tmp_path / ".a.toml.new").rename(tmp_path / "a.toml")
        assert take().files == {"a.toml": b"two"}
        assert nothing_comes(take)

    follow(DirectorySource(tmp_path), act)


def test_a_burst_of_changes_is_one_revision(tmp_path: Path) -> None:
    def act(take: Callable[..., Any]) -> None:
        take()
        (tmp_path / "sub" / "deep").mkdir(parents=True)
        for n in range(20):
            (tmp_path / "sub" / "deep" / f"{n}.toml").write_text(f"{n}")
        found = take()
        while len(found.files) < 20:  # a loaded machine may cut a burst in two, never a file
            found = take()
        assert found.files["sub/deep/7.toml"] == b"7"

    follow(DirectorySource(tmp_path), act)


def test_a_root_that_comes_goes_and_is_replaced_is_followed(tmp_path: Path) -> None:
    root = tmp_path / "root"

    def act(take: Callable[..., Any]) -> None:
        failure = take()
        assert isinstance(failure, Failure) and "no such file or directory" in failure.text
        root.mkdir()
        (root / "a.toml").write_text("one")
        found = take()
        while not (isinstance(found, Revision) and found.files):
            found = take()
        (tmp_path / "next").mkdir()
        (tmp_path / "next" / "a.toml").write_text("two")
        root.rename(tmp_path / "old")
        (tmp_path / "next").rename(root)
        found = take()
        while not (isinstance(found, Revision) and found.files == {"a.toml": b"two"}):
            found = take()
        (root / "a.toml").write_text("three")
        assert take().files == {"a.toml": b"three"}

    follow(DirectorySource(root), act)


def test_a_link_that_is_switched_is_followed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.toml").write_text(name)
    (tmp_path / "current").symlink_to("one")

    def act(take: Callable[..., Any]) -> None:
        assert take().files == {"a.toml": b"one"}
        (tmp_path / "fresh").symlink_to("two")
        (tmp_path / "fresh").rename(tmp_path / "current")
        assert take().files == {"a.toml": b"two"}

    follow(DirectorySource(tmp_path / "current"), act)


def test_a_link_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.toml").write_text("x")
    (root / "a.toml").symlink_to("../secret.toml")

    def act(take: Callable[..., Any]) -> None:
        found = take()
        assert isinstance(found, Failure) and "a.toml" in found.text and "leaves" in found.text

    follow(DirectorySource(root), act)


def test_a_link_to_nothing_is_refused_and_one_inside_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("one")
    (tmp_path / "b.toml").symlink_to("a.toml")
    assert read(tmp_path)[0].files == {"a.toml": b"one", "b.toml": b"one"}
    (tmp_path / "c.toml").symlink_to("nowhere.toml")
    with pytest.raises(Unreadable, match=r"c\.toml: it is a link to nothing"):
        read(tmp_path)


def test_a_name_that_is_not_utf_8_ends_nothing(tmp_path: Path) -> None:
    """A container may write it, where a directory of the source is mounted into it: watchfiles gives up."""
    (tmp_path / "a.toml").write_text("one")
    odd = os.fsencode(tmp_path) + b"/\xff"

    def act(take: Callable[..., Any]) -> None:
        assert take().files == {"a.toml": b"one"}
        Path(os.fsdecode(odd)).write_text("no spec")
        assert nothing_comes(take)
        (tmp_path / "a.toml").write_text("two")
        assert take().files == {"a.toml": b"two"}
        os.rename(odd, odd + b".toml")
        assert take() == Failure("cannot read \\xff.toml: its name is not UTF-8")
        os.unlink(odd + b".toml")
        assert take().files == {"a.toml": b"two"}

    follow(DirectorySource(tmp_path), act)


def test_a_snapshot_is_never_a_mixture(tmp_path: Path) -> None:
    """Two files are always written with the same content, one right after the other."""
    for name in ("a.toml", "b.toml"):
        (tmp_path / name).write_text("0")
    done = threading.Event()

    def write() -> None:
        for n in range(40):
            for name in ("a.toml", "b.toml"):
                (tmp_path / f".{name}").write_text(str(n))
                (tmp_path / f".{name}").rename(tmp_path / name)
            done.wait(0.08)

    def act(take: Callable[..., Any]) -> None:
        writer = threading.Thread(target=write)
        writer.start()
        found = take()
        while found.files["a.toml"] != b"39" or found.files["b.toml"] != b"39":
            found = take()
            assert abs(int(found.files["a.toml"]) - int(found.files["b.toml"])) <= 1
        writer.join()

    follow(DirectorySource(tmp_path), act)


# ---------------------------------------------------------------- git


def git(where: Path, *arguments: str) -> str:
    environment = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
        **{
            f"GIT_{who}_{what}": "t@example.org"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        },
    }
    done = subprocess.run(
        ["git", *arguments], cwd=where, env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def checkout(tmp_path: Path) -> Path:
    work = tmp_path / "work"
    work.mkdir()
    git(work, "init", "-q", "-b", "main")
    return work


def commit(work: Path, files: dict[str, str], message: str = "change") -> str:
    for name, content in files.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(content)
    git(work, "add", "-A")
    git(work, "commit", "-q", "-m", message)
    return git(work, "rev-parse", "HEAD")


def test_a_pushed_commit_becomes_a_revision(tmp_path: Path) -> None:
    work = checkout(tmp_path)
    first = commit(work, {"a.toml": "one", "www/index.html": "<p>"}, "begin\x1b here")
    bare = tmp_path / "bare.git"
    git(tmp_path, "clone", "-q", "--bare", str(work), str(bare))
    source = GitSource(GitSettings(str(bare), "main"), tmp_path / "mine")

    def act(take: Callable[..., Any]) -> None:
        found = take()
        assert found.id == first and found.files == {"a.toml": b"one"}
        assert found.note == "begin here (t@example.org)"
        source.accept(found)
        assert (Path(found.root) / "www/index.html").read_text() == "<p>"
        second = commit(work, {"a.toml": "two"})
        git(work, "push", "-q", str(bare), "main")
        found = take()
        assert found.id == second and found.files == {"a.toml": b"two"}

    follow(source, act)


def test_a_force_push_is_followed(tmp_path: Path) -> None:
    work = checkout(tmp_path)
    first = commit(work, {"a.toml": "one"})
    second = commit(work, {"a.toml": "two"})
    bare = tmp_path / "bare.git"
    git(tmp_path, "clone", "-q", "--bare", str(work), str(bare))

    def act(take: Callable[..., Any]) -> None:
        assert take().id == second
        git(work, "reset", "-q", "--hard", first)
        git(work, "push", "-q", "--force", str(bare), "main")
        assert take().id == first

    follow(GitSource(GitSettings(f"file://{bare}"), tmp_path / "mine"), act)


def test_a_mirror_that_a_power_cut_damaged_is_made_anew(tmp_path: Path) -> None:
    """Files whose content never reached the disk are empty after the next boot."""
    work = checkout(tmp_path)
    first = commit(work, {"a.toml": "one"})
    mine = tmp_path / "mine"
    follow(GitSource(GitSettings(str(work)), mine), lambda take: take())
    for path in [*(mine / "git/objects").glob("??/*"), mine / "git/refs/heads/main"]:
        path.chmod(0o644)
        path.write_bytes(b"")

    def act(take: Callable[..., Any]) -> None:
        found = take()
        assert isinstance(found, Revision) and found.id == first, found

    follow(GitSource(GitSettings(str(work)), mine), act)


def test_lock_files_of_a_killed_git_are_in_nobodys_way(tmp_path: Path) -> None:
    work = checkout(tmp_path)
    commit(work, {"a.toml": "one"})
    mine = tmp_path / "mine"
    follow(GitSource(GitSettings(str(work), "main"), mine), lambda take: take())
    for name in ("refs/heads/main.lock", "packed-refs.lock", "config.lock"):
        (mine / "git" / name).write_bytes(b"")
    second = commit(work, {"a.toml": "two"})

    def act(take: Callable[..., Any]) -> None:
        found = take()
        assert isinstance(found, Revision) and found.id == second, found

    follow(GitSource(GitSettings(str(work), "main"), mine), act)


def test_a_new_agent_leaves_the_tree_in_force_to_those_who_mounted_it(
    tmp_path: Path,
) -> None:
    work = checkout(tmp_path)
    commit(work, {"a.toml": "one", "www/index.html": "<p>"})

    def inode() -> int:
        def act(take: Callable[..., Any]) -> None:
            source.accept(take())

        source = GitSource(GitSettings(str(work)), tmp_path / "mine")
        follow(source, act)
        return (tmp_path / "mine/current/www/index.html").stat().st_ino

    assert inode() == inode()


def test_mounted_directories_follow_the_commits_and_keep_what_else_is_in_them(tmp_path: Path) -> None:
    work = checkout(tmp_path)
    commit(
        work, {"a.toml": "one", "www/index.html": "one", "www/old.html": "old", "gone/x": "x", "conf": "c"}
    )
    source = GitSource(GitSettings(str(work)), tmp_path / "mine")
    current = tmp_path / "mine/current"

    def act(take: Callable[..., Any]) -> None:
        source.accept(take())
        mounted = os.open(current / "www", os.O_RDONLY | os.O_DIRECTORY)
        (current / "www/data").mkdir()
        (current / "www/data/of-the-container").write_text("mine")
        for text in ("two", "three", "four"):
            (work / "www/old.html").unlink(missing_ok=True)
            (work / "gone/x").unlink(missing_ok=True)
            commit(work, {"www/index.html": text, "www/more/deep.html": text})
            source.accept(take())
            assert sorted(os.listdir(mounted)) == ["data", "index.html", "more"]
            assert (current / "www/more/deep.html").read_text() == text
            with os.fdopen(os.open("index.html", os.O_RDONLY, dir_fd=mounted)) as file:
                assert file.read() == text
        os.close(mounted)
        assert (current / "www/data/of-the-container").read_text() == "mine"
        assert not (current / "gone").exists() and (current / "conf").read_text() == "c"
        outside = tmp_path / "outside"
        outside.mkdir()
        shutil.rmtree(current / "www/more")
        (current / "www/more").symlink_to(outside)  # by the container
        commit(work, {"www/more/deep.html": "five"})
        source.accept(take())
        assert os.listdir(outside) == [] and (current / "www/more/deep.html").read_text() == "five"
        (work / "conf").unlink()
        commit(work, {"conf/is/a/directory/now": "c"})
        source.accept(take())
        assert (current / "conf/is/a/directory/now").read_text() == "c"

    follow(source, act)


def test_a_checkout_that_someone_else_updates_is_watched(tmp_path: Path) -> None:
    work = checkout(tmp_path)
    commit(work, {"a.toml": "one"})

    def act(take: Callable[..., Any]) -> None:
        assert take().files == {"a.toml": b"one"}
        (work / "a.toml").write_text("not committed")
        assert nothing_comes(take)
        commit(work, {"a.toml": "two"})
        assert take().files == {"a.toml": b"two"}

    follow(GitSource(GitSettings(str(work)), tmp_path / "mine"), act)


def test_tags_commits_and_subdirectories_can_be_named(tmp_path: Path) -> None:
    work = checkout(tmp_path)
    first = commit(work, {"deploy/a.toml": "one", "b.toml": "other"})
    git(work, "tag", "v1")
    commit(work, {"deploy/a.toml": "two"})

    def act(take: Callable[..., Any]) -> None:
        found = take()
        assert found.id == first and found.files == {"a.toml": b"one"}

    for ref in ("v1", first, first[:9]):
        follow(GitSource(GitSettings(str(work), ref, "deploy"), tmp_path / f"mine-{ref}"), act)


def test_another_subdirectory_of_the_same_commit_is_another_tree(tmp_path: Path) -> None:
    work, found = checkout(tmp_path), {}
    commit(work, {"a/x.toml": "one", "b/x.toml": "two"})

    for path in ("a", "b/"):
        source = GitSource(GitSettings(str(work), path=path), tmp_path / "mine")

        def act(take: Callable[..., Any], path: str = path, source: GitSource = source) -> None:
            found[path] = take()
            source.accept(found[path])
            assert (Path(found[path].root) / "x.toml").read_bytes() == found[path].files["x.toml"]

        follow(source, act)
    one, two = found.values()
    assert one.id == two.id and one.tree != two.tree
    assert (one.files, two.files) == ({"x.toml": b"one"}, {"x.toml": b"two"})


def test_all_of_a_commit_is_there_whatever_its_attributes_say(tmp_path: Path) -> None:
    work = checkout(tmp_path)
    attributes = "www/** export-ignore\na.toml export-ignore\nb.toml export-subst\n"
    commit(work, {"a.toml": "a", "b.toml": "$Format:%H$", "www/x": "x", ".gitattributes": attributes})

    def act(take: Callable[..., Any]) -> None:
        found = take()
        assert found.files == {"a.toml": b"a", "b.toml": b"$Format:%H$"}
        assert (Path(found.tree) / "www/x").read_text() == "x"

    follow(GitSource(GitSettings(str(work)), tmp_path / "mine"), act)


def test_a_missing_branch_and_a_missing_repository_are_told(tmp_path: Path) -> None:
    work = checkout(tmp_path)
    commit(work, {"a.toml": "one"})

    def act(take: Callable[..., Any]) -> None:
        found = take()
        assert isinstance(found, Failure) and "no such branch, tag or commit" in found.text

    follow(GitSource(GitSettings(str(work), "nowhere"), tmp_path / "mine"), act)

    def other(take: Callable[..., Any]) -> None:
        found = take()
        assert isinstance(found, Failure) and found.text.startswith("cannot fetch /nowhere/at/all")

    follow(GitSource(GitSettings("/nowhere/at/all"), tmp_path / "mine2"), other)

    def third(take: Callable[..., Any]) -> None:
        found = take()
        assert isinstance(found, Failure) and "has no commit yet" in found.text

    git(tmp_path, "init", "-q", "--bare", "empty.git")
    follow(GitSource(GitSettings(str(tmp_path / "empty.git")), tmp_path / "mine3"), third)


def test_hooks_and_configuration_of_a_repository_are_not_run(tmp_path: Path) -> None:
    work = checkout(tmp_path)
    commit(work, {"a.toml": "one"})
    flag = tmp_path / "ran"
    for name in ("post-checkout", "reference-transaction", "pre-auto-gc"):
        hook = work / ".git" / "hooks" / name
        hook.write_text(f"#!/bin/sh\ntouch {flag}\n")
        hook.chmod(0o755)
    git(work, "config", "core.fsmonitor", f"touch {flag}")
    git(work, "config", "uploadpack.packObjectsHook", f"touch {flag};")

    def act(take: Callable[..., Any]) -> None:
        assert isinstance(take(), Revision)

    follow(GitSource(GitSettings(str(work)), tmp_path / "mine"), act)
    assert not flag.exists()


def test_a_subdirectory_that_does_not_exist_is_told(tmp_path: Path) -> None:
    work = checkout(tmp_path)
    commit(work, {"a.toml": "one"})

    def act(take: Callable[..., Any]) -> None:
        found = take()
        assert isinstance(found, Failure) and "cannot archive" in found.text, found

    follow(GitSource(GitSettings(str(work), path="none"), tmp_path / "mine"), act)


def test_credentials_are_not_shown(tmp_path: Path) -> None:
    assert without_credentials("https://me:secret@host/x.git") == "https://host/x.git"
    assert without_credentials("git@host:x.git") == "git@host:x.git"
    token = tmp_path / "token"
    token.write_text("hush\n")
    settings = GitSettings("http://127.0.0.1:1/x.git", token_file=str(token))
    source = GitSource(settings, tmp_path / "mine")

    def act(take: Callable[..., Any]) -> None:
        found = take()
        assert isinstance(found, Failure) and "hush" not in found.text and "cannot fetch" in found.text

    follow(source, act)
