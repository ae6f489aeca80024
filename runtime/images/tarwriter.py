"""Decisions: the blocks of a tar archive, the same bytes for the same entry whenever and wherever.

ustar, with pax records only where it has no room (POSIX.1-2017 pax; xattrs as SCHILY.xattr, as star has it).
User and group names are left out: ids are what layers mean.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache

from runtime.images.tarstream import BLOCK, BLOCK_DEVICE, CHAR, FILE

END = bytes(2 * BLOCK)
NANO = 1_000_000_000

_MAX_ID = 0o7777777
_MAX_NUMBER = 0o77777777777
_NAME, _PREFIX = 100, 155  # bytes that ustar has for the end of a name and for what is before it
_MAGIC = b"ustar\x0000"
_HEADER = struct.Struct("100s48s8sc100s8s64s16s155s12x")
_NO_DEVICE = b"0000000\x000000000\0"
_SPACES = 8 * 32  # the sum of the checksum's own field while it is summed
assert _HEADER.size == BLOCK

XATTR = b"SCHILY.xattr."


def header(
    name: bytes,
    kind: bytes,
    *,
    mode: int,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime: int = 0,
    link: bytes = b"",
    device: int = 0,
    xattrs: Mapping[bytes, bytes] | None = None,
    more: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """All blocks before the data of an entry. `mtime` is ns, `device` as st_rdev, `size` of a file's data,
    `more` are further pax records."""
    records = list(more)
    prefix, short = b"", name
    if len(name) > _NAME or b"\n" in name:
        split = _split(name)
        if split is None:
            records.append((b"path", name))
            short = name[:_NAME]
        else:
            prefix, short = split
    if link and (len(link) > _NAME or b"\n" in link):
        records.append((b"linkpath", link))
        link = link[:_NAME]
    if not 0 <= uid <= _MAX_ID:
        records.append((b"uid", b"%d" % uid))
        uid = 0
    if not 0 <= gid <= _MAX_ID:
        records.append((b"gid", b"%d" % gid))
        gid = 0
    if size > _MAX_NUMBER:
        records.append((b"size", b"%d" % size))
        size = 0
    seconds = mtime // NANO
    if mtime % NANO or not 0 <= seconds <= _MAX_NUMBER:
        records.append((b"mtime", _time(mtime)))
        seconds = min(max(0, seconds), _MAX_NUMBER)
    if xattrs:
        records += [(XATTR + key, value) for key, value in sorted(xattrs.items())]
    fields = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode & 0o7777, uid, gid, size, seconds)
    numbers = _NO_DEVICE
    if kind in (CHAR, BLOCK_DEVICE):
        numbers = b"%07o\0%07o\0" % (os.major(device), os.minor(device))
    block = _block(short, fields, kind, link, numbers, prefix)
    return _pax(records) + block if records else block


def header_of(
    name: bytes,
    kind: bytes,
    status: os.stat_result,
    *,
    size: int = 0,
    mtime: int | None = None,
    link: bytes = b"",
    xattrs: Mapping[bytes, bytes] | None = None,
    more: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """The same of what lstat(2) says of a file; `mtime` instead of its own, where that is given."""
    return header(
        name,
        kind,
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        size=size,
        mtime=status.st_mtime_ns if mtime is None else mtime,
        link=link,
        device=status.st_rdev,
        xattrs=xattrs,
        more=more,
    )


def padding(size: int) -> bytes:
    """What fills the last block of `size` bytes of data."""
    return bytes(-size % BLOCK)


def file(name: str, data: bytes, *, mode: int = 0o644, mtime: int = 0) -> bytes:
    """A whole entry of a small file."""
    return header(os.fsencode(name), FILE, mode=mode, size=len(data), mtime=mtime) + data + padding(len(data))


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """(prefix, name) where both fit into ustar; None where pax must say it."""
    if b"\n" in name or len(name) > _PREFIX + 1 + _NAME:
        return None
    at = name.find(b"/", max(1, len(name) - _NAME - 1))
    if at < 0 or at > _PREFIX or at == len(name) - 1:
        return None
    return name[:at], name[at + 1 :]


def _block(short: bytes, fields: bytes, kind: bytes, link: bytes, numbers: bytes, prefix: bytes) -> bytes:
    total = sum(short) + sum(fields) + _SPACES + kind[0] + sum(_MAGIC) + sum(numbers)
    if link:
        total += sum(link)
    if prefix:
        total += sum(prefix)
    return _HEADER.pack(short, fields, b"%06o\0 " % total, kind, link, _MAGIC, b"", numbers, prefix)


@lru_cache(maxsize=256)
def _pax_block(size: int) -> bytes:
    fields = b"0000644\x000000000\x000000000\0%011o\x0000000000000\0" % size
    return _block(b"PaxHeader", fields, b"x", b"", _NO_DEVICE, b"")


def _pax(records: list[tuple[bytes, bytes]]) -> bytes:
    data = b"".join([_record(key, value) for key, value in records])
    return _pax_block(len(data)) + data + padding(len(data))


def _record(key: bytes, value: bytes) -> bytes:
    size = len(key) + len(value) + 3
    total = size + len(str(size))
    if len(str(total)) != len(str(size)):
        total = size + len(str(total))
    return b"%d %s=%s\n" % (total, key, value)


def _time(mtime: int) -> bytes:
    """Decimal seconds, without zeros at the end."""
    seconds, rest = divmod(abs(mtime), NANO)
    text = b"%s%d" % (b"-" if mtime < 0 else b"", seconds)
    return text + (b".%09d" % rest).rstrip(b"0") if rest else text
