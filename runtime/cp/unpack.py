"""Effects: a tar stream goes over what is there, in the root directory of this process.

As runtime.images.unpack (nothing is followed, nothing leaves the root), but directories that are there stay,
with what is in them; a directory never replaces a file, nor a file a directory, as docker has it. The entry
of the root itself changes nothing.
"""

from __future__ import annotations

import errno
import os
import stat

from runtime.cp.pack import CAPABILITY
from runtime.images.tarstream import DIRECTORY, FILE, Entry, Pieces, Source
from runtime.images.unpack import Refused, Unpacker, clean, show

TYPE_CHECKING = False

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_IN_PLACE = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Over(Unpacker):
    """`owner` is whose all becomes; None: whose the archive says."""

    def __init__(self, owner: tuple[int, int] | None, fds: int) -> None:
        super().__init__(exact=True, fds=fds)
        self._owner = owner

    def _take(self, entry: Entry, source: Source | Pieces) -> None:
        path = clean(entry.name)
        if not path:
            return
        if self._owner is not None:
            entry.uid, entry.gid = self._owner
        if entry.xattrs is not None:
            kept = {key: value for key, value in entry.xattrs.items() if key == CAPABILITY}
            entry.xattrs = kept or None
        parent, _, name = path.rpartition(b"/")
        try:
            status = os.stat(name, dir_fd=self._directory(parent), follow_symlinks=False)
        except FileNotFoundError:
            pass
        else:
            there, comes = stat.S_ISDIR(status.st_mode), entry.kind == DIRECTORY
            if there != comes:
                text = ("a directory", "a file") if comes else ("a file", "a directory")
                raise Refused(f"{text[0]} cannot take the place of {text[1]}: {show(path)}")
        super()._take(entry, source)

    def _make_directory(self, path: bytes, parent: bytes, name: bytes, entry: Entry) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=self._directory(parent))
        except FileExistsError:
            pass
        self._directories[path] = (entry.uid, entry.gid, entry.mode, entry.xattrs, entry.mtime)

    def _make_file(self, path: bytes, where: int, name: bytes, entry: Entry, source: Source | Pieces) -> None:
        try:
            super()._make_file(path, where, name, entry, source)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            self._fill(where, name, entry, source)

    def _fill(self, where: int, name: bytes, entry: Entry, source: Source | Pieces) -> None:
        """Something is mounted on the file, as on /etc/hosts: it stays, with another content."""
        fd = os.open(name, _IN_PLACE, dir_fd=where)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise Refused(f"something is mounted at {show(name)}")
            os.ftruncate(fd, 0)
            for offset, length in entry.sparse if entry.sparse is not None else [(0, entry.size)]:
                os.lseek(fd, offset, os.SEEK_SET)
                source.copy(fd, length)
            os.ftruncate(fd, entry.size)
        finally:
            os.close(fd)
        self.bytes += entry.size

    def _finish_directories(self) -> None:
        """What archives do not describe keeps what it has, or was given when it was made; the rest is opened
        step by step, so that a link that came in its place meanwhile is not followed."""
        for path in sorted(self._directories, reverse=True):
            metadata = self._directories[path]
            self._name = path or b"."
            self._trim()
            fd = self._find_directory(path) if path and metadata is not None else None
            if fd is None or metadata is None:
                if metadata is None and path and (made := self._find_directory(path)) is not None:
                    os.fchmod(made, 0o755)
                continue
            uid, gid, mode, xattrs, mtime = metadata
            os.fchown(fd, uid, gid)
            os.fchmod(fd, mode & 0o7777)
            if xattrs:
                for key, value in xattrs.items():
                    os.setxattr(fd, key, value)
            os.utime(fd, ns=(mtime, mtime))


__all__ = ["FILE", "Over", "Refused"]
