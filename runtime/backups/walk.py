"""Effects: a directory as a tar stream that has all of it, with a line for each entry that says what it is.

Entries come directory by directory, names in the order of their bytes, so that two trees that are the same
give the same lines. Holes of files are kept (GNU tar manual, "Storing Sparse Files", format 1.0). Sockets are
left out: nothing can make them anew. Nothing is followed, and others may write meanwhile: what goes is left
out, what becomes shorter is filled with zeros; both are counted.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator

from runtime.images.changes import (
    HOSTS,
    MAX_DEPTH,
    OPEN_DIRECTORY,
    PIECE,
    SPECIAL,
    Gone,
    Unwritable,
    list_xattrs,
    open_regular,
    open_unmarked,
    show,
)
from runtime.images.tarstream import DIRECTORY, FILE, LINK, MAX_SPARSE, SYMLINK
from runtime.images.tarwriter import END, header_of, padding
from runtime.images.unpack import MAX_ENTRIES, MAX_NAME

_ZEROS = bytes(PIECE)
_BLOCK = 512  # bytes of st_blocks: stat(2)

Line = Callable[[bytes], None]


class Walk:
    """Writes one tree. `lines` is called with each line, which has its newline.

    A line is a JSON array: kind (as tar has it), path, mode, uid, gid, mtime in ns, size (of a device: its
    number), sha256 of the content (of a link: its target), sha256 of the extended attributes.
    """

    def __init__(self, lines: Line) -> None:
        self._lines = lines
        self._seen: dict[tuple[int, int], bytes] = {}
        self._out: list[bytes] = []
        self._held = 0  # bytes in _out
        self.entries = self.bytes = 0
        #: sockets, which are left out; entries that changed while they were read
        self.sockets = self.changed = 0

    def write(self, root: int) -> Iterator[bytes]:
        """The archive of the open directory `root`, in pieces. Raises Unwritable, and OSError of reading."""
        stack = [self._enter(os.dup(root), b"")]
        try:
            while stack:
                fd, prefix, names = stack[-1]
                name = next(names, None)
                if name is None:
                    os.close(stack.pop()[0])
                    continue
                try:
                    rest = self._entry(fd, name, prefix + name)
                except (FileNotFoundError, NotADirectoryError, Gone):
                    self.changed += 1
                    continue
                if isinstance(rest, int):
                    stack.append(self._enter(rest, prefix + name + b"/"))
                elif rest is not None:
                    yield from rest
                if self._held >= PIECE:
                    yield self._flush()
        finally:
            for frame in stack:
                os.close(frame[0])
        self._put(END)
        yield self._flush()

    def _put(self, data: bytes) -> None:
        self._out.append(data)
        self._held += len(data)

    def _flush(self) -> bytes:
        data = b"".join(self._out)
        self._out.clear()
        self._held = 0
        return data

    # ------------------------------------------------------------ entries

    def _enter(self, fd: int, prefix: bytes) -> tuple[int, bytes, Iterator[bytes]]:
        """The directory's own entry; `fd` is the caller's from now on."""
        try:
            _check(prefix)
            status = os.fstat(fd)
            self._note(prefix or b"./", DIRECTORY, status, xattrs=_xattrs(fd, prefix))
            return fd, prefix, iter(sorted(map(os.fsencode, os.listdir(fd))))
        except BaseException:
            os.close(fd)
            raise

    def _entry(self, where: int, name: bytes, path: bytes) -> Iterator[bytes] | int | None:
        """A directory is returned open; of a large file the rest is returned."""
        status = os.stat(name, dir_fd=where, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            return open_unmarked(name, where, OPEN_DIRECTORY)
        _check(path)
        if stat.S_ISREG(status.st_mode):
            return self._file(name, where, path)
        if stat.S_ISSOCK(status.st_mode):
            self.sockets += 1
            return None
        kind = SPECIAL[stat.S_IFMT(status.st_mode)]
        if status.st_nlink > 1 and self._linked(path, status):
            return None
        link = os.readlink(name, dir_fd=where) if kind == SYMLINK else b""
        xattrs = _xattrs(b"/proc/self/fd/%d/%b" % (where, name), path)
        self._note(path, kind, status, size=status.st_rdev, said=os.fsdecode(link), xattrs=xattrs, link=link)
        return None

    def _file(self, name: bytes, where: int, path: bytes) -> Iterator[bytes] | None:
        fd = open_regular(name, where, path)
        try:
            status = os.fstat(fd)
            if status.st_nlink > 1 and self._linked(path, status):
                return None
            xattrs, size = _xattrs(fd, path), status.st_size
            self.bytes += size
            if size > PIECE:
                rest, fd = self._large(fd, status, path, xattrs), -1
                return rest
            data = os.pread(fd, size, 0) if size else b""
            data += self._missing(size - len(data))
            self._note(path, FILE, status, size=size, said=hashlib.sha256(data).hexdigest(), xattrs=xattrs)
            self._put(data + padding(size))
        finally:
            if fd >= 0:
                os.close(fd)
        return None

    def _large(
        self, fd: int, status: os.stat_result, path: bytes, xattrs: dict[bytes, bytes]
    ) -> Iterator[bytes]:
        size, digest = status.st_size, hashlib.sha256()
        try:
            pieces = _pieces(fd, size) if status.st_blocks * _BLOCK < size else [(0, size)]
            stored = sum(length for _, length in pieces)
            if pieces == [(0, size)] or len(pieces) >= MAX_SPARSE:
                pieces, stored = [(0, size)], size
                self._put(self._header(path, FILE, status, size, xattrs))
            else:
                table = _table(pieces, size)
                more = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")]
                more.append((b"GNU.sparse.realsize", b"%d" % size))
                stored += len(table)
                self._put(self._header(path, FILE, status, stored, xattrs, more=more) + table)
            yield self._flush()
            at = 0
            for offset, length in pieces:
                _hash_zeros(digest, offset - at)
                at = offset + length
                for begin in range(offset, at, PIECE):
                    wanted = min(PIECE, at - begin)
                    data = os.pread(fd, wanted, begin)
                    data += self._missing(wanted - len(data))
                    digest.update(data)
                    yield data
            _hash_zeros(digest, size - at)
            self._put(padding(stored))
            self._say(path, FILE, status, size, digest.hexdigest(), xattrs)
        finally:
            os.close(fd)

    def _missing(self, size: int) -> bytes:
        """What stands for the end of a file that became shorter."""
        self.changed += bool(size)
        return bytes(size)

    def _linked(self, path: bytes, status: os.stat_result) -> bool:
        """Write a link where the file was written under another name."""
        first = self._seen.setdefault((status.st_dev, status.st_ino), path)
        if first == path:
            return False
        self._note(path, LINK, status, said=os.fsdecode(first), link=first)
        return True

    # ------------------------------------------------------------ headers and lines

    def _note(
        self,
        path: bytes,
        kind: bytes,
        status: os.stat_result,
        *,
        size: int = 0,
        said: str = "",
        link: bytes = b"",
        xattrs: dict[bytes, bytes] | None = None,
    ) -> None:
        stored = size if kind == FILE else 0
        self._put(self._header(path, kind, status, stored, xattrs or {}, link=link))
        self._say(path, kind, status, size, said, xattrs or {})

    def _header(
        self,
        path: bytes,
        kind: bytes,
        status: os.stat_result,
        size: int,
        xattrs: dict[bytes, bytes],
        *,
        link: bytes = b"",
        more: list[tuple[bytes, bytes]] | None = None,
    ) -> bytes:
        self.entries += 1
        if self.entries > MAX_ENTRIES:
            raise Unwritable(f"it has more than {MAX_ENTRIES} entries")
        return header_of(path, kind, status, size=size, link=link, xattrs=xattrs, more=more or ())

    def _say(
        self,
        path: bytes,
        kind: bytes,
        status: os.stat_result,
        size: int,
        said: str,
        xattrs: dict[bytes, bytes],
    ) -> None:
        mode, owner = stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid)
        what = (kind.decode(), os.fsdecode(path), mode, *owner, status.st_mtime_ns, size, said)
        line = json.dumps([*what, _digest(xattrs)], separators=(",", ":"))
        self._lines(line.encode() + b"\n")


def _check(path: bytes) -> None:
    """What no restore would take is not to be found out by one."""
    if len(path) > MAX_NAME:
        raise Unwritable(f"the path {show(path[:100])}... has more than {MAX_NAME} bytes")
    if path.count(b"/") >= MAX_DEPTH:
        raise Unwritable(f"{show(path[:100])}... has more than {MAX_DEPTH} directories above it")


def _xattrs(where: int | bytes, path: bytes) -> dict[bytes, bytes]:
    """All but what this host's security modules note for themselves."""
    found: dict[bytes, bytes] = {}
    for name in list_xattrs(where):
        if name in HOSTS:
            continue
        if "=" in name:
            raise Unwritable(f"{show(path)} has the attribute {name!r}, whose name no tar can hold")
        value = os.getxattr(where, name) if isinstance(where, int) else _of_link(where, name)
        found[os.fsencode(name)] = value
    return found


def _of_link(where: bytes, name: str) -> bytes:
    return os.getxattr(where, name, follow_symlinks=False)


def _digest(xattrs: dict[bytes, bytes]) -> str:
    if not xattrs:
        return ""
    digest = hashlib.sha256()
    for key, value in sorted(xattrs.items()):
        digest.update(b"%d %b%d " % (len(key), key, len(value)) + value)
    return digest.hexdigest()


# ---------------------------------------------------------------- holes


def _pieces(fd: int, size: int) -> list[tuple[int, int]]:
    """The parts of the file that are no holes: lseek(2), SEEK_DATA and SEEK_HOLE."""
    found: list[tuple[int, int]] = []
    at = 0
    while at < size:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break  # there is a hole up to the end
        at = min(size, os.lseek(fd, begin, os.SEEK_HOLE))
        if begin < size:
            found.append((begin, at - begin))
    return found


def _table(pieces: list[tuple[int, int]], size: int) -> bytes:
    """The map before the data, which ends with an empty piece at the end of the file, as GNU tar has it."""
    numbers = [len(pieces) + 1, *(number for piece in (*pieces, (size, 0)) for number in piece)]
    text = b"".join(b"%d\n" % number for number in numbers)
    return text + padding(len(text))


def _hash_zeros(digest: hashlib._Hash, count: int) -> None:
    while count > 0:
        digest.update(_ZEROS[: min(count, PIECE)])
        count -= PIECE
