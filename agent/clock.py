"""Effects: the time. Decisions get it as an argument; only the loop and its tests hold a Clock."""

from __future__ import annotations

import os
import time
import zoneinfo
from datetime import UTC, tzinfo
from functools import lru_cache
from typing import Protocol

#: localtime(5): the zone of this machine
LOCALTIME = "/etc/localtime"


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds since boot; never jumps. For waiting and backoff."""
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
    """Where this machine's clock hangs: TZ where that names a zone, else /etc/localtime, else UTC. The same
    object until that is changed."""
    try:
        found = os.stat(LOCALTIME)
        seen: tuple[int, ...] = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
    except OSError:
        seen = ()
    return _read_zone(os.environ.get("TZ", "").removeprefix(":"), LOCALTIME, seen)


@lru_cache(maxsize=1)
def _read_zone(name: str, path: str, seen: tuple[int, ...]) -> tzinfo:
    """`seen` is what the file is known by."""
    try:
        if name:
            return zoneinfo.ZoneInfo(name)
        with open(path, "rb") as file:
            return zoneinfo.ZoneInfo.from_file(file, "local time")
    except (OSError, ValueError, zoneinfo.ZoneInfoNotFoundError):
        return UTC
