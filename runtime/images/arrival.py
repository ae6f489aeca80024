"""Effects: a blob that is read while it is still being written: what has come is unpacked before the rest is
there.

One writer (whoever downloads), one reader at a time. What is read was not verified; a reader learns that it
was at its end: `pieces` ends only when the blob is complete under its digest.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

PIECE = 256 * 1024  # bytes read at once


class Restarted(Exception):
    """What was read so far is not what the blob will have: begin again."""


class Arrival:
    """Thread-safe. `generation` counts how often the writer began anew."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._fd = -1
        self._done = 0  # bytes that may be read
        self._complete = False
        self._error: BaseException | None = None
        self.generation = 0

    def close(self) -> None:
        with self._changed:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1

    # ------------------------------------------------------------ the writer's side

    def begin(self, fd: int, done: int) -> None:
        """Bytes are in this file from now on; the caller keeps its descriptor."""
        with self._changed:
            if self._fd >= 0:
                os.close(self._fd)
                self.generation += 1
            # an open file description of its own: a duplicate would keep the writer's lock (flock(2))
            self._fd, self._done = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC), done
            self._changed.notify_all()

    def grown(self, done: int) -> None:
        with self._changed:
            self._done = done
            self._changed.notify_all()

    def restarted(self) -> None:
        """Before the first byte is taken away: who reads it afterwards is told."""
        with self._changed:
            if self._done:
                self.generation += 1
            self._done = 0
            self._changed.notify_all()

    def complete(self, path: Path) -> None:
        """The blob is verified, and in this file."""
        with self._changed:
            if self._fd < 0:
                self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._done, self._complete = os.fstat(self._fd).st_size, True
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """No more will come. What is complete stays so."""
        with self._changed:
            if not self._complete:
                self._error = self._error or error
            self._changed.notify_all()

    # ------------------------------------------------------------ the reader's side

    def wait(self, *, complete: bool = False) -> None:
        """Until the first bytes are there, or all; raises what made the writer give up."""
        with self._changed:
            while not self._complete:
                if self._error is not None:
                    raise self._error
                if self._done and not complete:
                    return
                self._changed.wait()

    def pieces(self) -> Iterator[bytes]:
        """The blob's bytes from the first one on. Raises Restarted, and what made the writer give up."""
        position, generation = 0, self.generation
        while True:
            with self._changed:
                while position >= self._done and not self._complete and generation == self.generation:
                    if self._error is not None:
                        raise self._error
                    self._changed.wait()
                if generation != self.generation:
                    raise Restarted
                fd, most = self._fd, self._done - position
            if most <= 0:
                return
            data = os.pread(fd, min(most, PIECE), position)
            if not data:
                with self._changed:
                    if generation != self.generation:
                        raise Restarted
                raise OSError(f"the blob ends at {position}, before its {position + most} bytes")
            position += len(data)
            yield data
