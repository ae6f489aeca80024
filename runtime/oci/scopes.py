"""Effects: control groups that are asked of systemd, as scopes: --systemd-cgroup.

A scope begins with a process and ends with its last one (systemd.scope(5)), so one stays in it until the
container's own is there. Limits that systemd knows are its properties as well: it would take others back at
its next reload. org.freedesktop.systemd1(5), by busctl(1), which is there wherever systemd is.
"""

from __future__ import annotations

import os
import select
import time

from runtime.linux import pidfd
from runtime.oci.failure import OciFailure
from runtime.oci.resources import weight_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Seconds that systemd is given for its answer, and for the scope to be there.
TIMEOUT = 30.0
_SAID = 4096
_MANAGER = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
_UNLIMITED = str((1 << 64) - 1)


class Name:
    """Of a scope: its unit, its slice, and its path below the root of each hierarchy."""

    __slots__ = ("path", "slice", "unit")

    def __init__(self, slice: str, unit: str) -> None:
        self.slice, self.unit = slice, unit
        self.path = f"{path_of_slice(slice)}/{unit}"


def name_of(said: str, id: str) -> Name:
    """From a cgroupsPath; OciFailure for one of another form."""
    slice, prefix, name = said.split(":") if said.count(":") == 2 else ("", "stead-oci", id)
    if (said and said.count(":") != 2) or "/" in said or not name or name.endswith(".slice"):
        text = f"{said}: the systemd manager takes SLICE:PREFIX:NAME"
        raise OciFailure(f"cannot use config.json: linux.cgroupsPath: {text}")
    slice = slice or "system.slice"
    if not slice.endswith(".slice"):
        raise OciFailure(f"cannot use config.json: linux.cgroupsPath: {slice}: no slice")
    return Name(slice, f"{prefix}-{name}.scope" if prefix else f"{name}.scope")


def path_of_slice(slice: str) -> str:
    """ "a-b.slice" lies in "a.slice": systemd.slice(5)."""
    words = slice.removesuffix(".slice").split("-")
    return "/".join(f"{'-'.join(words[:count])}.slice" for count in range(1, len(words) + 1))


def properties(resources: dict[str, Any]) -> list[tuple[str, str]]:
    """(property, value) of those limits that systemd has, too; all are of type t."""
    found = []
    memory, cpu = resources.get("memory") or {}, resources.get("cpu") or {}
    if memory.get("limit"):
        found.append(("MemoryMax", _or_unlimited(memory["limit"])))
    if memory.get("reservation"):
        found.append(("MemoryLow", _or_unlimited(memory["reservation"])))
    if (memory.get("limit") or 0) > 0 and (memory.get("swap") or 0) > 0:
        found.append(("MemorySwapMax", str(memory["swap"] - memory["limit"])))
    if cpu.get("shares"):
        found.append(("CPUWeight", str(weight_of(int(cpu["shares"])))))
    if (cpu.get("quota") or 0) > 0:
        share = int(cpu["quota"]) * 1_000_000 // int(cpu.get("period") or 100_000)
        found.append(("CPUQuotaPerSecUSec", str(share)))
    limit = (resources.get("pids") or {}).get("limit")
    if limit:
        found.append(("TasksMax", _or_unlimited(limit)))
    return found


def _or_unlimited(value: int) -> str:
    return str(value) if int(value) > 0 else _UNLIMITED


class Scope:
    """A new scope, held by a process that does nothing until `release`."""

    def __init__(self, name: Name, id: str, resources: dict[str, Any]) -> None:
        """The scope is there. OciFailure with systemd's words."""
        self._wait, self._done = os.pipe2(os.O_CLOEXEC)
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._done)
            os.read(self._wait, 1)
            os._exit(0)
        limits = properties(resources)
        words = ["PIDs", "au", "1", str(self._pid), "Slice", "s", name.slice, "Delegate", "b", "true"]
        words += ["Description", "s", f"container {id}", "DefaultDependencies", "b", "false"]
        words += ["CollectMode", "s", "inactive-or-failed"]
        words += [word for key, value in limits for word in (key, "t", value)]
        try:
            signature = "ssa(sv)a(sa(sv))"
            _call("StartTransientUnit", signature, name.unit, "fail", str(6 + len(limits)), *words, "0")
            self._await(name)
        except BaseException:
            self.release()
            raise

    def _await(self, name: Name) -> None:
        end = time.monotonic() + TIMEOUT
        while True:
            with open(f"/proc/{self._pid}/cgroup", "rb") as file:
                if name.unit.encode() in file.read():
                    return
            if time.monotonic() > end:
                raise OciFailure(f"cannot make cgroup {name.path}: systemd does not start {name.unit}")
            select.select([], [], [], 0.005)  # the job's end is told on the bus only

    def release(self) -> None:
        """Repeatable."""
        if self._pid:
            os.close(self._done)
            os.close(self._wait)
            os.waitpid(self._pid, 0)
            self._pid = 0


def change(unit: str, resources: dict[str, Any]) -> None:
    """The properties of a scope that is there, until the next boot."""
    limits = properties(resources)
    if limits:
        words = [word for key, value in limits for word in (key, "t", value)]
        _call("SetUnitProperties", "sba(sv)", unit, "true", str(len(limits)), *words)


def _call(method: str, signature: str, *words: str) -> None:
    if not os.path.isdir("/run/systemd/system"):
        raise OciFailure("cannot use the systemd cgroup manager: systemd does not run here; use cgroupfs")
    command = ["busctl", "--quiet", "call", *_MANAGER, method, signature, *words]
    said = os.memfd_create("busctl", os.MFD_CLOEXEC)
    try:
        code = _run(command, said)
        if code:
            text = os.pread(said, _SAID, 0).decode(errors="replace").strip()
            raise OciFailure(
                f"cannot use the systemd cgroup manager: {method}: {text or f'exit code {code}'}"
            )
    finally:
        os.close(said)


def _run(command: list[str], output: int) -> int:
    actions = [(os.POSIX_SPAWN_DUP2, output, 2), (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
    try:
        pid = os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
    except OSError as error:
        raise OciFailure(f"cannot use the systemd cgroup manager: busctl: {error.strerror}") from None
    handle = pidfd.open_pidfd(pid)
    try:
        if not pidfd.wait(handle, TIMEOUT):
            pidfd.send_signal(handle, 9)
            pidfd.wait(handle)
        return pidfd.reap(handle) or 0
    finally:
        os.close(handle)
