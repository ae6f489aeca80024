"""Effects: the directory that relative paths of a git source lead to: it stays while its commits change.

Containers have directories of it mounted, so those stay the same directories and only what changed from one
commit to the next is touched. Links of the commit that lead out of it are left out. What a container or a
person put there beside the commit's files stays, as `git checkout` leaves untracked files. A container may
change what it has mounted at any moment: no link in the target is ever followed.
"""

from __future__ import annotations

import filecmp
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.linux import trees

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def update(target: Path, new: Path, old: Path | None) -> None:
    """Bring `target` from the tree `old` (None: it is not known) to the tree `new`.

    Each file is replaced in one rename. Repeatable at any point.
    """
    parent = os.open(target.parent, _DIRECTORY)
    try:
        with _made(parent, target.name) as directory:
            _bring(directory, new, old, 0)
    finally:
        os.close(parent)


def _bring(target: int, new: Path, old: Path | None, depth: int) -> None:
    """`depth`: how many directories `new` lies below the tree."""
    if old is not None and _is_directory(old):
        _take_away(target, new, old, depth)
    there = set(os.listdir(target))
    for name in sorted(os.listdir(new)):
        if _leaves(new / name, depth):
            continue
        before = old / name if old is not None else None
        if _is_directory(new / name):
            with _made(target, name) as directory:
                _bring(directory, new / name, before, depth + 1)
        elif name not in there or before is None or not _same(new / name, before):
            _replace(target, name, new / name)


def _take_away(target: int, new: Path, old: Path, depth: int) -> None:
    """What `old` had and `new` has not; a directory stays where something else is in it."""
    for name in os.listdir(old):
        if os.path.lexists(new / name) and not _leaves(new / name, depth):
            continue
        try:
            if not _is_directory(old / name):
                os.unlink(name, dir_fd=target)
                continue
            with _opened(target, name) as directory:
                _take_away(directory, new / name, old / name, depth + 1)
                left = os.listdir(directory)
            if not left:
                os.rmdir(name, dir_fd=target)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            continue  # something else is there by now


def _leaves(path: Path, depth: int) -> bool:
    """Whether it is a link that leads out of the tree, `depth` directories above it."""
    if not path.is_symlink():
        return False
    where = os.path.normpath(os.readlink(path))
    return where.startswith("/") or where.split("/")[: depth + 1] == [".."] * (depth + 1)


def _replace(target: int, name: str, source: Path) -> None:
    fresh = f".{name[:50]}.stead-new"
    trees.discard(fresh, dir_fd=target)
    status = source.lstat()
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(source), fresh, dir_fd=target)
    else:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
        with os.fdopen(fd, "wb") as file:
            file.write(source.read_bytes())
            os.fchmod(fd, stat.S_IMODE(status.st_mode))
    try:
        os.rename(fresh, name, src_dir_fd=target, dst_dir_fd=target)
    except IsADirectoryError:
        trees.discard(name, dir_fd=target)
        os.rename(fresh, name, src_dir_fd=target, dst_dir_fd=target)


@contextmanager
def _opened(parent: int, name: str) -> Iterator[int]:
    """NotADirectoryError for a link, too."""
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _made(parent: int, name: str) -> Iterator[int]:
    """A directory that is there or is made; anything else of this name is removed."""
    try:
        os.mkdir(name, 0o755, dir_fd=parent)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=parent)
            os.mkdir(name, 0o755, dir_fd=parent)
    with _opened(parent, name) as fd:
        yield fd


def _same(one: Path, other: Path) -> bool:
    """Kind, mode and content."""
    try:
        a, b = one.lstat(), other.lstat()
    except OSError:
        return False
    if a.st_mode != b.st_mode:
        return False
    if stat.S_ISLNK(a.st_mode):
        return os.readlink(one) == os.readlink(other)
    return filecmp.cmp(one, other, shallow=False)


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
