"""Effects: how the kernel runs the program: oom_score_adj, personality, scheduler, I/O priority, CPUs.

OCI runtime-spec, config.md (process), config-linux.md (personality); sched_setattr(2), ioprio_set(2),
personality(2), sched_setaffinity(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from runtime.linux import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Process = dict[str, Any]

#: Of a process; `personality` is put there from the object `linux` by who reads the config.
KEYS = frozenset(("scheduler", "ioPriority", "execCPUAffinity", "personality"))
POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
#: Of a class; the bits above are the kernel's hints of other kinds (linux/ioprio.h).
LEVELS = 8
DOMAINS = {"LINUX": 0x0000, "LINUX32": 0x0008}
_IOPRIO_WHO_PROCESS, _CLASS_SHIFT = 1, 13
_LAST_CPU = 0xFFFF


def apply(process: Process) -> None:
    """To this process, before it loses the right to. OSError says which of them the kernel refuses."""
    if process.get("scheduler"):
        _schedule(process["scheduler"])
    if process.get("ioPriority"):
        wanted = process["ioPriority"]
        value = CLASSES[str(wanted["class"])] << _CLASS_SHIFT | int(wanted.get("priority") or 0)
        libc.syscall("ioprio_set", _IOPRIO_WHO_PROCESS, 0, value, subject="ioPriority")
    if process.get("personality"):
        libc.syscall("personality", DOMAINS[str(process["personality"]["domain"])], subject="personality")
    affinity = process.get("execCPUAffinity") or {}
    for key in ("initial", "final"):
        if affinity.get(key):
            os.sched_setaffinity(0, cpus(str(affinity[key])))


def _schedule(wanted: dict[str, Any]) -> None:
    """struct sched_attr of linux/sched/types.h."""
    attributes = struct.pack(
        "=IIQiIQQQ",
        48,
        POLICIES[str(wanted["policy"])],
        sum(FLAGS[str(flag)] for flag in wanted.get("flags") or ()),
        int(wanted.get("nice") or 0),
        int(wanted.get("priority") or 0),
        int(wanted.get("runtime") or 0),
        int(wanted.get("deadline") or 0),
        int(wanted.get("period") or 0),
    )
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    libc.syscall("sched_setattr", 0, buffer, 0, subject="scheduler")


def cpus(text: str) -> set[int]:
    """ "0-2,7" as numbers. ValueError."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not 0 <= int(first) <= int(last or first) <= _LAST_CPU:
            raise ValueError(part)
        found.update(range(int(first), int(last or first) + 1))
    return found


def set_oom_score(score: int) -> None:
    """To lower it takes CAP_SYS_RESOURCE: PermissionError where that is missing and the value another one."""
    path = "/proc/self/oom_score_adj"
    try:
        with open(path, "wb", buffering=0) as file:
            file.write(str(score).encode())
    except OSError as error:
        with open(path, "rb") as file:
            if int(file.read()) == score:
                return
        raise OSError(error.errno or errno.EPERM, f"oomScoreAdj {score}: {error.strerror}") from None
