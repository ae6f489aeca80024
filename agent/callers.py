"""Effects: whether people are being served just now. A look at the machine and what they asked for want the
same processors and the same interpreter, so the look waits for a moment.
"""

from __future__ import annotations

import threading
import time

#: seconds from its begin for which a call that goes on is waited for, and for which the next one is expected:
#: `run --rm` is three
WHILE, AFTER = 0.25, 0.03
#: what may wait for that, and seconds that it waits at most
REASONS, MOST = frozenset({"call", "shim"}), 0.5


class Callers:
    """A context for each call, in any thread. All times are by time.monotonic."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._served = 0
        self._at = 0.0  # when the last one began, or ended

    def __enter__(self) -> None:
        self._count(1)

    def __exit__(self, *_: object) -> None:
        self._count(-1)

    def _count(self, change: int) -> None:
        with self._lock:
            self._served += change
            self._at = time.monotonic()

    def put_off(self, reason: str, at: float, since: float) -> float:
        """When to look for a reason that is there since `since`, for which there would be a look at `at`."""
        if reason not in REASONS:
            return at
        with self._lock:
            calm = self._at + (WHILE if self._served else AFTER)
        return max(at, min(calm, since + MOST))
