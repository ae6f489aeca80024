"""Effects: read tar archives from a descriptor, as fast as one interpreter can. Standard library only: the
unpack worker imports this.

Sources: POSIX.1-2017 pax (ustar and extended headers), GNU tar manual "Basic Tar Format" and "Storing Sparse
Files" (old GNU, 0.0, 0.1, 1.0), star's SCHILY.xattr. As Go's archive/tar (which writes most layers) has it:
entries other than files carry no data whatever their size says.
"""

from __future__ import annotations

import os
import struct
from zlib import adler32

from runtime.images.tarsource import BLOCK, Pieces, Source, TarError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["BLOCK", "Entry", "Pieces", "Reader", "Source", "TarError", "parse_pax"]

MAX_META = 1024 * 1024  # bytes of one pax header or long name
MAX_GLOBAL = 1000  # records of all global pax headers
MAX_SPARSE = 1_000_000  # pieces of one sparse file
MAX_SIZE = 1 << 60  # bytes of one entry
NANO = 1_000_000_000

FILE, LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_REGULAR = {b"0", b"\0", b"7", b"S"}
_HEADER_ONLY = {LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO}
_FIELDS = struct.Struct("100s8s8s8s12s12s8sc100s8s")  # what every kind of entry has
_ZERO = bytes(BLOCK)
_XATTR = b"SCHILY.xattr."
_MODULUS = 65521  # of adler32's sum of bytes (RFC 1950)
_MAX_KNOWN = 20_000  # fields whose number is remembered


class Entry:
    """One member. `name` and `link` are raw bytes, `mtime` is ns, `offset` is where its data begins.

    `size` is the file's length; `sparse` is None or its pieces of data (offset, length) between holes.
    """

    __slots__ = (
        "gid",
        "kind",
        "link",
        "major",
        "minor",
        "mode",
        "mtime",
        "name",
        "offset",
        "size",
        "sparse",
        "uid",
        "xattrs",
    )

    def __init__(self) -> None:
        self.name = self.link = b""
        self.kind = FILE
        self.mode = self.uid = self.gid = self.size = self.mtime = self.major = self.minor = self.offset = 0
        self.xattrs: dict[str, bytes] | None = None
        self.sparse: list[tuple[int, int]] | None = None


_known: dict[bytes, int] = {}


def _number(field: bytes) -> int:
    """Octal text, or base-256 (GNU) when the first bit is set. Most fields are as in an entry before."""
    value = _known.get(field)
    if value is None:
        if len(_known) >= _MAX_KNOWN:
            _known.clear()
        value = _known[field] = _parse_number(field)
    return value


def _parse_number(field: bytes) -> int:
    first = field[0]
    if first & 0x80:
        value = int.from_bytes(field, "big", signed=False)
        bits = len(field) * 8
        return value - (1 << bits) if first == 0xFF else value & ~(0x80 << (bits - 8))
    text = field.partition(b"\0")[0].strip(b" ")
    if not text:
        return 0
    if not text.isdigit():
        raise TarError(f"a header has {field!r} where a number belongs")
    try:
        return int(text, 8)
    except ValueError:
        raise TarError(f"a header has {field!r} where an octal number belongs") from None


def _check(block: bytes, field: bytes) -> None:
    """The sum of the header's bytes, as unsigned or (old writers) signed characters. adler32 has the former
    in its lower half, modulo a prime, twenty times as fast as `sum`."""
    wanted = _number(field)
    if (adler32(block) & 0xFFFF) == (wanted - 255 + sum(field)) % _MODULUS:
        return
    rest = block[:148] + block[156:]
    unsigned = sum(rest) + 256
    if unsigned != wanted and unsigned - 256 * sum(byte > 127 for byte in rest) != wanted:
        raise TarError("a header's checksum is wrong")


def _text(field: bytes) -> bytes:
    end = field.find(b"\0")
    return field if end < 0 else field[:end]


def parse_pax(data: bytes) -> list[tuple[bytes, bytes]]:
    """The records of an extended header, in order."""
    found, position = [], 0
    while position < len(data):
        space = data.find(b" ", position, position + 20)
        digits = data[position:space] if space > 0 else b""
        if not digits.isdigit():
            if not data[position:].strip(b"\0"):
                break
            raise TarError("a pax record has no length")
        end = position + int(digits)
        if end > len(data) or end <= space + 1 or data[end - 1 : end] != b"\n":
            raise TarError("a pax record is longer than its header")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals or not key:
            raise TarError("a pax record has no key")
        found.append((key, value))
        position = end
    return found


def _seconds(value: bytes) -> int:
    """A pax time as ns."""
    whole, _, fraction = value.removeprefix(b"-").partition(b".")
    if not whole.isdigit() or len(whole) > 15 or not (fraction.isdigit() or not fraction):
        raise TarError(f"a pax time is {value!r}")
    total = int(whole) * NANO + int(fraction[:9].ljust(9, b"0"))
    return -total if value.startswith(b"-") else total


def _count(value: bytes) -> int:
    if not value.isdigit() or len(value) > 19:
        raise TarError(f"a pax record has {value!r} where a number belongs")
    return int(value)


class Reader:
    """Iterates over the entries of one archive; take the data of the current one by `source.copy`.

    What of an entry's data was not taken when the next one is asked for is skipped.
    """

    def __init__(self, source: Source | Pieces) -> None:
        self.source = source
        self._data_end = 0  # with its padding to a whole block
        self._padding = 0
        self._global: list[tuple[bytes, bytes]] = []

    def __iter__(self) -> Iterator[Entry]:
        local: list[tuple[bytes, bytes]] = []
        long_name = long_link = b""
        while True:
            left = self._data_end - self.source.offset - self._padding
            if left > 0:
                self.source.skip(left)
            block = self.source.block() if self.source.skip_padding(self._padding) else b""
            if not block or block == _ZERO:
                self._end(block, bool(local or long_name or long_link))
                return
            entry, magic, stored = self._header(block)
            kind = entry.kind
            if kind == b"x":
                local += parse_pax(self._meta(stored))
            elif kind == b"g":
                self._global += parse_pax(self._meta(stored))
                if len(self._global) > MAX_GLOBAL:
                    raise TarError(f"it has more than {MAX_GLOBAL} global pax records")
            elif kind == b"L":
                long_name = _text(self._meta(stored))
            elif kind == b"K":
                long_link = _text(self._meta(stored))
            elif kind == b"V":
                self._end_at(0)
            else:
                entry.name, entry.link = long_name or entry.name, long_link or entry.link
                if local or self._global or not self._finish_plain(entry, stored):
                    self._finish(entry, block, magic, stored, local)
                yield entry
                if local:
                    local = []
                long_name = long_link = b""

    def _end_at(self, stored: int, padding: int = 0) -> None:
        """The current entry's data and padding begin here."""
        self._data_end, self._padding = self.source.offset + stored + padding, padding

    def _end(self, block: bytes, pending: bool) -> None:
        if pending:
            raise TarError("it ends after a header that announces another entry")
        if block:
            second = self.source.block()
            if second and second != _ZERO:
                raise TarError("an entry follows its end mark")

    def _meta(self, size: int) -> bytes:
        if size > MAX_META:
            raise TarError(f"a pax header or long name has {size} bytes, more than {MAX_META}")
        data = self.source.read(size)
        self._end_at(0, -size % BLOCK)
        return data

    def _header(self, block: bytes) -> tuple[Entry, bytes, int]:
        """The fixed header: (entry, magic, bytes stored after it)."""
        name, mode, uid, gid, size, mtime, checksum, kind, link, magic = _FIELDS.unpack_from(block)
        _check(block, checksum)
        entry = Entry()
        entry.name, entry.link, entry.kind = _text(name), _text(link), kind
        entry.mode, entry.uid, entry.gid = _number(mode), _number(uid), _number(gid)
        entry.mtime = _number(mtime) * NANO
        stored = _number(size)
        if not 0 <= stored <= MAX_SIZE:
            raise TarError("an entry's size is out of range")
        if magic == b"ustar\x0000" and block[345]:
            entry.name = _text(block[345:500]) + b"/" + entry.name
        if kind in (CHAR, BLOCK_DEVICE):
            entry.major, entry.minor = _number(block[329:337]), _number(block[337:345])
        self._end_at(0)
        return entry, magic, stored

    def _finish_plain(self, entry: Entry, stored: int) -> bool:
        """As `_finish` does, in short, where there are no extended headers: most entries are so. False: this
        is none of the usual kinds."""
        kind, offset = entry.kind, self.source.offset
        if kind == FILE:
            entry.size = stored
            self._padding = -stored % BLOCK
            self._data_end = offset + stored + self._padding
            if entry.name.endswith(b"/"):
                entry.kind = DIRECTORY
        elif kind not in _HEADER_ONLY:
            return False
        entry.offset = offset
        return True

    def _finish(
        self, entry: Entry, block: bytes, magic: bytes, stored: int, local: list[tuple[bytes, bytes]]
    ) -> None:
        """Apply extended headers, settle the kind and where the data is."""
        records = self._global + local if self._global else local
        sparse: dict[bytes, list[bytes]] = {}
        for key, value in records:
            if key == b"size":
                stored = _count(value)
            elif key.startswith(b"GNU.sparse."):
                sparse.setdefault(key[11:], []).append(value)
            elif (setter := _PAX.get(key)) is not None:
                if value:
                    setter(entry, value)
            elif key.startswith(_XATTR):
                if entry.xattrs is None:
                    entry.xattrs = {}
                entry.xattrs[os.fsdecode(key[len(_XATTR) :])] = value
        kind = entry.kind
        if kind in _HEADER_ONLY or kind == b"D":
            if kind == b"D":
                entry.kind = DIRECTORY
                self._end_at(stored, -stored % BLOCK)
            entry.offset = self.source.offset
            return
        if kind not in _REGULAR:
            raise TarError(f"an entry is of the unknown type {kind!r}")
        if kind == b"S":
            entry.size, entry.sparse = self._old_sparse(block)
        self._end_at(stored, -stored % BLOCK)
        entry.size = entry.size if kind == b"S" else stored
        entry.kind = FILE
        if sparse:
            self._pax_sparse(entry, sparse)
        if kind != b"S" and not sparse and entry.name.endswith(b"/"):
            entry.kind = DIRECTORY
        entry.offset = self.source.offset
        if entry.sparse is not None:
            self._check_sparse(entry)

    def _old_sparse(self, block: bytes) -> tuple[int, list[tuple[int, int]]]:
        pieces: list[tuple[int, int]] = []
        size = _number(block[483:495])

        def take(data: bytes, start: int, count: int) -> None:
            for at in range(start, start + 24 * count, 24):
                length = _number(data[at + 12 : at + 24])
                if data[at]:
                    pieces.append((_number(data[at : at + 12]), length))

        take(block, 386, 4)
        more = block[482]
        while more:
            extension = self.source.read(BLOCK)
            take(extension, 0, 21)
            more = extension[504]
            if len(pieces) > MAX_SPARSE:
                raise TarError("a sparse file has too many pieces")
        return size, pieces

    def _pax_sparse(self, entry: Entry, records: dict[bytes, list[bytes]]) -> None:
        def last(key: bytes) -> bytes:
            return records[key][-1] if key in records else b""

        if name := last(b"name"):
            entry.name = name
        if last(b"major") == b"1":
            entry.size, numbers = _count(last(b"realsize")), self._sparse_map()
        elif b"map" in records:
            entry.size = _count(last(b"size"))
            numbers = [_count(item) for item in last(b"map").split(b",")]
        else:
            entry.size = _count(last(b"size"))
            offsets, lengths = records.get(b"offset", []), records.get(b"numbytes", [])
            if len(offsets) != len(lengths):
                raise TarError("a sparse file's map is malformed")
            numbers = [_count(item) for pair in zip(offsets, lengths, strict=True) for item in pair]
        if len(numbers) % 2:
            raise TarError("a sparse file's map is malformed")
        entry.sparse = list(zip(numbers[::2], numbers[1::2], strict=True))

    def _sparse_map(self) -> list[int]:
        """GNU format 1.0: decimal numbers, one a line, in the first blocks of the data."""
        numbers: list[int] = []
        data, wanted = b"", -1
        while wanted < 0 or len(numbers) < wanted:
            if self.source.offset + BLOCK > self._data_end:
                raise TarError("a sparse file's map is malformed")
            lines = (data + self.source.read(BLOCK)).split(b"\n")
            data = lines.pop()
            for line in lines:
                if wanted < 0:
                    wanted = 2 * _count(line)
                    if wanted > 2 * MAX_SPARSE:
                        raise TarError("a sparse file has too many pieces")
                elif len(numbers) < wanted:
                    numbers.append(_count(line))
        return numbers

    def _check_sparse(self, entry: Entry) -> None:
        position = stored = 0
        for offset, length in entry.sparse or ():
            if offset < position or length < 0 or offset + length > entry.size:
                raise TarError("a sparse file's map is malformed")
            position, stored = offset + length, stored + length
        if stored > self._data_end - self.source.offset or not 0 <= entry.size <= MAX_SIZE:
            raise TarError("a sparse file's map is malformed")


def _set_name(entry: Entry, value: bytes) -> None:
    entry.name = value


def _set_link(entry: Entry, value: bytes) -> None:
    entry.link = value


def _set_uid(entry: Entry, value: bytes) -> None:
    entry.uid = _count(value)


def _set_gid(entry: Entry, value: bytes) -> None:
    entry.gid = _count(value)


def _set_mtime(entry: Entry, value: bytes) -> None:
    entry.mtime = _seconds(value)


_PAX: dict[bytes, Callable[[Entry, bytes], None]] = {
    b"path": _set_name,
    b"linkpath": _set_link,
    b"uid": _set_uid,
    b"gid": _set_gid,
    b"mtime": _set_mtime,
}
