"""Effects: containers that a person pauses, and lets go on (cgroups(7), freezer).

What is paused stays so while agents come and go; its probes rest, no program is started in it. To stop or to
kill it thaws it first: that is its shim's matter (runtime.shim.monitor).
"""

from __future__ import annotations

import os

from runtime import events, frozen
from runtime.database import Database
from runtime.faults import Fault, faults
from runtime.linux.cgroups import Cgroups
from runtime.paths import Paths
from runtime.records import ContainerRecord, read_container
from runtime.shim import client


class Freezer:
    """Thread-safe; needs no lock of the container: an end that comes in between wins."""

    def __init__(self, paths: Paths, database: Database, cgroups: Cgroups) -> None:
        self._paths, self._database, self._cgroups = paths, database, cgroups

    def pause(self, name: str) -> None:
        """Every process of the container stops where it is. Faults container-not-found,
        container-not-running, container-paused (it is already), kernel-error when one does not stop."""
        operation = "pause container"
        record = self._record(name, operation)
        live = self._paths.live(record.id)
        state = client.read_state(live)
        if state is None or not client.is_alive(state) or state.phase != "running":
            raise Fault("container-not-running", operation, record.name, "it is not running")
        with faults(operation, record.name):
            try:
                os.close(os.open(live / frozen.MARK, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            except (
                FileExistsError
            ):  # without a frozen cgroup: who made the mark was killed before he froze it
                if self._cgroups.is_frozen(state.cgroup):
                    cause = "it is paused already"
                    raise Fault("container-paused", operation, record.name, cause) from None
            try:
                self._cgroups.freeze(state.cgroup)
                frozen.leave_trace(live)
            except BaseException:
                self._thaw(record, state.cgroup)
                raise
        now = client.read_state(live)
        if now is None or not client.is_alive(now) or now.pid != state.pid:
            with faults(operation, record.name):
                self._thaw(record, state.cgroup)
            raise Fault("container-not-running", operation, record.name, "it ended meanwhile")
        events.tell_container(self._paths.root, "pause", record)

    def unpause(self, name: str) -> None:
        """They go on. Faults container-not-found, container-not-running (it is not paused)."""
        operation = "unpause container"
        record = self._record(name, operation)
        state = client.read_state(self._paths.live(record.id))
        if state is None or not frozen.is_paused(self._paths.live(record.id)):
            raise Fault("container-not-running", operation, record.name, "it is not paused")
        with faults(operation, record.name):
            self._thaw(record, state.cgroup)
        events.tell_container(self._paths.root, "unpause", record)

    def _thaw(self, record: ContainerRecord, cgroup: str) -> None:
        try:
            os.unlink(self._paths.live(record.id) / frozen.MARK)
        except FileNotFoundError:
            pass
        if self._cgroups.exists(cgroup):
            self._cgroups.thaw(cgroup)

    def _record(self, name: str, operation: str) -> ContainerRecord:
        record = read_container(self._database.read(), name)
        if record is None:
            raise Fault("container-not-found", operation, name, "there is no container of this name")
        return record
