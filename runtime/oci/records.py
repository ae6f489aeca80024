"""Effects: what is kept of containers under --root: a directory each, with state.json, replaced at once.

A record is written before there is anything to find, and removed last: what a crash leaves is always found
through it. `start` and `report` are FIFOs of a container that waits to be started: whether its first process
holds the former is what tells `created` from `running`.
"""

from __future__ import annotations

import errno
import os

from runtime.linux import jsontext, pidfd
from runtime.oci.failure import OciFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from runtime.linux.cgroups import Cgroups

STATE, START, REPORT = "state.json", "start", "report"
#: Of the specification with which states comply.
OCI_VERSION = "1.3.0"
MAX_ID = 1024
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")


class Record:
    """One container. `document` is what state.json holds."""

    __slots__ = ("directory", "document")

    def __init__(self, directory: str, document: dict[str, Any]) -> None:
        self.directory, self.document = directory, document

    @property
    def id(self) -> str:
        return str(self.document["id"])

    @property
    def pid(self) -> int:
        return int(self.document["pid"])

    @property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = self.document["config"]
        return config

    @property
    def cgroup(self) -> str:
        return str(self.document["cgroup"])

    @property
    def shares_pids(self) -> bool:
        """Whether processes of the container outlive its first one."""
        spaces = self.config["linux"]["namespaces"]
        return not any(space["type"] == "pid" and not space.get("path") for space in spaces)

    def save(self, **changes: Any) -> None:
        self.document.update(changes)
        temporary = f"{self.directory}/.{STATE}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            data = jsontext.encode(self.document)
            while data:
                data = data[os.write(fd, data) :]
        finally:
            os.close(fd)
        os.rename(temporary, f"{self.directory}/{STATE}")

    def remove(self) -> None:
        """Repeatable. The directory goes last."""
        for name in (START, REPORT, f".{STATE}", STATE):
            try:
                os.unlink(f"{self.directory}/{name}")
            except FileNotFoundError:
                pass
        try:
            os.rmdir(self.directory)
        except FileNotFoundError:
            pass

    def is_alive(self) -> bool:
        return self.pid > 0 and pidfd.is_alive(self.pid, int(self.document["start"]))

    def waits(self) -> bool:
        """Whether the first process holds the FIFO that lets it go."""
        try:
            os.close(os.open(f"{self.directory}/{START}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as error:
            if error.errno not in (errno.ENXIO, errno.ENOENT):
                raise
            return False
        return True

    def status(self, host: Cgroups) -> str:
        """creating, created, running, paused or stopped."""
        if not self.pid:
            maker = self.document["creator"]
            return "creating" if pidfd.is_alive(int(maker[0]), int(maker[1])) else "stopped"
        if not self.is_alive():
            return "stopped"
        if host.is_frozen(self.cgroup):
            return "paused"
        return "created" if self.waits() else "running"


def state_for_hooks(record: Record) -> dict[str, Any]:
    """Without `status`, which whoever runs the hooks knows."""
    return {
        "ociVersion": OCI_VERSION,
        "id": record.id,
        "pid": record.pid,
        "bundle": str(record.document["bundle"]),
        "annotations": record.config.get("annotations") or {},
    }


def directory_of(root: str, id: str) -> str:
    """OciFailure for a name that is none."""
    if not id or len(id) > MAX_ID or not set(id) <= _LETTERS or id in (".", ".."):
        raise OciFailure(f"invalid container ID: {id!r} has other than letters, digits and _ + - .")
    return f"{root}/{id}"


def make(root: str, id: str, document: dict[str, Any]) -> Record:
    """OciFailure where there is one of this name."""
    directory = directory_of(root, id)
    os.makedirs(root, 0o711, exist_ok=True)
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        raise OciFailure(f"container with id exists: {id} already exists") from None
    record = Record(directory, {"version": 1, "id": id, **document})
    record.save()
    return record


def load(root: str, id: str) -> Record:
    directory = directory_of(root, id)
    try:
        with open(f"{directory}/{STATE}", "rb") as file:
            return Record(directory, jsontext.decode(file.read()))
    except FileNotFoundError:
        raise OciFailure(f"container {id!r} does not exist".replace("'", '"')) from None
    except ValueError as error:
        raise OciFailure(f"cannot read {directory}/{STATE}: {error}") from None


def every(root: str) -> Iterator[Record]:
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return
    for name in names:
        try:
            yield load(root, name)
        except OciFailure:
            continue
