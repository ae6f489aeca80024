"""Effects: where the bytes of a tar archive come from: a descriptor, or pieces that another thread makes.
Standard library only: the unpack worker imports this.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 512  # bytes
BUFFER = 1024 * 1024  # bytes


class TarError(ValueError):
    """The archive is malformed; the text says how."""


class Source:
    """Bytes of a descriptor (pipe or file), buffered. `skip` seeks when `seekable`."""

    def __init__(self, fd: int, *, seekable: bool = False) -> None:
        self._fd, self._seekable = fd, seekable
        self._buffer = bytearray(BUFFER)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._splice = not seekable and hasattr(os, "splice")
        self.offset = 0  # of the next byte

    def _fill(self, least: int) -> bool:
        """Have `least` bytes (at most BUFFER) in the buffer; False when the stream ends before."""
        have = self._end - self._start
        if have >= least:
            return True
        if self._start + least > BUFFER or not have:
            self._buffer[:have] = self._buffer[self._start : self._end]
            self._start, self._end = 0, have
        while self._end - self._start < least:
            count = os.readv(self._fd, [self._view[self._end :]])
            if not count:
                return False
            self._end += count
        return True

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes, or TarError."""
        parts = []
        while size:
            piece = min(size, BUFFER)
            if not self._fill(piece):
                raise TarError("it is cut off")
            parts.append(bytes(self._view[self._start : self._start + piece]))
            self._start += piece
            self.offset += piece
            size -= piece
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def block(self) -> bytes:
        """The next block; empty at the end of the stream."""
        if self._end - self._start < BLOCK and not self._fill(BLOCK):
            if self._end > self._start:
                raise TarError("it is cut off")
            return b""
        start = self._start
        self._start = start + BLOCK
        self.offset += BLOCK
        return bytes(self._view[start : start + BLOCK])

    def skip(self, size: int) -> None:
        have = self._end - self._start
        if size <= have:
            self._start += size
            self.offset += size
            return
        self.offset += size
        size -= have
        self._start = self._end = 0
        if self._seekable:
            if os.lseek(self._fd, size, os.SEEK_CUR) > os.fstat(self._fd).st_size:
                raise TarError("it is cut off")
            return
        while size:
            count = os.readv(self._fd, [self._view[: min(size, BUFFER)]])
            if not count:
                raise TarError("it is cut off")
            size -= count

    def skip_padding(self, size: int) -> bool:
        """Less than a block. False when the stream ends here: umoci leaves out the last padding and the end
        mark of some layers, and Go's archive/tar, so every other engine, takes that for the end."""
        if not self._fill(size):
            self._start = self._end
            return False
        self._start += size
        self.offset += size
        return True

    def copy(self, target: int, size: int) -> None:
        """Move the next `size` bytes to a descriptor; spliced past this process where it pays."""
        self.offset += size
        while size:
            have = self._end - self._start
            if have:
                piece = min(size, have)
                written = os.write(target, self._view[self._start : self._start + piece])
                self._start += written
                size -= written
            elif self._splice and size > 65536:
                size -= self._spliced(target, size)
            else:
                self._start = self._end = 0
                if not self._fill(1):
                    raise TarError("it is cut off")

    def _spliced(self, target: int, size: int) -> int:
        try:
            count = os.splice(self._fd, target, size)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._splice = False
            return 0
        if not count:
            raise TarError("it is cut off")
        return count

    def drain(self) -> None:
        """Read to the end of the stream: what follows the archive belongs to its digest too."""
        self._start = self._end = 0
        while os.readv(self._fd, [self._view]):
            pass


class Pieces:
    """A Source of pieces that are in memory, none of them empty: no byte is copied but into its file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = b""
        self._at = 0
        self._before = 0  # bytes of the stream before this piece

    @property
    def offset(self) -> int:
        return self._before + self._at

    def _more(self) -> bool:
        """The next piece, once this one is used up."""
        self._before += len(self._piece)
        self._at = 0
        self._piece = next(self._pieces, b"")
        return bool(self._piece)

    def _take(self, size: int) -> bytes:
        """As many bytes as are left, at most `size`, over the ends of pieces."""
        parts = []
        while size:
            if self._at >= len(self._piece) and not self._more():
                break
            part = self._piece[self._at : self._at + size]
            parts.append(part)
            self._at += len(part)
            size -= len(part)
        return b"".join(parts)

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes, or TarError."""
        data = self._take(size)
        if len(data) < size:
            raise TarError("it is cut off")
        return data

    def block(self) -> bytes:
        """The next block; empty at the end of the stream."""
        at = self._at
        block = self._piece[at : at + BLOCK]
        if len(block) == BLOCK:
            self._at = at + BLOCK
            return block
        block = self._take(BLOCK)
        if block and len(block) < BLOCK:
            raise TarError("it is cut off")
        return block

    def skip(self, size: int) -> None:
        while size > len(self._piece) - self._at:
            size -= len(self._piece) - self._at
            if not self._more():
                raise TarError("it is cut off")
        self._at += size

    def skip_padding(self, size: int) -> bool:
        """As Source.skip_padding."""
        if size <= len(self._piece) - self._at:
            self._at += size
            return True
        return len(self._take(size)) == size

    def copy(self, target: int, size: int) -> None:
        """Move the next `size` bytes to a descriptor."""
        while size:
            at = self._at
            data = memoryview(self._piece)[at : at + size]
            if not data:
                if not self._more():
                    raise TarError("it is cut off")
                continue
            count = os.write(target, data)
            self._at = at + count
            size -= count

    def drain(self) -> None:
        """To the end of the stream: what follows the archive belongs to its digest too."""
        while self._more():
            pass
