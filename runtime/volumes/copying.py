"""Effects: one tree of files copied to another place, with all that belongs to it; and made durable there.

Owner, mode, times in ns, xattrs (ACLs and capabilities among them), hard links, devices, pipes. Sockets are
left out: nobody listens behind the copy. No link is followed, nor one that somebody puts into the copy while
it is made: a volume that is a file system of its own is in the hands of the containers that have it.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from runtime.linux import openat2, trees
from runtime.metadata import copy_metadata, give_metadata

_CHUNK = 16 * 1024 * 1024
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def sync(path: Path) -> None:
    """Everything below is on the disk afterwards."""
    for directory, names in trees.walk(path):
        for name in names:
            if stat.S_ISREG(os.lstat(name, dir_fd=directory).st_mode):
                fd = os.open(name, _READ | os.O_NONBLOCK, dir_fd=directory)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
        os.fsync(directory)


def copy_tree(source: Path, to: Path, status: os.stat_result) -> None:
    """Make `to` what the directory `source` (or a link of /proc/self/fd) with this `status` is."""
    _copy_directory(source, to, status, _Linked())


class _Linked:
    """Files with several names, by device and number: where the first one was made, below `top`."""

    def __init__(self) -> None:
        self.top = -1
        self.first: dict[tuple[int, int], str] = {}


def _copy_directory(source: Path, to: Path, status: os.stat_result, linked: _Linked, below: str = "") -> None:
    """`below` is its name in the copy. All that is made in it is made by its descriptor."""
    os.mkdir(to, 0o700)
    made = os.open(to, _READ | os.O_DIRECTORY)
    try:
        if linked.top < 0:
            linked.top = made
        place = Path(f"/proc/self/fd/{made}")
        with os.scandir(source) as entries:
            for entry in entries:
                own, name = entry.stat(follow_symlinks=False), f"{below}/{entry.name}"
                _copy_entry(Path(entry.path), place / entry.name, own, linked, name)
        give_metadata(source, made, status)
    finally:
        os.close(made)


def _copy_entry(source: Path, to: Path, status: os.stat_result, linked: _Linked, below: str) -> None:
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        _copy_directory(source, to, status, linked, below)
        return
    if stat.S_ISSOCK(mode):
        return
    if status.st_nlink > 1:
        first = linked.first.setdefault((status.st_dev, status.st_ino), below)
        if first is not below:
            _link(linked.top, first, to)
            return
    if stat.S_ISLNK(mode):
        os.symlink(os.readlink(source), to)
    elif stat.S_ISREG(mode):
        _copy_content(source, to)
    else:
        os.mknod(to, mode, status.st_rdev)
    copy_metadata(source, to, status)


def _link(top: int, first: str, to: Path) -> None:
    parent, _, name = first.rpartition("/")
    where = openat2.open_in_root(top, parent or ".", os.O_PATH | os.O_DIRECTORY)
    try:
        os.link(name, to, src_dir_fd=where, follow_symlinks=False)
    finally:
        os.close(where)


def _copy_content(source: Path, to: Path) -> None:
    reading = os.open(source, _READ)
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
