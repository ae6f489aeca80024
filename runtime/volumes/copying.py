"""Effects: one tree of files copied to another place, with all that belongs to it; and made durable there.

Owner, mode, times in ns, xattrs (ACLs and capabilities among them), hard links, devices, pipes. Sockets are
left out: nobody listens behind the copy. No link is followed.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from runtime.metadata import copy_metadata

_CHUNK = 16 * 1024 * 1024


def sync(path: Path) -> None:
    """Everything below is on the disk afterwards: files first, then the directories that name them."""
    for directory, _, names in os.walk(path, topdown=False):
        for name in names:
            file = os.path.join(directory, name)
            if stat.S_ISREG(os.lstat(file).st_mode):
                _fsync(file, os.O_RDONLY)
        _fsync(directory, os.O_RDONLY | os.O_DIRECTORY)


def _fsync(path: str, flags: int) -> None:
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def copy_tree(source: Path, to: Path, status: os.stat_result) -> None:
    """Make `to` what the directory `source` (or a link of /proc/self/fd) with this `status` is."""
    _copy_directory(source, to, status, {})


def _copy_directory(
    source: Path, to: Path, status: os.stat_result, linked: dict[tuple[int, int], Path]
) -> None:
    os.mkdir(to, 0o700)
    with os.scandir(source) as entries:
        for entry in entries:
            _copy_entry(Path(entry.path), to / entry.name, entry.stat(follow_symlinks=False), linked)
    copy_metadata(source, to, status)


def _copy_entry(source: Path, to: Path, status: os.stat_result, linked: dict[tuple[int, int], Path]) -> None:
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        _copy_directory(source, to, status, linked)
        return
    if stat.S_ISSOCK(mode):
        return
    if status.st_nlink > 1:
        first = linked.setdefault((status.st_dev, status.st_ino), to)
        if first is not to:
            os.link(first, to, follow_symlinks=False)
            return
    if stat.S_ISLNK(mode):
        os.symlink(os.readlink(source), to)
    elif stat.S_ISREG(mode):
        _copy_content(source, to)
    else:
        os.mknod(to, mode, status.st_rdev)
    copy_metadata(source, to, status)


def _copy_content(source: Path, to: Path) -> None:
    reading = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        writing = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _copy_parts(reading, writing)
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _copy_parts(reading: int, writing: int) -> None:
    """What holds data; holes stay holes: lseek(2), SEEK_DATA."""
    size, at = os.fstat(reading).st_size, 0
    while at < size:
        try:
            at = os.lseek(reading, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # nothing but a hole is left
                raise
            break
        end = os.lseek(reading, at, os.SEEK_HOLE)
        os.lseek(writing, at, os.SEEK_SET)
        while at < end:
            count = os.sendfile(writing, reading, at, min(_CHUNK, end - at))
            if not count:
                break  # it was made shorter meanwhile
            at += count
        else:
            continue
        break
    os.ftruncate(writing, size)
