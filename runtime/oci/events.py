"""Effects: events: use of a container's limits at an interval, and processes that were killed for memory.

The documents are those of runc's `events`, which containerd and others read.
"""

from __future__ import annotations

import os
import time

from runtime.linux import cgroups, jsontext
from runtime.oci import groups, records
from runtime.oci.failure import OciFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_NANOSECONDS = 1_000_000_000


def seconds(text: str) -> float:
    """ "5s", "250ms", "1m"; OciFailure for nothing of this kind."""
    for unit, factor in _UNITS.items():
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdigit() and float(number) > 0:
            return float(number) * factor
    raise OciFailure(f"cannot read interval {text!r}: write a number and ms, s, m or h")


def watch(
    record: records.Record,
    host: cgroups.Cgroups,
    interval: float,
    tell: Callable[[str], None],
    *,
    once: bool,
) -> None:
    """Until the container ends; with `once` one document."""
    if record.status(host) == "stopped":
        raise OciFailure(f"cannot show events: container with id {record.id} is not running")
    if once:
        tell(_event(record, "stats", stats(host, record.cgroup)))
        return
    before = host.oom_kills(record.cgroup)
    following = time.monotonic() + interval
    while record.is_alive():
        time.sleep(min(0.1, interval))
        try:
            now = host.oom_kills(record.cgroup)
            if now > before:
                tell(_event(record, "oom", None))
            before = now
            if time.monotonic() >= following:
                following += interval
                tell(_event(record, "stats", stats(host, record.cgroup)))
        except FileNotFoundError:
            return


def _event(record: records.Record, kind: str, data: dict[str, Any] | None) -> str:
    document: dict[str, Any] = {"type": kind, "id": record.id}
    if data is not None:
        document["data"] = data
    return jsontext.encode(document).decode()


def stats(host: cgroups.Cgroups, path: str) -> dict[str, Any]:
    found = host.stats(path)
    files = _Files(host, path)
    usage = {
        "usage": found.memory_usage,
        "limit": files.limit(),
        "max": files.peak(),
        "failcnt": files.failures(),
    }
    return {
        "cpu": {
            "usage": {
                "total": round(found.cpu_seconds * _NANOSECONDS),
                "kernel": round(found.cpu_system_seconds * _NANOSECONDS),
                "user": round(found.cpu_user_seconds * _NANOSECONDS),
            },
            "throttling": {"throttledTime": round(found.cpu_throttled_seconds * _NANOSECONDS)},
        },
        "memory": {
            "cache": found.memory_cache,
            "usage": usage,
            "swap": {"usage": found.memory_swap},
            "raw": files.flat("memory", "memory.stat"),
        },
        "pids": {"current": found.pids, "limit": files.pids_limit()},
        "blkio": {
            "ioServiceBytesRecursive": [
                {"op": "Read", "value": found.io_read_bytes},
                {"op": "Write", "value": found.io_write_bytes},
            ],
            "ioServicedRecursive": [
                {"op": "Read", "value": found.io_reads},
                {"op": "Write", "value": found.io_writes},
            ],
        },
    }


class _Files:
    """What Cgroups.stats leaves out."""

    def __init__(self, host: cgroups.Cgroups, path: str) -> None:
        self._v2 = groups.is_v2(host)
        self._host, self._path = host, path

    def _read(self, controller: str, name: str) -> str:
        if self._v2:
            root = self._host.v2.root if self._host.v2 else ""
        else:
            root = self._host.v1.mounted.get(controller, "") if self._host.v1 else ""
        return (cgroups.read(os.path.join(root, self._path, name)) or "").strip() if root else ""

    def flat(self, controller: str, name: str) -> dict[str, int]:
        words = self._read(controller, name).split()
        return {key: int(value) for key, value in zip(words[::2], words[1::2], strict=False)}

    def _number(self, controller: str, v1: str, v2: str) -> int:
        text = self._read(controller, v2 if self._v2 else v1)
        return int(text) if text.isdigit() else 0

    def limit(self) -> int:
        return self._number("memory", "memory.limit_in_bytes", "memory.max")

    def peak(self) -> int:
        return self._number("memory", "memory.max_usage_in_bytes", "memory.peak")

    def failures(self) -> int:
        if self._v2:
            return self.flat("memory", "memory.events").get("max", 0)
        return self._number("memory", "memory.failcnt", "")

    def pids_limit(self) -> int:
        return self._number("pids", "pids.max", "pids.max")
