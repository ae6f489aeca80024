"""Effects: a file or directory of a root as a tar stream. Standard library and little of it: what runs in the
namespaces of a container imports nothing from there.

Names are opened one by one from the directory that has them, and never followed: whatever a container does
meanwhile, nothing outside of its root is read. A device is looked at and never opened. Holes of files stay
holes (GNU sparse format 1.0 in pax). Sockets are left out: nothing can make them anew.
"""

from __future__ import annotations

import errno
import os
import stat

from runtime.images.tarstream import BLOCK_DEVICE, CHAR, DIRECTORY, FIFO, FILE, LINK, SYMLINK
from runtime.images.tarwriter import END, header_of, padding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

MAX_DEPTH = 256  # directories above one entry: what unpacking takes
MAX_HOLES = 100_000  # pieces of data between holes; a file with more is written in full
CAPABILITY = "security.capability"
_PIECE = 1 << 20  # bytes
_FOUND = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SPECIAL = {stat.S_IFLNK: SYMLINK, stat.S_IFCHR: CHAR, stat.S_IFBLK: BLOCK_DEVICE, stat.S_IFIFO: FIFO}


class Packer:
    """Writes one archive to the descriptor `out`. `fds` is an open /proc/self/fd of this process's own;
    directories on the devices `bare` are written without their content."""

    def __init__(self, out: int, fds: int, bare: Collection[int] = ()) -> None:
        self._out, self._fds, self._bare = out, fds, bare
        self._seen: dict[tuple[int, int], bytes] = {}
        self.bytes = 0  # of the files

    def write(self, fd: int, name: bytes) -> None:
        """What the O_PATH descriptor `fd` is of, under `name` ("." for the content of a directory), and the
        end of the archive."""
        self._entry(fd, name)
        self._put(END)

    def _put(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._out, view) :]

    def _entry(self, fd: int, path: bytes, device: int = -1) -> None:
        status = os.fstat(fd)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFREG:
            self._file(fd, path, status)
        elif kind == stat.S_IFDIR:
            self._tree(fd, path, status)
        elif kind in _SPECIAL:
            link = os.readlink(b"", dir_fd=fd) if kind == stat.S_IFLNK else b""
            if status.st_nlink > 1 and self._linked(path, status):
                return
            self._put(header_of(path, _SPECIAL[kind], status, link=link))

    def _tree(self, top: int, path: bytes, status: os.stat_result) -> None:
        """Depth first, with one descriptor open for each directory on the way."""
        stack = [(os.open(b"%d" % top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fds), path)]
        rest = [self._enter(stack[-1][0], path, status)]
        try:
            while stack:
                if not rest[-1]:
                    rest.pop()
                    os.close(stack.pop()[0])
                    continue
                where, prefix = stack[-1]
                name = rest[-1].pop()
                inner = prefix + b"/" + name
                try:
                    found = os.open(name, _FOUND, dir_fd=where)
                except FileNotFoundError:
                    continue
                try:
                    own = os.fstat(found)
                    if not stat.S_ISDIR(own.st_mode):
                        self._entry(found, inner)
                        continue
                    if len(stack) >= MAX_DEPTH:
                        raise OSError(
                            errno.ELOOP, f"more than {MAX_DEPTH} directories in each other", inner[:200]
                        )
                    below = os.open(
                        b"%d" % found, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fds
                    )
                    stack.append((below, inner))
                    rest.append(self._enter(below, inner, own))
                finally:
                    os.close(found)
        finally:
            for fd, _ in stack:
                os.close(fd)

    def _enter(self, fd: int, path: bytes, status: os.stat_result) -> list[bytes]:
        """Names that are in it, the last one first."""
        self._put(header_of(path + b"/", DIRECTORY, status, xattrs=_capability(fd)))
        if status.st_dev in self._bare:
            return []
        return sorted(map(os.fsencode, os.listdir(fd)), reverse=True)

    def _file(self, found: int, path: bytes, status: os.stat_result) -> None:
        if status.st_nlink > 1 and self._linked(path, status):
            return
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(b"%d" % found, flags | os.O_NOATIME, dir_fd=self._fds)
        except PermissionError:
            fd = os.open(b"%d" % found, flags, dir_fd=self._fds)
        try:
            pieces = holes(fd, status)
            xattrs = _capability(fd)
            if pieces is None:
                self._put(header_of(path, FILE, status, size=status.st_size, xattrs=xattrs))
                self._copy(fd, 0, status.st_size)
                self._put(padding(status.st_size))
            else:
                self._sparse(fd, path, status, pieces, xattrs)
        finally:
            os.close(fd)
        self.bytes += status.st_size

    def _sparse(
        self,
        fd: int,
        path: bytes,
        status: os.stat_result,
        pieces: list[tuple[int, int]],
        xattrs: dict[bytes, bytes] | None,
    ) -> None:
        numbers = [len(pieces), *(number for piece in pieces for number in piece)]
        table = b"".join(b"%d\n" % number for number in numbers)
        table += padding(len(table))
        stored = len(table) + sum(length for _, length in pieces)
        more = [
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.name", path),
            (b"GNU.sparse.realsize", b"%d" % status.st_size),
        ]
        parent, _, name = path.rpartition(b"/")
        shown = (parent + b"/" if parent else b"") + b"GNUSparseFile.0/" + name
        self._put(header_of(shown, FILE, status, size=stored, xattrs=xattrs, more=more))
        self._put(table)
        for offset, length in pieces:
            self._copy(fd, offset, length)
        self._put(padding(stored))

    def _copy(self, fd: int, offset: int, size: int) -> None:
        """What the file has become shorter by is filled with zeros."""
        while size:
            count = os.sendfile(self._out, fd, offset, min(size, _PIECE))
            if not count:
                self._put(bytes(min(size, _PIECE)))
                count = min(size, _PIECE)
            offset, size = offset + count, size - count

    def _linked(self, path: bytes, status: os.stat_result) -> bool:
        first = self._seen.setdefault((status.st_dev, status.st_ino), path)
        if first == path:
            return False
        self._put(header_of(path, LINK, status, link=first))
        return True


def holes(fd: int, status: os.stat_result) -> list[tuple[int, int]] | None:
    """(offset, length) of the data between holes: lseek(2). None where there is no hole worth the name."""
    size = status.st_size
    if not size or status.st_blocks * 512 >= size:
        return None
    pieces, position = [], 0
    while position < size:
        try:
            begin = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            return None
        end = min(size, os.lseek(fd, begin, os.SEEK_HOLE))
        pieces.append((begin, end - begin))
        position = end
        if len(pieces) > MAX_HOLES:
            return None
    return None if pieces == [(0, size)] else pieces


def _capability(fd: int) -> dict[bytes, bytes] | None:
    """The one attribute that docker copies: without it, ping no longer does."""
    try:
        return {CAPABILITY.encode(): os.getxattr(fd, CAPABILITY)}
    except OSError:
        return None
