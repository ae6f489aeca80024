"""Effects: in what two unpacked layers differ: one as it lies in the store, one made of the archive anew.

Read only; symbolic links are not followed. Times of directories do not count: those that an archive does not
name get the time at which they were made.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from runtime.images.lowers import OPAQUE, is_whiteout

CHUNK = 1024 * 1024  # bytes that are compared at once
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NOATIME | os.O_CLOEXEC


def differences(found: Path, wanted: Path) -> Iterator[str]:
    """One line for each path that is not as it should be: "usr/bin/tool: its content differs"."""
    ours, theirs = os.open(found, _DIRECTORY), os.open(wanted, _DIRECTORY)
    try:
        yield from _named(".", _attributes(os.fstat(ours), os.fstat(theirs), ours, theirs))
        yield from _directory(ours, theirs, "")
    finally:
        os.close(ours)
        os.close(theirs)


def _directory(ours: int, theirs: int, prefix: str) -> Iterator[str]:
    left, right = set(os.listdir(ours)), set(os.listdir(theirs))
    for name in sorted(left | right):
        path = prefix + name
        if name not in right:
            yield f"{path}: it does not belong there"
        elif name not in left:
            yield f"{path}: it is missing"
        else:
            yield from _entry(ours, theirs, name, path)


def _entry(ours: int, theirs: int, name: str, path: str) -> Iterator[str]:
    first = os.stat(name, dir_fd=ours, follow_symlinks=False)
    second = os.stat(name, dir_fd=theirs, follow_symlinks=False)
    kind = stat.S_IFMT(first.st_mode)
    if kind != stat.S_IFMT(second.st_mode) or first.st_rdev != second.st_rdev:
        yield f"{path}: it is of another kind"
        return
    if kind == stat.S_IFLNK:
        if os.readlink(name, dir_fd=ours) != os.readlink(name, dir_fd=theirs):
            yield f"{path}: it points elsewhere"
        return
    if kind not in (stat.S_IFREG, stat.S_IFDIR):
        if not is_whiteout(second):  # which has the time at which it was made
            yield from _named(path, _status(first, second) or _time(first, second))
        return
    flags = _DIRECTORY if kind == stat.S_IFDIR else _FILE
    left = os.open(name, flags, dir_fd=ours)
    try:
        right = os.open(name, flags, dir_fd=theirs)
        try:
            yield from _named(path, _attributes(first, second, left, right))
            if kind == stat.S_IFDIR:
                yield from _directory(left, right, f"{path}/")
        finally:
            os.close(right)
    finally:
        os.close(left)


def _named(path: str, cause: str) -> Iterator[str]:
    if cause:
        yield f"{path}: {cause}"


def _attributes(first: os.stat_result, second: os.stat_result, ours: int, theirs: int) -> str:
    """The first thing in which two open files or directories differ; empty for none."""
    cause = _status(first, second)
    if cause:
        return cause
    if _xattrs(ours) != _xattrs(theirs):
        return "its extended attributes differ"
    if stat.S_ISREG(first.st_mode) and not _same_content(ours, theirs):
        return "its content differs"
    return _time(first, second)


def _time(first: os.stat_result, second: os.stat_result) -> str:
    counts = not stat.S_ISDIR(first.st_mode)
    return "its time of change differs" if counts and first.st_mtime_ns != second.st_mtime_ns else ""


def _status(first: os.stat_result, second: os.stat_result) -> str:
    if first.st_mode != second.st_mode:
        return f"its mode is {stat.S_IMODE(first.st_mode):o}, not {stat.S_IMODE(second.st_mode):o}"
    if (first.st_uid, first.st_gid) != (second.st_uid, second.st_gid):
        return f"its owner is {first.st_uid}:{first.st_gid}, not {second.st_uid}:{second.st_gid}"
    if stat.S_ISDIR(first.st_mode):
        return ""
    if first.st_size != second.st_size:
        return f"it has {first.st_size} bytes, not {second.st_size}"
    if first.st_nlink != second.st_nlink:
        return f"it has {first.st_nlink} links, not {second.st_nlink}"
    return ""


def _xattrs(fd: int) -> dict[str, bytes]:
    """Without what overlayfs notes for itself, such as an upper directory that became a layer has."""
    return {
        name: os.getxattr(fd, name)
        for name in os.listxattr(fd)
        if name == OPAQUE or not name.startswith("trusted.overlay.")
    }


def _same_content(ours: int, theirs: int) -> bool:
    while True:
        left, right = os.read(ours, CHUNK), os.read(theirs, CHUNK)
        if left != right:
            return False
        if not left:
            return True
