"""Effects: look into the layers under the one that is being unpacked, as overlayfs will show them.

Standard library only: the unpack worker imports this. Whiteouts are character devices 0:0, opaque directories
have the xattr trusted.overlay.opaque=y (Documentation/filesystems/overlayfs.rst). Reads only, and follows no
symbolic link.
"""

from __future__ import annotations

import errno
import os
import stat

OPAQUE = "trusted.overlay.opaque"

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


class Found:
    """Something that lower layers show: `name` in directory `fd`, open until the next lookup."""

    __slots__ = ("fd", "name", "status")

    def __init__(self, fd: int, name: bytes, status: os.stat_result) -> None:
        self.fd, self.name, self.status = fd, name, status


class Lowers:
    """The layers `names` (top first) in the directory `fd`."""

    def __init__(self, fd: int, names: list[str]) -> None:
        self._roots = [os.open(name, _DIRECTORY, dir_fd=fd) for name in names]
        self._parent: bytes | None = None
        self._stack: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._roots)

    def lookup(self, path: bytes) -> Found | None:
        """What is visible at `path` (relative, clean; empty: the root). None: nothing, or its parent is no
        directory.
        """
        if not path:
            return Found(self._roots[0], b".", os.fstat(self._roots[0])) if self._roots else None
        parent, _, name = path.rpartition(b"/")
        for fd in self._directory(parent):
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    continue
                raise
            return None if is_whiteout(status) else Found(fd, name, status)
        return None

    def root_names(self) -> set[bytes]:
        """Names that are visible in the root directory."""
        return self.names(b"")

    def names(self, path: bytes) -> set[bytes]:
        """Names that are visible in the directory `path`."""
        names = {os.fsencode(name) for fd in self._directory(path) for name in os.listdir(fd)}
        prefix = path + b"/" if path else b""
        return {name for name in names if self.lookup(prefix + name) is not None}

    def _directory(self, path: bytes) -> list[int]:
        """The open directories that are merged at `path`, top first. Kept until another path is asked for."""
        if not path:
            return self._roots
        if path == self._parent:
            return self._stack
        self._forget()
        stack = self._roots
        for name in path.split(b"/"):
            below = self._descend(stack, name)
            if stack is not self._roots:
                for fd in stack:
                    os.close(fd)
            stack = below
        self._parent, self._stack = path, stack
        return stack

    def _descend(self, stack: list[int], name: bytes) -> list[int]:
        found: list[int] = []
        for parent in stack:
            try:
                fd = os.open(name, _DIRECTORY, dir_fd=parent)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    continue
                if error.errno in (errno.ENOTDIR, errno.ELOOP):
                    break
                raise
            found.append(fd)
            if _is_opaque(fd):
                break
        return found

    def close(self) -> None:
        self._forget()
        for fd in self._roots:
            os.close(fd)
        self._roots = []

    def _forget(self) -> None:
        for fd in self._stack:
            os.close(fd)
        self._stack, self._parent = [], None


def _is_opaque(fd: int) -> bool:
    try:
        return os.getxattr(fd, OPAQUE) == b"y"
    except OSError:
        return False
