"""Effects: whose turn it is: actions on one name wait for each other, those on different names do not."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

#: seconds; longer than any look takes
ACTED = 60.0


class Turns:
    """Thread-safe."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[threading.Lock, int]] = {}  # by name: how many want it
        self._lock = threading.Lock()
        self._acted: dict[str, float] = {}  # when the last action on a name ended, of late

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Of two names the smaller one is asked for first. A lock is there as long as somebody needs it:
        there is no end of names that people make up."""
        with self._lock:
            lock, users = self._locks.get(name) or (threading.Lock(), 0)
            self._locks[name] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self._lock:
                self._acted[name] = time.monotonic()
                _, users = self._locks[name]
                if users > 1:
                    self._locks[name] = (lock, users - 1)
                else:
                    del self._locks[name]

    def busy(self, since: float) -> set[str]:
        """Names on which this process has acted at any time since then, by time.monotonic(): what was seen of
        them meanwhile may be half of it. What is older than ACTED is forgotten."""
        oldest = time.monotonic() - ACTED
        with self._lock:
            self._acted = {name: at for name, at in self._acted.items() if at >= oldest}
            return {*self._locks, *(name for name, at in self._acted.items() if at >= since)}
