"""Effects: output that goes on to journald or syslog, or nowhere: loggers other than our own files.

Our own files are the queue. A chunk of output is on disk first, as ever; then its lines are sent, and what
was sent is written down in SENT, beside the files. So a slow or absent logger costs no memory, a shim that is
killed loses no line (its successor sends the last few twice rather than not at all), and logs, attach and the
tail of a crash loop work as with our own files.

`limit` bytes may wait to be sent. When there are more, the program waits for the logger (its pipe is not
read), or, in non-blocking mode and where nobody takes anything at all, the oldest are left out and counted in
`dropped`: a logger that is gone stops no container.

Imported by those shims only that need it.
"""

from __future__ import annotations

import os
import struct
import time
from collections import deque

from runtime.shim import messages
from runtime.shim.logs import LogWriter, file_numbers
from runtime.shim.loop import WRITE, Loop, Timer
from runtime.shim.senders import Message, Sender, sender

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SENT = "sent"
#: Bytes of a line that are sent as one message; Docker's limit.
MAX_LINE = 16384
#: Chunks that are sent in one turn of the loop.
TURN = 16
#: Seconds until a logger that is gone is tried again.
RETRY = 1.0
#: Seconds for which a shim that ends waits for a logger that takes nothing, and for one that takes the rest.
FAREWELL, LONGEST_FAREWELL = 2.0, 10.0
#: Bytes that may wait where the program waits for the logger.
BLOCKING_LIMIT = 1 << 20

#: File number, records of its index that were sent, and lengths of two unfinished lines, which follow.
_HEAD = struct.Struct("<QQII")
_STREAMS = (messages.STDOUT, messages.STDERR)


def open_log(
    document: dict[str, Any], directory: str, limits: tuple[int, int], loop: Loop, noted: Callable[[], None]
) -> LogWriter:
    """The log that the `log` object of supervise.json asks for. `noted` is called when the drop counter has
    changed, once a second at most."""
    if document["driver"] == "none":
        return Nothing(directory, *limits)
    blocking = document.get("mode") != "non-blocking"
    limit = BLOCKING_LIMIT if blocking else int(document.get("buffer") or BLOCKING_LIMIT)
    return Forwarding(directory, limits, loop, sender(document), blocking, limit, noted)


class Nothing(LogWriter):
    """Output is taken, so that the program never waits, and is gone."""

    def _usable(self) -> bool:
        return False

    def _drop(self, length: int) -> None:
        """It is not lost: nobody wanted it."""


class Forwarding(LogWriter):
    """`full`: whoever writes should wait until `on_room` is called; so each chunk is a turn."""

    turns = 1

    def __init__(
        self,
        directory: str,
        limits: tuple[int, int],
        loop: Loop,
        target: Sender,
        blocking: bool,
        limit: int,
        noted: Callable[[], None],
    ) -> None:
        self._asked = limit
        super().__init__(directory, *limits)
        self._loop, self._sender, self._blocking, self._noted = loop, target, blocking, noted
        if file_numbers(directory):
            self._usable()  # mends what a killed shim left: it is queued, too
        self._queue = Queue(directory)
        self._pending: deque[Message] = deque()
        self._lines = Lines(self._queue.unfinished)
        self._waiting = self._absent = False
        self._timer: Timer | None = None
        self._note: Timer | None = None
        self._ends: list[int] = []  # ends of runs, in bytes of the queue
        if self._queue.size or self._lines.unfinished:
            self._ends.append(self._queue.put)  # the run that wrote it is over
            self._timer = loop.after(0, self._again)

    def limit(self, max_size: int, max_files: int) -> None:
        """What waits must lie in files that rotation leaves alone: one of two at least."""
        super().limit(max_size, max(2, max_files))
        self._limit = min(self._asked, self._max_size * (self._max_files - 1) // 2)

    def splice(self, pipe: int, stream: int) -> bool:
        before = self.taken
        more = super().splice(pipe, stream)
        if self.taken > before:
            self._pump()
        return more

    def write(self, data: bytes, stream: int) -> None:
        super().write(data, stream)
        self._pump()

    def run_ended(self) -> None:
        """Lines without an end are at theirs."""
        super().run_ended()
        self._ends.append(self._queue.put)
        self._pump()

    def close(self) -> None:
        """Whoever ends gives the logger time to take the rest. What it does not take is in the files, and for
        a shim that follows to send; until then it is dropped."""
        end = time.monotonic() + LONGEST_FAREWELL
        self._loop.cancel(self._timer)
        self._timer = None
        while time.monotonic() < end:
            if self._waiting and not self._sender.wait(min(FAREWELL, end - time.monotonic())):
                break
            self._wait(False)
            self._pump(farewell=True)
            if self._absent or not (self._waiting or self._pending or self._queue.size or self._ends):
                break
        self._wait(False)
        self._loop.cancel(self._timer)
        self._loop.cancel(self._note)
        self.dropped += self._left()
        self._sender.close()
        self._queue.close()
        super().close()

    def _record(self, length: int, stream: int) -> None:
        number = self._number
        super()._record(length, stream)
        self._queue.grew(number, length)

    def _left(self) -> int:
        """Bytes that were not sent."""
        pending = sum(len(message.data) + (not message.partial) for message in self._pending)
        return pending + sum(map(len, self._lines.unfinished.values())) + self._queue.waiting

    # -- sending

    def _again(self) -> None:
        self._timer = None
        self._pump()

    def _pump(self, farewell: bool = False) -> None:
        if not self._waiting and self._timer is None:
            turns = TURN
            while turns and self._send_chunk():
                turns -= 1
            if not turns and not farewell:
                self._timer = self._loop.after(0, self._again)
        self._make_room()

    def _send_chunk(self) -> bool:
        """Send what is pending, and fetch the next. False when there is nothing, or nobody takes it now."""
        try:
            while self._pending:
                if not self._sender.send(self._pending[0]):
                    self._wait(True)
                    return False
                self._absent = False
                self._pending.popleft()
            if not self._sender.flush():
                self._wait(True)
                return False
        except OSError:
            self._sender.close()
            self._absent = True
            self._timer = self._loop.after(RETRY, self._again)
            return False
        self._queue.done(self._lines.unfinished)
        if self._ends and self._queue.taken >= self._ends[0]:
            self._ends.pop(0)
            self._pending.extend(self._lines.rest())
            return True
        chunk = self._queue.next()
        if chunk is None:
            return False
        self._pending.extend(self._lines.feed(*chunk))
        return True

    def _wait(self, waiting: bool) -> None:
        if waiting != self._waiting:
            self._waiting = waiting
            if waiting:
                self._loop.watch(self._sender.fileno(), self._writable, WRITE)
            else:
                self._loop.forget(self._sender.fileno())

    def _writable(self) -> None:
        self._wait(False)
        self._pump()

    def _make_room(self) -> None:
        waits = self._queue.size
        if waits > self._limit and (self._absent or not self._blocking):
            self._pending.clear()
            self.dropped += self._queue.skip(self._limit // 2)
            waits = self._queue.size
            self._lines = Lines({})
            self._queue.done({})
            self._note = self._note or self._loop.after(RETRY, self._tell)
        if self._queue.lost or self._sender.lost:
            self.dropped += self._queue.lost + self._sender.lost
            self._queue.lost = self._sender.lost = 0
            self._note = self._note or self._loop.after(RETRY, self._tell)
        self.full = self._blocking and not self._absent and waits > self._limit
        if self.on_room is not None and (self._absent or self._queue.size <= self._limit // 2):
            call, self.on_room = self.on_room, None
            self.full = False
            call()

    def _tell(self) -> None:
        self._note = None
        self._noted()


class Queue:
    """The chunks of a log directory from where they were last sent. `put` and `taken` count bytes since this
    shim began; `size` is what waits to be sent, with the chunk under way."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._log = self._index = self._state = -1
        self._at = 0  # records of the index that are done
        self._last = -1  # number of the newest file
        self.lost = 0  # bytes that were rotated away before they were sent
        self.taken = self.put = self._under_way = 0
        self.unfinished: dict[int, bytes] = {}
        self._number = -1
        numbers = file_numbers(directory)
        if numbers:
            self._recover(numbers)

    @property
    def waiting(self) -> int:
        return max(0, self.put - self.taken)

    @property
    def size(self) -> int:
        return self.waiting + self._under_way

    def grew(self, number: int, length: int) -> None:
        """There is a record more in that file."""
        if self._number < 0:
            self._number = number
            self._save()  # from here on it is known that this logger has it
        self._last = number
        self.put += length

    def next(self) -> tuple[int, int, bytes] | None:
        """(stream, time in ns, bytes) of the chunk that follows; None: there is none. It is under way until
        `done`."""
        record = self._take()
        if record is None:
            return None
        self._under_way = record[1]
        return record[2], record[5], os.pread(self._log, record[1], record[0])

    def done(self, unfinished: dict[int, bytes]) -> None:
        """All of the last chunk is sent, but for these lines."""
        if not self._under_way and unfinished == self.unfinished:
            return
        self._under_way, self.unfinished = 0, dict(unfinished)
        self._save()

    def _save(self) -> None:
        parts = [self.unfinished.get(stream, b"") for stream in _STREAMS]
        try:
            if self._state < 0:
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
                self._state = os.open(f"{self._directory}/{SENT}", flags, 0o600)
            head = _HEAD.pack(max(0, self._number), self._at, *map(len, parts))
            os.pwrite(self._state, head + b"".join(parts), 0)
        except OSError:
            pass  # a full disk: after a death of the shim more is sent twice

    def skip(self, left: int) -> int:
        """Leave chunks out until no more than `left` bytes wait. Returns how many bytes those were."""
        skipped, self._under_way = self._under_way, 0
        while self.size > left:
            record = self._take()
            if record is None:
                break
            skipped += record[1]
        return skipped

    def close(self) -> None:
        for fd in (self._log, self._index, self._state):
            if fd >= 0:
                os.close(fd)
        self._log = self._index = self._state = -1

    def _take(self) -> tuple[int, ...] | None:
        while self._number >= 0:
            if self._index < 0 and not self._open():
                break
            size = messages.INDEX_RECORD.size
            data = os.pread(self._index, size, self._at * size)
            if len(data) == size:
                record = messages.INDEX_RECORD.unpack(data)
                self._at += 1
                self.taken += record[1]
                return record
            if self._number >= self._last or not self._step():
                break
        self.lost += max(0, self.put - self.taken)
        self.taken = self.put = max(self.put, self.taken)
        return None

    def _step(self) -> bool:
        """To the file that follows, if there is one."""
        later = [number for number in file_numbers(self._directory) if number > self._number]
        self._close_file()
        if later:
            self._number, self._at = later[0], 0
        return bool(later)

    def _open(self) -> bool:
        stem = f"{self._directory}/{max(0, self._number)}"
        try:
            self._log = os.open(f"{stem}.log", os.O_RDONLY | os.O_CLOEXEC)
            self._index = os.open(f"{stem}.idx", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return self._step() and self._open()
        return True

    def _close_file(self) -> None:
        for fd in (self._log, self._index):
            if fd >= 0:
                os.close(fd)
        self._log = self._index = -1

    def _recover(self, numbers: list[int]) -> None:
        """Go on where the last shim was. What was never sent, since there was another logger, is not now."""
        self._last = numbers[-1]
        try:
            with open(f"{self._directory}/{SENT}", "rb") as file:
                data = file.read(_HEAD.size + 2 * MAX_LINE)
            number, self._at, first, second = _HEAD.unpack(data[: _HEAD.size])
            rest = data[_HEAD.size :]
            parts = (rest[:first], rest[first : first + second])
            self.unfinished = {stream: part for stream, part in zip(_STREAMS, parts, strict=True) if part}
        except (OSError, struct.error):
            self._number, self._at = numbers[-1], self._count(numbers[-1])
            self._save()
            return
        if number >= numbers[-1]:  # a power cut may leave a newer state than what it tells of
            number, self._at = numbers[-1], min(self._at, self._count(numbers[-1]))
        self._number = number
        for later in (one for one in numbers if one >= number):
            self.put += self._length(later, self._at if later == number else 0)

    def _records(self, number: int) -> bytes:
        try:
            with open(f"{self._directory}/{number}.idx", "rb") as file:
                return file.read()
        except OSError:
            return b""

    def _count(self, number: int) -> int:
        return len(self._records(number)) // messages.INDEX_RECORD.size

    def _length(self, number: int, first: int) -> int:
        size = messages.INDEX_RECORD.size
        data = self._records(number)[first * size :]
        whole = data[: len(data) - len(data) % size]
        return sum(record[1] for record in messages.INDEX_RECORD.iter_unpack(whole))


class Lines:
    """Chunks become messages: a line each, or a part of one that is too long."""

    def __init__(self, unfinished: dict[int, bytes]) -> None:
        self.unfinished = dict(unfinished)
        self._moment = 0  # of the last chunk

    def feed(self, stream: int, moment: int, data: bytes) -> list[Message]:
        self._moment = moment
        *lines, last = (self.unfinished.pop(stream, b"") + data).split(b"\n")
        found = []
        for line in lines:
            while len(line) > MAX_LINE:
                found.append(Message(stream, moment, line[:MAX_LINE], True))
                line = line[MAX_LINE:]
            found.append(Message(stream, moment, line, False))
        while len(last) >= MAX_LINE:
            found.append(Message(stream, moment, last[:MAX_LINE], True))
            last = last[MAX_LINE:]
        if last:
            self.unfinished[stream] = last
        return found

    def rest(self) -> list[Message]:
        """Lines that will have no end."""
        moment = self._moment or time.time_ns()
        found = [Message(stream, moment, data, False) for stream, data in sorted(self.unfinished.items())]
        self.unfinished = {}
        return found
