"""Effects: reading what a container wrote, from the files that its shim keeps (runtime.shim.logs).

Works without shim, agent or container; never disturbs the writer. Times are nanoseconds since the epoch, of
the moment when the shim took the bytes from the pipe.
"""

from __future__ import annotations

import os
import select
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from runtime.faults import from_oserror
from runtime.linux.regular import open_regular
from runtime.shim.logs import file_numbers
from runtime.shim.messages import FLAG_ENDED, INDEX_RECORD, STDERR, STDOUT

#: A line longer than this comes in pieces (bytes).
MAX_LINE = 1024 * 1024
#: Seconds after which a follower looks again although nothing told it to.
LOOK_AGAIN = 0.5
#: Seconds between two looks where inotify is not to be had (its instances are used up).
POLL = 0.05

Entry = tuple[int, int, bytes]  # time in ns, stream (1 stdout, 2 stderr), bytes
Record = tuple[int, int, int, int, int, int]  # as messages.INDEX_RECORD

#: ns; later than any record's time
_FOREVER = 1 << 64
#: instead of a stream: a run ended here
_END = 0


def read(
    log_dir: Path,
    *,
    since: int | None = None,
    until: int | None = None,
    tail: int | None = None,
    follow: bool = False,
    streams: tuple[int, ...] = (STDOUT, STDERR),
    raw: bool = False,
    ended: Callable[[], bool] | None = None,
    wake: int = -1,
) -> Iterator[Entry]:
    """Lines with their newline, oldest first; a line carries the time of its first byte. One that its
    program did not end before it ended itself has no newline (`has_no_end`).

    `since` and `until` are ns since the epoch, and both are shown; `tail` is a number of lines. `follow` goes
    on with what comes, across rotation, until `ended()` is true (default: the container has an exit record,
    or its files are gone). `raw` yields chunks as they came rather than lines, for terminals; `tail` then
    counts chunks.
    `ended` is asked again when the descriptor `wake` becomes readable. Fault kernel-error for files that are
    none.
    """
    reader = _Reader(Path(log_dir), streams)
    lines = _Lines(raw)
    since, until = since or 0, _FOREVER if until is None else until
    reader.seek_time(since, raw)
    if tail is not None:
        reader.seek_tail(tail)
    kept = (entry for entry in _present(reader, lines, not follow) if entry[0] >= since)
    yield from _before(until, kept if tail is None else deque(kept, maxlen=tail), lines)
    if follow:
        found = _follow(reader, lines, wake, until, ended or _has_ended(reader.directory))
        yield from (entry for entry in found if entry[0] >= since)


def has_no_end(line: bytes) -> bool:
    """Whether what follows of its stream is another line all the same."""
    return not line.endswith(b"\n") and len(line) < MAX_LINE


def _present(reader: _Reader, lines: _Lines, whole: bool) -> Iterator[Entry]:
    for entry in reader.entries():
        yield from lines.feed(entry)
    if whole:
        yield from lines.rest()


def _before(until: int, found: Iterable[Entry], lines: _Lines) -> Iterator[Entry]:
    """Without what is later. One that is, of one stream, may come before one of the other that is not, but
    has been seen to begin by then."""
    for entry in found:
        if entry[0] <= until:
            yield entry
        elif lines.oldest() > until:
            return


def _follow(
    reader: _Reader, lines: _Lines, wake: int, until: int, ended: Callable[[], bool]
) -> Iterator[Entry]:
    """What has ended is not watched: that takes longer than to read it."""
    watch: _Watch | None = None
    try:
        while True:
            last = ended()  # asked before reading: what was written before the end is still found
            last = last or time.time_ns() > until
            yield from _before(until, _present(reader, lines, last), lines)
            if last:
                return
            if watch is None:  # of what came before it, it says nothing: so there is another look
                watch = _Watch(reader.directory, wake)
            else:
                watch.wait()
    finally:
        if watch is not None:
            watch.close()


def format_time(time_ns: int) -> str:
    """UTC, RFC 3339 with nanoseconds: 2026-01-02T03:04:05.000000006Z."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}Z"


def _has_ended(directory: Path) -> Callable[[], bool]:
    exit_record, home = directory.parent / "exit.json", directory.parent
    return lambda: exit_record.exists() or not home.exists()


class _Reader:
    """A place in a log directory: file number and position in its index."""

    def __init__(self, directory: Path, streams: tuple[int, ...]) -> None:
        self.directory = directory
        self._streams = streams
        self._number = -1  # of the file to be read; -1: the oldest there is
        self._position = 0  # records of its index that are read

    def seek_time(self, since_ns: int, raw: bool) -> None:
        """To the first chunk that came at `since_ns` or later; where lines are wanted, back to where those
        began that go on in it."""
        if since_ns <= 0:
            return
        self._seek_chunk(since_ns)
        if not raw and self._number >= 0:
            self._seek_begin()

    def _seek_begin(self) -> None:
        """Back to where each stream that is within a line began it, or to MAX_LINE of it."""
        streams = dict.fromkeys(self._streams, 0)  # those that may be, and the bytes of it
        begin = self._number, self._position
        for number in reversed([n for n in _numbers(self.directory) if n <= self._number]):
            records = self._records(number)
            at = min(self._position, len(records)) if number == self._number else len(records)
            with _Data(self.directory, number) as data:
                while streams and at:
                    at -= 1
                    stream, flags = records[at][2:4]
                    if stream in streams:
                        found = data.read(records[at])
                        if streams[stream] or not found.endswith(b"\n"):
                            begin = number, at
                        streams[stream] += len(found)
                        if b"\n" in found or streams[stream] >= MAX_LINE:
                            del streams[stream]
                    if flags & FLAG_ENDED:
                        streams.clear()
            if not streams:
                break
        self._number, self._position = begin

    def _seek_chunk(self, since_ns: int) -> None:
        for number in _numbers(self.directory):
            records = self._records(number)
            self._number = number
            self._position = bisect_left(records, since_ns, key=lambda record: record[5])
            if self._position < len(records):
                return

    def seek_tail(self, lines: int) -> None:
        """Forward to a chunk from which on there are `lines` lines, if there are that many from here on."""
        first, position = self._number, self._position
        wanted = lines + len(self._streams)  # the window may begin within a line of each stream
        seen = 0
        for number in reversed([n for n in _numbers(self.directory) if n >= first]):
            records = self._records(number)
            start = position if number == first else 0
            with _Data(self.directory, number) as data:
                for at in range(len(records) - 1, start - 1, -1):
                    if records[at][2] not in self._streams:
                        continue
                    seen += data.read(records[at]).count(b"\n")
                    if seen >= wanted:
                        self._number, self._position = number, at
                        return

    def entries(self) -> Iterator[Entry]:
        """Every chunk from here on to the present end."""
        while True:
            numbers = _numbers(self.directory)
            if not numbers:
                return
            if self._number not in numbers:  # not begun, or deleted by rotation before we came to it
                later = [number for number in numbers if number > self._number]
                if not later:
                    return
                self._number, self._position = later[0], 0
            # A file that has a successor will not grow any more: listed before it is read.
            yield from self._file(self._number)
            if self._number == numbers[-1]:
                return
            self._number, self._position = min(n for n in numbers if n > self._number), 0

    def _file(self, number: int) -> Iterator[Entry]:
        records = self._records(number, self._position)
        if not records:
            return
        with _Data(self.directory, number) as data:
            for record in records:
                self._position += 1
                if record[3] & FLAG_ENDED:
                    yield record[5], _END, b""
                if record[2] in self._streams:
                    yield record[5], record[2], data.read(record)

    def _records(self, number: int, first: int = 0) -> list[Record]:
        try:
            with open(_opened(self.directory, f"{number}.idx"), "rb") as file:
                file.seek(first * INDEX_RECORD.size)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = len(data) - len(data) % INDEX_RECORD.size
        return list(INDEX_RECORD.iter_unpack(data[:whole]))


def _numbers(directory: Path) -> list[int]:
    """Fault where it is no directory."""
    try:
        return file_numbers(directory)
    except OSError as error:
        raise from_oserror(error, "read", "log") from error


def _opened(directory: Path, name: str) -> int:
    """FileNotFoundError where rotation deleted it; Fault where it cannot be read."""
    try:
        return open_regular(directory / name)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise from_oserror(error, "read", "log") from error


class _Data:
    """The bytes of one log file; empty when rotation deleted it."""

    def __init__(self, directory: Path, number: int) -> None:
        try:
            self._fd = _opened(directory, f"{number}.log")
        except FileNotFoundError:
            self._fd = -1
        self._size = os.fstat(self._fd).st_size if self._fd >= 0 else 0  # of it, the records were read before

    def read(self, record: Record) -> bytes:
        """No more than there is, whatever a damaged record says."""
        offset, length = record[:2]
        return b"" if offset >= self._size else os.pread(self._fd, min(length, self._size - offset), offset)

    def __enter__(self) -> _Data:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)


class _Lines:
    """Chunks become lines, each stream by itself."""

    def __init__(self, raw: bool) -> None:
        self._raw = raw
        self._open: dict[int, tuple[int, bytearray]] = {}  # stream -> time, bytes of a line without end

    def feed(self, entry: Entry) -> Iterator[Entry]:
        moment, stream, data = entry
        if stream == _END:
            yield from self.rest()
        if not data:
            return
        if self._raw:
            yield entry
            return
        began, before = self._open.setdefault(stream, (moment, bytearray()))
        before += data  # in place: a line may come byte by byte
        if b"\n" not in data and len(before) < MAX_LINE:
            return
        del self._open[stream]
        lines = _split(bytes(before))
        for line in lines[:-1]:
            yield began, stream, line
            began = moment
        last = lines[-1]
        if last.endswith(b"\n") or len(last) >= MAX_LINE:
            yield began, stream, last
        else:
            self._open[stream] = (began, bytearray(last))

    def oldest(self) -> int:
        """When the first of those began that have no newline yet."""
        return min((began for began, _ in self._open.values()), default=_FOREVER)

    def rest(self) -> list[Entry]:
        """What has no newline yet, oldest first."""
        rest = sorted((began, stream, bytes(data)) for stream, (began, data) in self._open.items())
        self._open.clear()
        return rest


def _split(data: bytes) -> list[bytes]:
    """Like splitlines(keepends=True), at newlines only: a carriage return draws a progress bar."""
    parts = data.split(b"\n")
    lines = [part + b"\n" for part in parts[:-1]]
    return [*lines, parts[-1]] if parts[-1] else lines


class _Watch:
    """Waits until something may have changed in a log directory or beside it: inotify(7), else by polling."""

    _EVENTS = 0x2 | 0x100 | 0x80 | 0x200 | 0x400  # MODIFY CREATE MOVED_TO DELETE DELETE_SELF

    def __init__(self, directory: Path, wake: int) -> None:
        self._wake = wake
        self._wanted, self._watched = (directory, directory.parent), set[Path]()
        import ctypes  # not for who only reads what there is

        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = -1
        self._add()

    def _add(self) -> None:
        if self._fd < 0:  # none may have been left before
            self._fd = int(self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        for path in self._wanted:
            if self._fd < 0 or path in self._watched:
                continue
            if self._libc.inotify_add_watch(self._fd, os.fsencode(path), self._EVENTS) >= 0:
                self._watched.add(path)

    def wait(self) -> None:
        if len(self._watched) < len(self._wanted):
            self._add()  # of what came before it, it says nothing: so there is another look
            if len(self._watched) < len(self._wanted):
                time.sleep(POLL)
            return
        heard = [self._fd] if self._wake < 0 else [self._fd, self._wake]
        if self._fd in select.select(heard, [], [], LOOK_AGAIN)[0]:
            try:
                os.read(self._fd, 65536)
            except BlockingIOError:
                pass

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
