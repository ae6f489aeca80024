"""Effects: bytes of a compressed stream, decompressed. What it is, its first bytes say; a media type may lie.

Sources: RFC 1952 (gzip; several members are one stream), RFC 8878 (zstd frames). isal inflates twice as fast
as zlib and is optional. The unpack worker imports this: an engine is loaded when it is needed, and `load`
does so early, before a chroot takes the files away.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, BinaryIO

INPUT = 256 * 1024  # bytes read at once
XZ_MEMORY = 256 * 1024 * 1024  # bytes that a stream may make xz want; `xz -9` wants 65 MiB
OUTPUT = 1024 * 1024  # bytes given at once, so that a bomb never fills the memory

_GZIP, _ZSTD, _BZIP2, _XZ = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\0"
_ZSTD_SKIPPABLE = tuple(bytes([0x50 + low]) + b"\x2a\x4d\x18" for low in range(16))


class CompressionError(ValueError):
    """The compressed stream is malformed; the text says how."""


def inflater() -> Any:
    """isal's zlib, or the standard library's where there is no wheel for this machine."""
    try:
        from isal import isal_zlib
    except ImportError:
        import zlib

        return zlib
    return isal_zlib


class _Gunzip:
    """One gzip member behind the interface that the other decompressors of the standard library share."""

    def __init__(self, library: Any) -> None:
        self._engine = library.decompressobj(wbits=31)
        self._full = False

    def decompress(self, data: bytes, max_length: int) -> bytes:
        tail = self._engine.unconsumed_tail
        result: bytes = self._engine.decompress(tail + data if tail else data, max_length)
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


def detect(head: bytes) -> str:
    """gzip, zstd, bzip2, xz, or empty for anything else."""
    if head.startswith(_GZIP):
        return "gzip"
    if head.startswith((_ZSTD, *_ZSTD_SKIPPABLE)):
        return "zstd"
    return "bzip2" if head.startswith(_BZIP2) else "xz" if head.startswith(_XZ) else ""


def load(kind: str) -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    """What makes a decompressor of one member, and what it raises when the data is damaged."""
    errors: tuple[type[Exception], ...] = (OSError, ValueError, EOFError)
    if kind == "gzip":
        library = inflater()
        return lambda: _Gunzip(library), (*errors, library.error)
    if kind == "zstd":
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
        return zstd.ZstdDecompressor, (*errors, zstd.ZstdError)
    if kind == "bzip2":
        import bz2

        return bz2.BZ2Decompressor, errors
    import lzma

    return lambda: lzma.LZMADecompressor(memlimit=XZ_MEMORY), (*errors, lzma.LZMAError)


def decompressed(file: BinaryIO) -> Iterator[bytes]:
    """The file's bytes from where it stands, in pieces of at most OUTPUT, or CompressionError."""
    head = file.read(INPUT)
    return stream(detect(head), head, file.read)


def stream(kind: str, head: bytes, read: Callable[[int], bytes]) -> Iterator[bytes]:
    """What `head` and all that `read` gives decompress to. `kind` is what `detect` said of the head."""
    return _members(kind, load(kind), head, read) if kind else _plain(head, read)


def _plain(data: bytes, read: Callable[[int], bytes]) -> Iterator[bytes]:
    while data:
        yield data
        data = read(OUTPUT)


def _members(
    kind: str,
    loaded: tuple[Callable[[], Any], tuple[type[Exception], ...]],
    data: bytes,
    read: Callable[[int], bytes],
) -> Iterator[bytes]:
    make, errors = loaded
    while data:
        engine = make()
        while not engine.eof:
            if engine.needs_input and not data:
                data = read(INPUT)
                if not data:
                    raise CompressionError(f"its {kind} stream is cut off")
            try:
                piece = engine.decompress(data, OUTPUT)
            except errors as error:
                raise CompressionError(f"its {kind} stream is damaged: {str(error).lower()}") from error
            data = b""
            if piece:
                yield piece
        data = _next_member(kind, engine.unused_data, read)


def _next_member(kind: str, data: bytes, read: Callable[[int], bytes]) -> bytes:
    """What follows a finished member: another one, or padding with zeros, or nothing."""
    while True:
        if len(data) < 16:
            data += read(INPUT)
        stripped = data.lstrip(b"\0")
        if not stripped and len(data) >= 16:
            data = b""
            continue
        if stripped and detect(stripped) != kind:
            raise CompressionError(f"something else follows its {kind} stream")
        return stripped
