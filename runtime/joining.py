"""Effects: namespaces that a container has from another one, and a /dev/shm that others may share.

A namespace of another container is bound to `run/containers/<id>/<kind>ns`, as the network's is, so that
config.json names a file that lasts as long as the container and the shim joins what the agent chose. Of a
container whose System V memory others may share, /dev/shm lies at `run/containers/<id>/shm` and is bound from
there into all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runtime.bundle import DEFAULT_SHM
from runtime.faults import Fault, faults
from runtime.inside import same_process
from runtime.linux import mounts
from runtime.paths import Paths
from runtime.records import ContainerRecord
from runtime.shim import client
from runtime.wishes import ContainerRequest, joined, owner_in

#: by the names of the OCI runtime-spec
KINDS = ("pid", "ipc", "uts")


@dataclass(frozen=True, slots=True)
class Joined:
    """`namespaces`: kind -> file; `owners`: kind -> directory under run; `shm`: the directory that is
    /dev/shm, empty for one of its own."""

    namespaces: Mapping[str, str] = field(default_factory=dict)
    owners: Mapping[str, str] = field(default_factory=dict)
    shm: str = ""


def namespace_file(paths: Paths, id: str, kind: str) -> Path:
    return paths.live(id) / f"{kind}ns"


class Joining:
    """Thread-safe for different containers."""

    def __init__(self, paths: Paths, find: Callable[[str], ContainerRecord | None]) -> None:
        self._paths, self._find = paths, find

    def prepare(self, record: ContainerRecord, request: ContainerRequest) -> Joined:
        """Everything bound and mounted. Repeatable. Fault container-not-running: the owner of a namespace
        has no process that holds it."""
        found: dict[str, str] = {}
        owners: dict[str, str] = {}
        for kind, owner in joined(request):
            found[kind], owners[kind] = self._bind(record, kind, owner)
        owner = owner_in(request.ipc_mode)
        if owner:
            shm = self._shm(self._owner(request.name, "ipc", owner)[0])
            if not mounts.is_mounted(shm):
                cause, hint = f"container {owner} does not share its memory", 'it needs ipc "shareable"'
                raise Fault("request-invalid", "start container", request.name, cause, hint)
            return Joined(found, owners, str(shm))
        if request.ipc_mode == "shareable":
            shm = self._shm(record)
            with faults("mount /dev/shm of", request.name):
                self._mount_shm(shm, request.shm_size or DEFAULT_SHM)
            return Joined(found, owners, str(shm))
        return Joined(found, owners)

    def clear(self, id: str) -> None:
        """Unbind and unmount. Repeatable."""
        live = self._paths.live(id)
        there = set(os.listdir(live)) if live.is_dir() else set()
        for name in there.intersection((*(f"{kind}ns" for kind in KINDS), "shm")):
            while mounts.is_mounted(live / name):
                mounts.unmount(live / name)

    def _shm(self, record: ContainerRecord) -> Path:
        return self._paths.live(record.id) / "shm"

    @staticmethod
    def _mount_shm(path: Path, size: int) -> None:
        if mounts.is_mounted(path):
            return
        path.mkdir(mode=0o755, exist_ok=True)
        sealed = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | mounts.MOUNT_ATTR_NOEXEC
        options = (("mode", "1777"), ("size", str(size)))
        fd = mounts.new_filesystem("tmpfs", options, attributes=sealed)
        try:
            mounts.attach(fd, path)
        finally:
            os.close(fd)

    def _bind(self, record: ContainerRecord, kind: str, owner: str) -> tuple[str, str]:
        """(its file, the owner's directory)"""
        path = namespace_file(self._paths, record.id, kind)
        theirs, pid = self._owner(record.name, kind, owner)
        with faults(f"join {kind} namespace of {owner} for", record.name):
            path.touch(mode=0o600)
            while mounts.is_mounted(path):
                mounts.unmount(path)
            mounts.bind(Path(f"/proc/{pid}/ns/{kind}"), path, recursive=False)
        return str(path), str(self._paths.live(theirs.id))

    def _owner(self, name: str, kind: str, owner: str) -> tuple[ContainerRecord, int]:
        """Its record and the pid of its program."""
        record = self._find(owner)
        state = client.read_state(self._paths.live(record.id)) if record is not None else None
        if record is None or state is None or not same_process(state.pid, state.pid_start):
            cause = f"container {owner}, whose {kind} namespace it is to have, is not running"
            raise Fault("container-not-running", "start container", name, cause, "start that first")
        return record, state.pid
