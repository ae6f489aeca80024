"""Effects: what of a request is this machine's own: its devices, its limits of processes, its small init."""

from __future__ import annotations

import glob
import os
import resource
import shutil
import stat
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from runtime import bundle
from runtime.faults import Fault
from runtime.linux import capabilities
from runtime.wishes import ContainerRequest

_RLIMIT_LOCKS = 10  # Python has no name for it
_UNLIMITED = 1 << 64  # above every limit


def attainable(request: ContainerRequest) -> ContainerRequest:
    """With no limit of a process above what this machine lets us give: to raise one takes CAP_SYS_RESOURCE,
    which root lacks in containers and some virtual machines (setrlimit(2))."""
    if not request.ulimits or "CAP_SYS_RESOURCE" in capabilities.bounding():
        return request
    found = []
    for name, soft, hard in request.ulimits:
        own = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}", _RLIMIT_LOCKS))[1]
        top = _number(own)
        found.append((name, _limit(min(_number(soft), top)), _limit(min(_number(hard), top))))
    return replace(request, ulimits=tuple(found))


def _number(limit: int) -> int:
    return _UNLIMITED if limit in (-1, resource.RLIM_INFINITY) else limit


def _limit(number: int) -> int:
    return -1 if number == _UNLIMITED else number


def init_mount(request: ContainerRequest) -> tuple[Mapping[str, Any], ...]:
    """The machine's catatonit where the container's PID 1 finds it. Fault request-invalid without one."""
    if not request.init:
        return ()
    found = shutil.which("catatonit", path=bundle.DEFAULT_PATH)
    if found is None:
        cause = "init asks for catatonit, which this machine does not have"
        raise Fault("request-invalid", "start container", request.name, cause, "apt-get install catatonit")
    options = ["bind", "ro", "nosuid", "nodev"]
    return (
        {"destination": bundle.INIT, "type": "bind", "source": found, "options": options, "mapped": True},
    )


@cache
def thermal_throttle() -> tuple[str, ...]:
    """Counters by which one container can watch the load of others; a directory for each processor."""
    return tuple(sorted(glob.glob("/sys/devices/system/cpu/cpu*/thermal_throttle")))


def device_rules(request: ContainerRequest) -> list[dict[str, Any]]:
    """OCI device rules beyond the default set; a privileged container may use every device."""
    if request.privileged:
        return [{"allow": True, "access": "rwm"}]
    listed = [{"allow": True, "path": source, "access": access} for source, _, access in devices(request)]
    return [*listed, *(rule for text in request.device_rules for rule in bundle.device_rules(text))]


def devices(request: ContainerRequest) -> tuple[tuple[str, str, str], ...]:
    """Every node of a directory that is asked for (/dev/dri), as Docker has it."""
    found: list[tuple[str, str, str]] = []
    for source, target, access in request.devices:
        if not os.path.exists(source):
            cause = f"device {source} does not exist"
            raise Fault("mount-source-missing", "start container", request.name, cause)
        if not os.path.isdir(source):
            found.append((source, target, access))
            continue
        for directory, _, names in os.walk(source):
            inside = target + directory[len(source) :]
            for name in sorted(names):
                mode = os.stat(f"{directory}/{name}").st_mode
                if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                    found.append((f"{directory}/{name}", f"{inside}/{name}", access))
    return tuple(found)
