"""Effects: the time. Decisions get it as an argument; only the loop and its tests hold a Clock."""

from __future__ import annotations

import os
import time
import zoneinfo
from datetime import UTC, tzinfo
from typing import Protocol

#: localtime(5): the zone of this machine
LOCALTIME = "/etc/localtime"


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


def local_zone() -> tzinfo:
    """Where this machine's clock hangs: TZ where that names a zone, else /etc/localtime, else UTC."""
    try:
        if name := os.environ.get("TZ", "").removeprefix(":"):
            return zoneinfo.ZoneInfo(name)
        with open(LOCALTIME, "rb") as file:
            return zoneinfo.ZoneInfo.from_file(file, "local time")
    except (OSError, ValueError, zoneinfo.ZoneInfoNotFoundError):
        return UTC
