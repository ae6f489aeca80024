"""Effects: tar archives of strangers, recognised by their content and unpacked into a directory of the
build's.

The work is done by the image store's chrooted worker, as for a layer over nothing: no entry reaches beyond
the directory."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from runtime.build.workspace import Workspace
from runtime.faults import Fault
from runtime.images.compression import CompressionError, decompressed
from runtime.images.layers import LayerJob, LayerStore

BLOCK = 512
#: Bytes of one archive on the disk, compressed.
MAX_ARCHIVE = 1 << 38


def is_archive(file: BinaryIO) -> bool:
    """Whether its content, decompressed where it is compressed, begins as a tar does. Reads from where it
    stands."""
    head = b""
    with suppress(CompressionError, OSError):
        for piece in decompressed(file):
            head += piece
            if len(head) >= BLOCK:
                break
    return is_header(head[:BLOCK])


def is_header(block: bytes) -> bool:
    """Whether a block has the sum of a tar header (POSIX.1 pax, ustar interchange format)."""
    if len(block) < BLOCK or not any(block):
        return False
    try:
        told = int(block[148:156].split(b"\0")[0].strip() or b"x", 8)
    except ValueError:
        return False
    rest = block[:148] + b" " * 8 + block[156:]
    signed = sum(byte - 256 if byte > 127 else byte for byte in rest)
    return told in (sum(rest), signed)


def unpack(work: Workspace, fd: int, subject: str) -> Path:
    """The archive in the open file, in a directory of its own. Fault archive-invalid or layer-invalid."""
    home = work.new()
    digest = hashlib.sha256()
    try:
        for piece in _plain(fd):
            digest.update(piece)
    except CompressionError as error:
        raise Fault("archive-invalid", "unpack", subject, str(error)) from error
    diff_id = f"sha256:{digest.hexdigest()}"
    store = LayerStore(home)
    store.unpack(LayerJob(diff_id, diff_id, (), lambda: _plain(fd)), subject)
    return store.path(diff_id)


def _plain(fd: int) -> Iterator[bytes]:
    with io.FileIO(os.dup(fd)) as raw:
        raw.seek(0)
        with io.BufferedReader(raw) as file:
            yield from decompressed(file)


def spool(work: Workspace, source: BinaryIO, subject: str) -> int:
    """All of a stream in a file without a name, open for reading. Fault archive-invalid when it is too
    long."""
    fd = work.scratch()
    try:
        size = 0
        while piece := source.read(1 << 20):
            size += len(piece)
            if size > MAX_ARCHIVE:
                raise Fault("archive-invalid", "read", subject, f"it has more than {MAX_ARCHIVE} bytes")
            view = memoryview(piece)
            while view:
                view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd
