"""Effects: the control group of a container of the low-level runtime. OCI runtime-spec, config-linux.md."""

from __future__ import annotations

import errno
import os
import select
import time

from runtime.linux import cgroups, devices
from runtime.linux.cgroups_v2 import write
from runtime.oci import resources as decisions
from runtime.oci.failure import OciFailure, explain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.linux.cgroups import Cgroups

PARENT = "stead-oci"
#: Seconds that processes which are about to end are given.
LEAVING = 5.0


def path_of(config: dict[str, Any], id: str) -> str:
    """Relative to the root of each hierarchy. A relative cgroupsPath begins there, too."""
    said = str(config["linux"].get("cgroupsPath") or "")
    if said.count(":") == 2 and said.partition(":")[0].endswith(".slice"):
        text = f"{said}: a path of the systemd manager, which --systemd-cgroup asks for"
        raise OciFailure(f"cannot use config.json: linux.cgroupsPath: {text}")
    path = os.path.normpath(f"/{said}").strip("/") if said else f"{PARENT}/{id}"
    if not path:
        raise OciFailure("cannot use config.json: linux.cgroupsPath: the root of all is no container's")
    return path


def is_v2(host: Cgroups) -> bool:
    """Whether the controllers are the unified hierarchy's."""
    return host.v1 is None or not any(not name.startswith("name=") for name in host.v1.mounted)


def apply(host: Cgroups, path: str, resources: dict[str, Any]) -> None:
    """Write all that is asked for, but the devices. OciFailure names the field that the kernel refuses."""
    unified = is_v2(host)
    wanted = decisions.writes(resources, v2=unified)
    if not unified:
        wanted = _in_order(host, path, wanted)
    for item in wanted:
        try:
            write(_file(host, path, item, unified=unified), item.value)
        except OSError as error:
            raise OciFailure(f"cannot set resources.{item.field}: {explain(error)}") from None


def _file(host: Cgroups, path: str, item: decisions.Write, *, unified: bool) -> str:
    if unified or host.v1 is None:
        assert host.v2 is not None
        name = item.file
        file = f"{host.v2.root}/{path}/{name}"
        if name == "io.bfq.weight" and not os.path.exists(file):
            file = f"{host.v2.root}/{path}/io.weight"
        return file
    if item.controller not in host.v1.mounted:
        text = f"this host has no {item.controller} controller"
        raise OciFailure(f"cannot set resources.{item.field}: {text}")
    file = f"{host.v1.mounted[item.controller]}/{path}/{item.file}"
    if item.file == "blkio.weight" and not os.path.exists(file):
        file = file.replace("blkio.weight", "blkio.bfq.weight")
    return file


def _in_order(host: Cgroups, path: str, wanted: list[decisions.Write]) -> list[decisions.Write]:
    """memory.limit <= memory.memsw.limit always holds, so whichever is to grow goes first; cpu.cfs_burst_us
    is never more than the quota."""
    names = [item.file for item in wanted]
    limit, swap = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
    if limit not in names or swap not in names or host.v1 is None or "memory" not in host.v1.mounted:
        return wanted
    first, second = names.index(limit), names.index(swap)
    now = cgroups.read(f"{host.v1.mounted['memory']}/{path}/{swap}")
    grows = now is not None and (int(wanted[second].value) < 0 or int(wanted[second].value) > int(now))
    if grows:
        wanted[first], wanted[second] = wanted[second], wanted[first]
    return wanted


def allow_devices(host: Cgroups, path: str, resources: dict[str, Any]) -> None:
    allowed, denied = decisions.device_rules(list(resources.get("devices") or ()))
    if host.v1 and host.v1.has("devices"):
        host.v1.allow_devices(path, allowed)
        for kind, major, minor, access in denied:
            numbers = ":".join("*" if number < 0 else str(number) for number in (major, minor))
            write(f"{host.v1.mounted['devices']}/{path}/devices.deny", f"{kind} {numbers} {access}")
    elif host.v2:
        if denied:
            raise OciFailure("cannot set resources.devices: all but some is not to be had on cgroup v2")
        directory = os.open(f"{host.v2.root}/{path}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            devices.attach_program(directory, allowed)
        finally:
            os.close(directory)


def remove(host: Cgroups, path: str, *, parents: bool, kill: bool) -> None:
    """With all below. `kill` ends who is in it; without, processes of somebody else keep it. `parents`: those
    of our own making as well, as far as nobody else is in them."""
    if kill:
        host.kill(path)
    end = time.monotonic() + LEAVING
    while host.pids(path):
        if time.monotonic() > end:
            return
        select.select([], [], [], 0.002)  # v1 has nothing to wait on
    host.remove(path)
    if parents:
        for root in host.roots():
            try:
                os.rmdir(f"{root}/{os.path.dirname(path)}")
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENOENT, errno.ENOTEMPTY):
                    raise
