"""Effects: the time. Decisions get it as an argument; only the loop and its tests hold a Clock."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds since some fixed point; never jumps. For waiting and backoff."""
        ...

    def time(self) -> float:
        """Seconds since the epoch. For people, records and metrics."""
        ...


class SystemClock:
    """The machine's clocks. CLOCK_BOOTTIME, so that a backoff is over when the machine slept through it."""

    def monotonic(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def time(self) -> float:
        return time.time()
