"""Effects: what a build tells while it goes on: numbered steps, each with its beginning, output and end."""

from __future__ import annotations

import threading
import time
from collections import deque

from runtime.build.problems import printable
from runtime.build.request import BuildCallback, BuildEvent

#: Lines, and bytes of each, that are shown of a step that failed.
TAIL_LINES, TAIL_BYTES = 20, 2000


class Teller:
    """Numbers the steps of one build and passes events on, one at a time. Thread-safe."""

    def __init__(self, callback: BuildCallback) -> None:
        self._callback = callback
        self._lock = threading.Lock()
        self._count = 0

    def begin(self, title: str) -> Vertex:
        with self._lock:
            self._count += 1
            vertex = Vertex(self, self._count, title)
            self._callback(BuildEvent(vertex.number, "start", title))
        return vertex

    def say(self, event: BuildEvent) -> None:
        with self._lock:
            self._callback(event)

    def warning(self, text: str) -> None:
        self.say(BuildEvent(0, "warning", text))


class Vertex:
    """One step. `output` takes pieces as they come and tells whole lines."""

    def __init__(self, teller: Teller, number: int, title: str) -> None:
        self._teller, self.number, self.title = teller, number, title
        self._began = time.monotonic()
        self._rest = b""
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)

    def _say(self, kind: str, text: str = "") -> None:
        self._teller.say(BuildEvent(self.number, kind, text, time.monotonic() - self._began))

    def output(self, data: bytes) -> None:
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        while len(self._rest) > TAIL_BYTES * 8:  # a program that never ends its line
            lines.append(self._rest[: TAIL_BYTES * 8])
            self._rest = self._rest[TAIL_BYTES * 8 :]
        for line in lines:
            self._line(line)

    def _line(self, line: bytes) -> None:
        text = line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace")
        self.tail.append(f"{time.monotonic() - self._began:.3f} {text[:TAIL_BYTES]}")
        self._say("output", text)

    def flush(self) -> None:
        if self._rest:
            self._line(self._rest)
            self._rest = b""

    def note(self, text: str) -> None:
        self._say("note", text)

    def cached(self) -> None:
        self._say("cached")

    def done(self) -> None:
        self.flush()
        self._say("done")

    def failed(self, text: str) -> None:
        self.flush()
        self._say("error", "\n".join(map(printable, text.split("\n"))))
