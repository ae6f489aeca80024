"""Effects: what one running container uses now, from its cgroup and /proc: no agent, no netlink."""

from __future__ import annotations

import time
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.linux.cgroups import Cgroups
    from runtime.shim.messages import State

_RX, _TX = 0, 8  # fields of /proc/net/dev after the colon: proc_net_dev(5)


class Use(NamedTuple):
    """`at` and `cpu_seconds` are seconds, by the monotonic clock and since the cgroup was made; all else is
    bytes. `memory` is without what the kernel would give up first (inactive_file), as docker has it;
    `limit` is the machine's memory where the container has none of its own."""

    at: float = 0.0
    cpu_seconds: float = 0.0
    memory: int = 0
    limit: int = 0
    rx: int = 0
    tx: int = 0
    read: int = 0
    written: int = 0
    pids: int = 0


def read(cgroups: Cgroups, state: State) -> Use:
    """Of the container that `state` is of; zeros where its cgroup or process is gone meanwhile."""
    try:
        stats = cgroups.stats(state.cgroup)
    except OSError:
        return Use(at=time.monotonic())
    total = memory_of_machine()
    limit = min(stats.memory_limit or total, total) if total else stats.memory_limit
    rx, tx = traffic(state.pid) if state.pid else (0, 0)
    return Use(
        time.monotonic(),
        stats.cpu_seconds,
        stats.memory_working_set,
        limit,
        rx,
        tx,
        stats.io_read_bytes,
        stats.io_write_bytes,
        stats.pids,
    )


def traffic(pid: int) -> tuple[int, int]:
    """Bytes received and sent by all interfaces but lo of the network namespace of `pid`."""
    rx = tx = 0
    try:
        with open(f"/proc/{pid}/net/dev") as file:
            lines = file.readlines()[2:]
    except OSError:
        return 0, 0
    for line in lines:
        name, _, rest = line.partition(":")
        fields = rest.split()
        if name.strip() != "lo" and len(fields) > _TX:
            rx, tx = rx + int(fields[_RX]), tx + int(fields[_TX])
    return rx, tx


def memory_of_machine() -> int:
    """Bytes; 0 where /proc does not say."""
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemTotal:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def cpu_percent(before: Use, after: Use) -> float:
    """Of one core: two busy cores are 200. Pure."""
    passed = after.at - before.at
    return 100.0 * max(0.0, after.cpu_seconds - before.cpu_seconds) / passed if passed > 0 else 0.0
