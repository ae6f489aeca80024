"""Effects: bytes of a compressed file, decompressed. What it is, its first bytes say; a media type may lie.

Sources: RFC 1952 (gzip; several members are one stream), RFC 8878 (zstd frames). isal inflates twice as fast
as zlib and is optional.
"""

from __future__ import annotations

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Protocol

_inflate: Any
try:
    from isal import isal_zlib as _inflate

    GZIP_LEVEL = 2  # of isal's 0 to 3: four fifths of the size that zlib has at 6, ten times as fast
except ImportError:  # no wheel for this machine
    _inflate = zlib
    GZIP_LEVEL = 6

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ZstdCompressor = zstd.ZstdCompressor

ZSTD_LEVEL = 3
INPUT = 256 * 1024  # bytes read at once
OUTPUT = 1024 * 1024  # bytes given at once, so that a bomb never fills the memory

_GZIP, _ZSTD, _BZIP2, _XZ = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\0"
_ZSTD_SKIPPABLE = tuple(bytes([0x50 + low]) + b"\x2a\x4d\x18" for low in range(16))


class CompressionError(ValueError):
    """The compressed stream is malformed; the text says how."""


class _Gunzip:
    """One gzip member behind the interface that the other decompressors of the standard library share."""

    def __init__(self) -> None:
        self._engine = _inflate.decompressobj(wbits=31)
        self._full = False

    def decompress(self, data: bytes, max_length: int) -> bytes:
        result: bytes = self._engine.decompress(self._engine.unconsumed_tail + data, max_length)
        self._full = len(result) >= max_length  # then more may wait inside
        return result

    @property
    def needs_input(self) -> bool:
        return not self._engine.unconsumed_tail and not self._full

    @property
    def eof(self) -> bool:
        return bool(self._engine.eof)

    @property
    def unused_data(self) -> bytes:
        rest: bytes = self._engine.unused_data
        return rest


_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    ValueError,
    EOFError,
    zlib.error,
    _inflate.error,
    lzma.LZMAError,
    zstd.ZstdError,
)


def detect(head: bytes) -> str:
    """gzip, zstd, bzip2, xz, or empty for anything else."""
    if head.startswith(_GZIP):
        return "gzip"
    if head.startswith((_ZSTD, *_ZSTD_SKIPPABLE)):
        return "zstd"
    return "bzip2" if head.startswith(_BZIP2) else "xz" if head.startswith(_XZ) else ""


_ENGINES: dict[str, Callable[[], Any]] = {
    "gzip": _Gunzip,
    "zstd": zstd.ZstdDecompressor,
    "bzip2": bz2.BZ2Decompressor,
    "xz": lzma.LZMADecompressor,
}


def decompressed(file: BinaryIO) -> Iterator[bytes]:
    """The file's bytes from where it stands, in pieces of at most OUTPUT, or CompressionError."""
    data = file.read(INPUT)
    kind = detect(data)
    if not kind:
        while data:
            yield data
            data = file.read(OUTPUT)
        return
    while data:
        engine = _ENGINES[kind]()
        while not engine.eof:
            if engine.needs_input and not data:
                data = file.read(INPUT)
                if not data:
                    raise CompressionError(f"its {kind} stream is cut off")
            try:
                piece = engine.decompress(data, OUTPUT)
            except _ERRORS as error:
                raise CompressionError(f"its {kind} stream is damaged: {str(error).lower()}") from error
            data = b""
            if piece:
                yield piece
        data = _next_member(kind, engine.unused_data, file)


def _next_member(kind: str, data: bytes, file: BinaryIO) -> bytes:
    """What follows a finished member: another one, or padding with zeros, or nothing."""
    while True:
        if len(data) < 16:
            data += file.read(INPUT)
        stripped = data.lstrip(b"\0")
        if not stripped and len(data) >= 16:
            data = b""
            continue
        if stripped and detect(stripped) != kind:
            raise CompressionError(f"something else follows its {kind} stream")
        return stripped


class Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _Plain:
    def compress(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def compressor(kind: str) -> Compressor:
    """For gzip, zstd or none. The same input gives the same bytes, with the same library."""
    if kind == "none":
        return _Plain()
    engine: Compressor
    if kind == "zstd":
        engine = ZstdCompressor(level=ZSTD_LEVEL)
    elif kind == "gzip":
        engine = _inflate.compressobj(GZIP_LEVEL, wbits=31)
    else:
        raise ValueError(f"cannot compress as {kind!r}: there are gzip, zstd and none")
    return engine
