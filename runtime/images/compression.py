"""Effects: compressors, each called as the specifications call what it makes: gzip, zstd, none.

How streams are decompressed is in `decompress`.
"""

from __future__ import annotations

import sys
from typing import Protocol

from runtime.images.decompress import OUTPUT, CompressionError, decompressed, detect, inflater

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["OUTPUT", "CompressionError", "ZstdCompressor", "compressor", "decompressed", "detect"]

ZstdCompressor = zstd.ZstdCompressor

ZSTD_LEVEL = 3
_DEFLATE = inflater()
#: of isal's 0 to 3: four fifths of the size that zlib has at 6, ten times as fast
GZIP_LEVEL = 6 if _DEFLATE.__name__ == "zlib" else 2


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
        engine = _DEFLATE.compressobj(GZIP_LEVEL, wbits=31)
    else:
        raise ValueError(f"cannot compress as {kind!r}: there are gzip, zstd and none")
    return engine
