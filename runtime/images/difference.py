"""Effects: what an upper directory changes of the layers below it, and what of that mounting alone has left.

To mount something on a path of a container that its image does not have, an empty file or directory is made
there, with its parents; that makes a copy of the directory which they are in. None of it is a change that
anybody wanted. Reads only, and follows no link out of the layers.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.images.changes import Unwritable, show
from runtime.images.lowers import OPAQUE, Found, Lowers, is_whiteout
from runtime.linux import openat2

MAX_LINKS = 40  # followed in one path, as many as the kernel follows: path_resolution(7)

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: What was there a moment ago is there no longer, or is something else.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


@dataclass(frozen=True, slots=True)
class Change:
    """`kind` is A (added), C (changed) or D (deleted); `path` is absolute."""

    kind: str
    path: str

    def __str__(self) -> str:
        return f"{self.kind} {self.path}"


class Stack:
    """An upper directory over layers (directories, bottom first). To be closed."""

    def __init__(self, upper: Path, layers: Sequence[Path]) -> None:
        self.upper = upper
        names = [str(layer) for layer in reversed(layers)]
        self.below = Lowers(-1, names)
        self.top = Lowers(-1, [str(upper)])
        self._root = os.open(upper, _OPEN_DIRECTORY)
        self._all = Lowers(-1, [str(upper), *names])

    def close(self) -> None:
        for item in (self.below, self.top, self._all):
            item.close()
        os.close(self._root)

    def hides(self, path: bytes) -> bool:
        """Whether the layers below show a directory there, which an opaque one hides."""
        found = self.below.lookup(path) if self.below else None
        return found is not None and stat.S_ISDIR(found.status.st_mode)

    # ------------------------------------------------------------ what mounting left

    def mountpoints(self, destinations: Iterable[str]) -> frozenset[bytes]:
        """Paths in the upper directory that are nothing but places where something was mounted."""
        found: set[bytes] = set()
        for path in sorted((self._resolve(item) for item in destinations), key=lambda p: (-p.count(b"/"), p)):
            while path and path not in found and self._is_still_leftover(path, found):
                found.add(path)
                path = path.rpartition(b"/")[0]
        return frozenset(found)

    def _is_still_leftover(self, path: bytes, omitted: Collection[bytes]) -> bool:
        try:
            return self._is_leftover(path, omitted)
        except OSError as error:
            if error.errno in _GONE:  # the container moves it about meanwhile
                return False
            raise

    def _is_leftover(self, path: bytes, omitted: Collection[bytes]) -> bool:
        own = self.top.lookup(path)
        if own is None:
            return False
        status = own.status
        below = self.below.lookup(path) if self.below else None
        if stat.S_ISDIR(status.st_mode):
            if any(path + b"/" + name not in omitted for name in self._children(path)):
                return False
            own = self.top.lookup(path)
            if own is None:
                return False
            if below is not None:
                return _same_directory(own, below)
            return _is_plain(status, 0o755) and not _xattrs(own)
        return below is None and status.st_size == 0 and _is_plain(status, 0o644)

    def _children(self, path: bytes) -> list[bytes]:
        """Also whiteouts: they are changes."""
        fd = self._open_upper(path)
        try:
            return [os.fsencode(name) for name in os.listdir(fd)]
        finally:
            os.close(fd)

    def _open_upper(self, path: bytes) -> int:
        """OSError: ENAMETOOLONG, where no program can name it either."""
        return openat2.open_beneath(self._root, os.fsdecode(path) or ".", _OPEN_DIRECTORY)

    def _resolve(self, destination: str) -> bytes:
        """Where the path leads to in the container, whose links are followed as in a chroot."""
        pending = [part for part in os.fsencode(destination).split(b"/") if part][::-1]
        done: list[bytes] = []
        links = 0
        while pending:
            name = pending.pop()
            if name == b".":
                continue
            if name == b"..":
                done = done[:-1]
                continue
            found = self._all.lookup(b"/".join([*done, name]))
            if found is None or not stat.S_ISLNK(found.status.st_mode) or links >= MAX_LINKS:
                done.append(name)
                continue
            links += 1
            target = os.fsencode(os.readlink(found.name, dir_fd=found.fd))
            if target.startswith(b"/"):
                done = []
            pending += [part for part in target.split(b"/") if part][::-1]
        return b"/".join(done)

    # ------------------------------------------------------------ all changes

    def changes(self, omit: Collection[bytes] = ()) -> Iterator[Change]:
        """Sorted by path, each directory before what is in it. What goes meanwhile is left out. Unwritable:
        what is in a directory has paths longer than any that the kernel takes."""
        stack = [iter(self._entries(b""))]
        while stack:
            for path, kind in stack[-1]:
                if path in omit:
                    continue
                known = kind != 0 and bool(self.below) and self.below.lookup(path) is not None
                yield Change("D" if kind == 0 else "C" if known else "A", "/" + os.fsdecode(path))
                if kind == stat.S_IFDIR:
                    stack.append(iter(self._entries(path)))
                    break
            else:
                stack.pop()

    def _entries(self, path: bytes) -> list[tuple[bytes, int]]:
        """What the upper directory has at `path`, with its type as stat(2) has it; 0: it takes it away."""
        try:
            fd = self._open_upper(path)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise Unwritable(f"{show(path)} is a path too long to go on") from error
            if error.errno in _GONE:
                return []
            raise
        try:
            with os.scandir(fd) as entries:
                found = {os.fsencode(entry.name): kind for entry in entries if (kind := _kind(entry)) >= 0}
            if _is_opaque(fd) and self.hides(path):
                found.update((name, 0) for name in self.below.names(path) if name not in found)
        finally:
            os.close(fd)
        prefix = path + b"/" if path else b""
        return [(prefix + name, found[name]) for name in sorted(found)]


def _kind(entry: os.DirEntry[str]) -> int:
    """-1: it has gone."""
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    if entry.is_file(follow_symlinks=False):
        return stat.S_IFREG
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return -1
    return 0 if is_whiteout(status) else stat.S_IFMT(status.st_mode)


def _is_opaque(fd: int) -> bool:
    try:
        return os.getxattr(fd, OPAQUE) == b"y"
    except OSError:
        return False


def _is_plain(status: os.stat_result, mode: int) -> bool:
    return (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (mode, 0, 0)


def _same_directory(own: Found, below: Found) -> bool:
    mine, theirs = own.status, below.status
    if (mine.st_mode, mine.st_uid, mine.st_gid) != (theirs.st_mode, theirs.st_uid, theirs.st_gid):
        return False
    return not _opaque(own) and _xattrs(own) == _xattrs(below)


def _opaque(found: Found) -> bool:
    fd = os.open(found.name, _OPEN_DIRECTORY, dir_fd=found.fd)
    try:
        return _is_opaque(fd)
    finally:
        os.close(fd)


def _xattrs(found: Found) -> dict[str, bytes]:
    """Without overlayfs' own."""
    fd = os.open(found.name, _OPEN_DIRECTORY, dir_fd=found.fd)
    try:
        names = [name for name in os.listxattr(fd) if not name.startswith("trusted.overlay.")]
        return {name: os.getxattr(fd, name) for name in names}
    finally:
        os.close(fd)
