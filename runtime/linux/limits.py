"""Values: limits and counters of a cgroup. Kept apart from cgroups.py, since a shim needs neither and
dataclasses cost it memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class IoLimit:
    """Bytes and operations a second, 0: no limit. `device` is a path, or "major:minor" as the kernel
    has it.
    """

    device: str
    read_bps: int = 0
    write_bps: int = 0
    read_iops: int = 0
    write_iops: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """0 and "" mean: no limit of our own. Sizes are bytes.

    `cpu_weight` is 1..10000, 100 is the kernel's default; `memory_swap` is memory and swap together: 0 is
    twice `memory`, as Docker has it, -1 no limit (once normalized, 0 is no limit). `hugepages` are (size of a
    page, bytes), `swappiness` is v1's, -1: the parent's.
    """

    cpus: float = 0.0
    cpu_weight: int = 0
    cpuset: str = ""
    memory: int = 0
    memory_reservation: int = 0
    memory_swap: int = 0
    pids: int = 0
    io_weight: int = 0
    io: tuple[IoLimit, ...] = ()
    hugepages: tuple[tuple[str, int], ...] = ()
    swappiness: int = -1


class Stats(NamedTuple):
    """Counters since the cgroup was made, and current use, with cAdvisor's formulas. Seconds and bytes."""

    cpu_seconds: float = 0.0
    cpu_user_seconds: float = 0.0
    cpu_system_seconds: float = 0.0
    cpu_throttled_seconds: float = 0.0
    memory_usage: int = 0
    memory_working_set: int = 0
    memory_rss: int = 0
    memory_cache: int = 0
    memory_swap: int = 0
    memory_limit: int = 0
    oom_events: int = 0
    pids: int = 0
    io_read_bytes: int = 0
    io_write_bytes: int = 0
    io_reads: int = 0
    io_writes: int = 0
