"""Effects: what this machine has for containers, in docker's words: kernel, processors, memory, control
groups, filters. Nothing of containers is read here."""

from __future__ import annotations

import os

from runtime import ids
from runtime.linux import cgroups, mounts
from runtime.linux.apparmor import AppArmor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from runtime.linux.mounts import Mount

_SECCOMP = "/proc/sys/kernel/seccomp/actions_avail"
_RELEASE = ("/etc/os-release", "/usr/lib/os-release")


def facts() -> dict[str, Any]:
    """Keys of docker's document."""
    kernel, system = os.uname(), _release()
    return {
        "KernelVersion": kernel.release,
        "OperatingSystem": system.get("PRETTY_NAME") or kernel.sysname,
        "OSVersion": system.get("VERSION_ID", ""),
        "OSType": kernel.sysname.lower(),
        "Architecture": kernel.machine,
        "NCPU": len(os.sched_getaffinity(0)),
        "MemTotal": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "Name": kernel.nodename,
    }


def cgroup_mode(table: Sequence[Mount]) -> str:
    """v1, v2 or hybrid (both are mounted); empty where there are none."""
    try:
        found = cgroups.detect(table)
    except OSError:
        return ""
    return "hybrid" if found.v1 and found.v2 else "v1" if found.v1 else "v2"


def backing(table: Sequence[Mount], path: Path) -> str:
    """The type of the file system that `path` is, or will be, on."""
    whole = os.path.realpath(path)
    found = ""
    longest = -1
    for entry in table:  # of two mounts on one place the later one is seen
        inside = whole == entry.target or whole.startswith(f"{entry.target.rstrip('/')}/")
        if inside and len(entry.target) >= longest:
            found, longest = entry.type, len(entry.target)
    return found


def walls(user: str) -> tuple[list[str], dict[str, str]]:
    """(what keeps containers in, as docker lists it; of what is missing why). `user` is whose ranges of ids
    containers get, empty for the usual ones."""
    missing: dict[str, str] = {}
    options = []
    if cause := AppArmor().missing():
        missing["apparmor"] = cause
    else:
        options.append("name=apparmor")
    if os.path.exists(_SECCOMP):
        options.append("name=seccomp,profile=default")
    else:
        missing["seccomp"] = "the kernel has no filters of system calls"
    if os.path.exists("/proc/self/ns/cgroup"):
        options.append("name=cgroupns")
    else:
        missing["cgroupns"] = "the kernel has no cgroup namespaces"
    if cause := _no_ids(user):
        missing["userns"] = cause
    return options, missing


def _no_ids(user: str) -> str:
    """Why no container can have a range of ids of its own."""
    if not os.path.exists("/proc/self/ns/user"):
        return "the kernel has no user namespaces"
    owners = (user,) if user else ids.OWNERS
    for path in (ids.SUBUID, ids.SUBGID):
        try:
            text = path.read_text(errors="replace")
        except OSError:
            text = ""
        if not ids.read_spans(text, owners):
            return f"{path} has no range for {' or '.join(owners)}"
    return ""


def _release() -> Mapping[str, str]:
    """os-release(5)."""
    for path in _RELEASE:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                lines = file.read().splitlines()
        except OSError:
            continue
        return {key: value.strip("\"'") for key, _, value in (line.partition("=") for line in lines)}
    return {}


def table() -> list[Mount]:
    """Every mount of this machine."""
    return mounts.table()
