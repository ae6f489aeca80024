"""Effects: what is at a path below a root directory, with links followed within it only."""

from __future__ import annotations

import errno
import os
import posixpath
import stat

from runtime.cp.rules import Found
from runtime.linux import openat2

_MAX_LINKS = 40  # one after the other, as many as the kernel follows: path_resolution(7)


def look(root: int, path: str, *, follow: bool) -> Found:
    """`follow` is about a link at the very end: the path found is then what it leads to, there or not. Links
    on the way are always followed. A path below a file is NotADirectoryError."""
    current = posixpath.join("/", path)
    for _ in range(_MAX_LINKS):
        shown = _plain(current)
        try:
            fd = open_at(root, shown if follow else current, follow=False)
        except FileNotFoundError:
            return Found(shown)
        try:
            status = os.fstat(fd)
            target = os.readlink("", dir_fd=fd) if stat.S_ISLNK(status.st_mode) else ""
        finally:
            os.close(fd)
        if not target or not follow:
            if current != shown and not stat.S_ISDIR(status.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            return Found(shown, True, stat.S_ISDIR(status.st_mode), target)
        end = current[len(shown) :] if current != shown else ""
        current = posixpath.join(posixpath.dirname(shown), target) + end
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def open_at(root: int, path: str, *, follow: bool) -> int:
    """An O_PATH descriptor."""
    return openat2.open_in_root(root, path, os.O_PATH | (0 if follow else os.O_NOFOLLOW))


def _plain(path: str) -> str:
    """Without `/.` at the end; `..` stays, since only the kernel knows what it means after a link."""
    while path.endswith(("/.", "/")) and path != "/":
        path = path.removesuffix("/.") if path.endswith("/.") else path.rstrip("/")
        path = path or "/"
    return path
