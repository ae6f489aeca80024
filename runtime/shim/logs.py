"""Effects: a container's output goes from its pipes to disk by splice(2), beside an index of when it came.

A log directory holds `<n>.log`, the raw bytes of both streams as they came, and `<n>.idx`, one
messages.INDEX_RECORD a chunk; n grows, nothing is renamed, so a reader follows across rotation without a gap.
A chunk is on disk before its record, a reader believes records only. At `max_size`, and where somebody has
deleted or cut the files, the next number begins; the oldest files beyond `max_files` are deleted.

The application never waits for us longer than for the disk itself: when the disk is full its output is thrown
away and counted, and every second the disk is tried again.
"""

from __future__ import annotations

import os
import time
from select import POLLIN, poll

from runtime.shim import messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: Bytes taken from one pipe before the loop turns to others; also the size of an ordinary pipe.
CHUNK = 65536
#: Chunks taken from one pipe in one turn.
TURN = 16
#: Seconds between two tries to write to a disk that was full.
RETRY = 1.0
MIN_SIZE = 4096

_SPLICE_F_NONBLOCK = 2


def file_numbers(directory: str | os.PathLike[str]) -> list[int]:
    """The numbers of the log files in `directory`, oldest first; none when it is not there."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    stems = (name[:-4] for name in names if name.endswith(".log"))
    return sorted(int(stem) for stem in stems if stem.isdigit())


def _has_some(pipe: int) -> bool:
    """Whether there is something to read; False at the end. BlockingIOError when it is empty for now."""
    waiting = poll()
    waiting.register(pipe, POLLIN)
    events = dict(waiting.poll(0)).get(pipe, 0)
    if not events:
        raise BlockingIOError
    return bool(events & POLLIN)


class LogWriter:
    """The one writer of a log directory, which is made with the first output; its last file is continued.

    `taken` counts bytes of output, `dropped` those that were thrown away. `full`: whoever writes should set
    `on_room`, and wait until that is called. A log that is files only never is.
    """

    full = False
    turns = TURN
    on_room: Callable[[], None] | None = None

    def __init__(self, directory: str, max_size: int, max_files: int) -> None:
        self.directory = directory
        self.dropped = self.taken = 0
        self._log = self._index = self._null = -1
        self._offset = self._records = 0
        self._flags = 0
        self._retry_at = 0.0
        self._rebooted = False  # since the last file was written
        self.limit(max_size, max_files)
        self._number = -1  # of the open file

    def limit(self, max_size: int, max_files: int) -> None:
        """New limits; they hold from the next chunk and rotation on. Less than one page or file is not."""
        self._max_size, self._max_files = max(MIN_SIZE, int(max_size)), max(1, int(max_files))

    def splice(self, pipe: int, stream: int) -> bool:
        """Take what is in the non-blocking `pipe`. False at its end."""
        for _ in range(self.turns):
            try:
                taken = self._take(pipe, stream)
            except BlockingIOError:
                return True
            if taken == 0:
                return False
        return True

    def write(self, data: bytes, stream: int) -> None:
        """The same for bytes that came by read(2): a terminal cannot be spliced."""
        view = memoryview(data)
        while view:
            if not self._usable():
                self._drop(len(view))
                return
            try:
                written = os.pwrite(self._log, view[: self._max_size - self._offset], self._offset)
                view = view[written:]
                self._record(written, stream)
            except OSError:
                self._fail()

    def run_ended(self) -> None:
        """What was written without an end of line has none. Repeatable."""
        if self._log < 0 and not file_numbers(self.directory):
            return
        self._flags |= messages.FLAG_ENDED
        if not self._usable():
            return  # the next chunk says it
        if self._records:
            size = messages.INDEX_RECORD.size
            length = messages.INDEX_RECORD.unpack(os.pread(self._index, size, (self._records - 1) * size))[1]
        else:
            length = self._number
        if not length:  # it was said, or there is nothing before
            self._flags &= ~messages.FLAG_ENDED
            return
        try:
            self._record(0, messages.STDOUT)
        except OSError:
            self._fail()

    def close(self) -> None:
        for fd in (self._log, self._index, self._null):
            if fd >= 0:
                os.close(fd)
        self._log = self._index = self._null = -1

    # -- one chunk

    def _take(self, pipe: int, stream: int) -> int:
        """Bytes that left the pipe, 0 at its end. BlockingIOError when it is empty for now."""
        if self._log < 0 and not _has_some(pipe):
            return 0  # without a file for a program that said nothing
        if not self._usable():
            return self._throw_away(pipe)
        room = min(CHUNK, self._max_size - self._offset)
        try:
            taken = os.splice(pipe, self._log, room, offset_dst=self._offset, flags=_SPLICE_F_NONBLOCK)
        except BlockingIOError:
            raise
        except OSError:  # ENOSPC, EDQUOT, EIO, EFBIG: the bytes are still in the pipe
            self._fail()
            return self._throw_away(pipe)
        self.taken += taken
        if taken:
            try:
                self._record(taken, stream)
            except OSError:  # the bytes are on disk: opening the files again finds them
                self._fail()
        return taken

    def _record(self, length: int, stream: int) -> None:
        record = messages.index_record(self._offset, length, stream, self._flags, time.time_ns())
        written = os.write(self._index, record)
        if written != len(record):
            os.ftruncate(self._index, os.lseek(self._index, 0, os.SEEK_END) - written)
            raise OSError(28, "cannot write log index: no space left")
        self._offset += length
        self._records += 1
        self._flags = 0
        if self._is_full():
            self._rotate()

    def _throw_away(self, pipe: int) -> int:
        if self._null < 0:
            self._null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        taken = os.splice(pipe, self._null, CHUNK, flags=_SPLICE_F_NONBLOCK)
        self.taken += taken
        self._drop(taken)
        return taken

    def _drop(self, length: int) -> None:
        self.dropped += length
        self._flags |= messages.FLAG_DROPPED

    # -- files

    def _usable(self) -> bool:
        """Whether there is a file to write to; tries again when the last failure is long enough ago."""
        now = time.monotonic()
        if now < self._retry_at:
            return False
        if self._log < 0:
            try:
                self._open()
            except OSError:
                self._fail()
                return False
        if self._is_full() or self._is_gone():  # the limit was lowered; or a person was here
            self._rotate()
            return self._log >= 0
        return True

    def _is_full(self) -> bool:
        """The index has the same limit: of a program that writes byte by byte it is the larger file."""
        return max(self._offset, self._records * messages.INDEX_RECORD.size) >= self._max_size

    def _is_gone(self) -> bool:
        """Whether somebody has deleted or cut the files: what went on in them would not be found."""
        log, index = os.fstat(self._log), os.fstat(self._index)
        if not log.st_nlink or not index.st_nlink:
            return True
        return log.st_size < self._offset or index.st_size < self._records * messages.INDEX_RECORD.size

    def _fail(self) -> None:
        """Give the disk a rest. The files are closed, since opening mends what was half written."""
        self._retry_at = time.monotonic() + RETRY
        for fd in (self._log, self._index):
            if fd >= 0:
                os.close(fd)
        self._log = self._index = -1

    def _open(self) -> None:
        """Open the files of the present number at their end; mends what a killed shim or a full disk left."""
        os.makedirs(self.directory, 0o700, exist_ok=True)
        if self._number < 0:
            self._number = [0, *file_numbers(self.directory)][-1]
        stem = f"{self.directory}/{self._number}"
        self._log = os.open(f"{stem}.log", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._index = os.open(f"{stem}.idx", flags, 0o600)
            self._mend()
        except OSError:
            os.close(self._log)
            self._log = -1
            if self._index >= 0:
                os.close(self._index)
                self._index = -1
            raise

    def _mend(self) -> None:
        """Bytes that no record knows get one; half a record is cut off, and so are the zeros that a power cut
        leaves where data was still on its way to the disk."""
        end = self._cut_zeros(os.fstat(self._log))
        size = messages.INDEX_RECORD.size
        count = os.fstat(self._index).st_size // size
        known = 0
        while count:
            last = messages.INDEX_RECORD.unpack(os.pread(self._index, size, (count - 1) * size))
            known = last[0] + last[1]
            if (last[1] or last[3]) and (known <= end or not self._rebooted):
                break
            count, known = count - 1, 0
        os.ftruncate(self._index, count * size)
        self._records = count
        if end > known:
            self._records += 1
            flags = messages.FLAG_RECOVERED
            os.write(
                self._index, messages.index_record(known, end - known, messages.STDOUT, flags, time.time_ns())
            )
        self._offset = max(end, known)  # cut by hand: go on where the records end

    def _cut_zeros(self, status: os.stat_result) -> int:
        """The size of the log file, without zeros at its end where it was last written before this boot."""
        end = status.st_size
        self._rebooted = status.st_mtime < time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        if not self._rebooted:
            return end
        while end:
            begin = max(0, end - CHUNK)
            end = begin + len(os.pread(self._log, end - begin, begin).rstrip(b"\0"))
            if end > begin:
                break
        os.ftruncate(self._log, end)
        return end

    def _rotate(self) -> None:
        os.close(self._log)
        os.close(self._index)
        self._log = self._index = -1
        self._number += 1
        try:
            self._open()
            for number in file_numbers(self.directory)[: -self._max_files]:
                for ending in ("log", "idx"):
                    try:
                        os.unlink(f"{self.directory}/{number}.{ending}")
                    except FileNotFoundError:
                        pass
        except OSError:
            self._fail()
