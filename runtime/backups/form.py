"""Values: a backup is one file that says by itself what it is.

    zstd frames         the tar archive
    skippable frame     the lines of runtime.backups.walk, zstd
    skippable frame     a summary as JSON, then its sha256 (32 bytes), its size (u32), MAGIC

Skippable frames (RFC 8878, 3.1.2) are passed over by whatever reads zstd: `tar --zstd -xf` takes the file as
it is. Numbers are little-endian. The summary's digest is over all that is before its frame.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import asdict, dataclass, fields
from typing import BinaryIO

SUFFIX = ".tar.zst"
VERSION = 1
MAGIC = b"STEADBK1"
MAX_SUMMARY = 64 * 1024  # bytes
MAX_FRAME = 0xFFFFFFFF  # bytes in a skippable frame

_SKIPPABLE = 0x184D2A50
_FRAME = struct.Struct("<II")
_END = struct.Struct("<32sI8s")


class Unreadable(ValueError):
    """No backup of ours, or not all of one; the text says why."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a backup holds. Sizes are bytes; times are seconds since the epoch."""

    volume: str
    source: str  # who declared it
    at: float  # when it was begun
    entries: int
    size: int  # of the files in it
    tar: int  # of the archive, not compressed
    archive: int  # of the zstd frames
    lines: int  # of the second frame's content
    digest: str  # sha256 of all that is before the summary, in hex
    quiesce: str = "none"
    revision: str = ""  # of the source, as it was in force
    sockets: int = 0  # left out
    changed: int = 0  # entries that changed while they were read
    users: tuple[str, ...] = ()  # containers that were held still meanwhile
    version: int = VERSION

    @property
    def covered(self) -> int:
        """Bytes before the summary's frame."""
        return self.archive + _FRAME.size + self.lines


def frame(size: int) -> bytes:
    """What is before `size` bytes that are to be skipped."""
    return _FRAME.pack(_SKIPPABLE, size)


def tail(summary: Summary) -> bytes:
    """The last frame."""
    text = json.dumps(asdict(summary), sort_keys=True).encode()
    content = text + _END.pack(hashlib.sha256(text).digest(), len(text), MAGIC)
    return frame(len(content)) + content


def read_summary(file: BinaryIO) -> Summary:
    """From the end of the file. Raises Unreadable; OSError."""
    size = file.seek(0, 2)
    if size < _END.size:
        raise Unreadable("it is no backup: it is too short")
    file.seek(size - _END.size)
    digest, length, magic = _END.unpack(file.read(_END.size))
    if magic != MAGIC:
        raise Unreadable("it does not end as a backup of a volume does: it is none, or it was cut off")
    if length > min(MAX_SUMMARY, size - _END.size):
        raise Unreadable("its summary is damaged")
    file.seek(size - _END.size - length)
    text = file.read(length)
    if hashlib.sha256(text).digest() != digest:
        raise Unreadable("its summary is damaged")
    found = _parse(text)
    if found.covered + _FRAME.size + length + _END.size != size:
        raise Unreadable(f"it has {size} bytes, and its summary speaks of another size")
    return found


def _parse(text: bytes) -> Summary:
    try:
        document = json.loads(text)
        version = document["version"]
        if version > VERSION:
            raise Unreadable(f"it has version {version}, and this release knows {VERSION}")
        known = {field.name for field in fields(Summary)}
        values = {key: value for key, value in document.items() if key in known}
        return Summary(**{**values, "users": tuple(document.get("users", ()))})
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable("its summary is malformed") from error
