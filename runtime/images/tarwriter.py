"""Effects: a directory as a tar stream that is the same, byte for byte, whenever the directory is the same.

Names are sorted, times are whole seconds, user and group names are left out; pax records only where ustar has
no room (POSIX.1-2017 pax; xattrs as SCHILY.xattr, as star has it). Sockets are left out: nothing can make
them anew.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from runtime.images.tarstream import BLOCK, CHAR, DIRECTORY, FIFO, FILE, LINK, SYMLINK

PIECE = 1024 * 1024  # bytes
END = bytes(2 * BLOCK)

_MAX_ID = 0o7777777
_MAX_NUMBER = 0o77777777777
_TYPES = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHAR,
    stat.S_IFBLK: b"4",
    stat.S_IFIFO: FIFO,
}


class Unwritable(ValueError):
    """The directory holds something that no layer can; the text says what."""


def write_tree(root: Path) -> Iterator[bytes]:
    """The archive in pieces. Raises Unwritable, and OSError of reading."""
    seen: dict[tuple[int, int], bytes] = {}
    pending = [b"."]
    base = os.fsencode(root)
    while pending:
        name = pending.pop()
        path = base if name == b"." else os.path.join(base, name)
        status = os.lstat(path)
        kind = _TYPES.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            continue
        _refuse_reserved(name, status)
        if kind != DIRECTORY and status.st_nlink > 1:
            first = seen.setdefault((status.st_dev, status.st_ino), name)
            if first != name:
                yield _header(name, LINK, status, 0, first, {})
                continue
        xattrs = _xattrs(path)
        if kind == FILE:
            yield from _file(name, path, xattrs)
        elif kind == DIRECTORY:
            yield _header(name + b"/", kind, status, 0, b"", xattrs)
            inner = sorted((os.fsencode(item) for item in os.listdir(path)), reverse=True)
            pending += inner if name == b"." else [os.path.join(name, item) for item in inner]
        else:
            link = os.readlink(path) if kind == SYMLINK else b""
            yield _header(name, kind, status, 0, link, xattrs)
    yield END


def _refuse_reserved(name: bytes, status: os.stat_result) -> None:
    text = os.fsdecode(name)
    if name.rpartition(b"/")[2].startswith(b".wh."):
        raise Unwritable(f"the name {text!r} is reserved for whiteouts")
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
        raise Unwritable(f"{text!r} is a whiteout of overlayfs")


def _xattrs(path: bytes) -> dict[str, bytes]:
    names = [
        name for name in os.listxattr(path, follow_symlinks=False) if not name.startswith("trusted.overlay.")
    ]
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in sorted(names)}


def _file(name: bytes, path: bytes, xattrs: dict[str, bytes]) -> Iterator[bytes]:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        left = status.st_size
        yield _header(name, FILE, status, left, b"", xattrs)
        while left:
            data = os.read(fd, min(left, PIECE))
            if not data:
                raise Unwritable(f"{os.fsdecode(name)!r} changed while it was read")
            left -= len(data)
            yield data
        yield bytes(-status.st_size % BLOCK)
    finally:
        os.close(fd)


def _header(
    name: bytes, kind: bytes, status: os.stat_result, size: int, link: bytes, xattrs: dict[str, bytes]
) -> bytes:
    records: list[tuple[bytes, bytes]] = []

    def number(key: bytes, value: int, most: int, width: int) -> bytes:
        if 0 <= value <= most:
            return b"%0*o\0" % (width - 1, value)
        records.append((key, b"%d" % value))
        return b"%0*o\0" % (width - 1, 0)

    def text(key: bytes, value: bytes) -> bytes:
        if len(value) > 100 or b"\n" in value:
            records.append((key, value))
        return value[:100].ljust(100, b"\0")

    fields = [text(b"path", name), b"%07o\0" % (status.st_mode & 0o7777)]
    fields += [number(b"uid", status.st_uid, _MAX_ID, 8), number(b"gid", status.st_gid, _MAX_ID, 8)]
    fields.append(number(b"size", size, _MAX_NUMBER, 12))
    fields.append(number(b"mtime", status.st_mtime_ns // 1_000_000_000, _MAX_NUMBER, 12))
    device = status.st_rdev if kind in (CHAR, b"4") else 0
    tail = text(b"linkpath", link) + b"ustar\x0000" + bytes(64)
    tail += b"%07o\0%07o\0" % (os.major(device), os.minor(device))
    records += [(b"SCHILY.xattr." + os.fsencode(key), value) for key, value in xattrs.items()]
    block = _sealed(b"".join(fields), kind, tail)
    return _pax(records) + block if records else block


def _sealed(head: bytes, kind: bytes, tail: bytes) -> bytes:
    block = (head + b" " * 8 + kind + tail).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _pax(records: list[tuple[bytes, bytes]]) -> bytes:
    data = b"".join(_record(key, value) for key, value in records)
    head = b"PaxHeader".ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2
    head += b"%011o\0" % len(data) + b"%011o\0" % 0
    block = _sealed(head, b"x", bytes(100) + b"ustar\x0000")
    return block + data + bytes(-len(data) % BLOCK)


def _record(key: bytes, value: bytes) -> bytes:
    size = len(key) + len(value) + 3
    total = size + len(str(size))
    if len(str(total)) != len(str(size)):
        total = size + len(str(total))
    return b"%d %s=%s\n" % (total, key, value)
