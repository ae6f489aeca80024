"""Effects: the networks that RUN steps have: none, the host's, or an address of their own behind a bridge.

A step with an address has it on the network `build`, which is there while builds need it. Its namespace is
held by a descriptor of the build and by nothing else: it goes, and its links with it, when the build does.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from runtime.build.workspace import Workspace
from runtime.faults import Fault, faults

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.database import Database
    from runtime.net.fabric import Fabric

NAME = "build"
#: How often a network is made that another build, which just ended, took away again.
TRIES = 5


@dataclass(frozen=True, slots=True)
class StepNetwork:
    """`path` is host, none, or the file of a network namespace with `addresses` and a `gateway`."""

    path: str
    addresses: tuple[str, ...] = ()
    gateway: str = ""


@dataclass(frozen=True, slots=True)
class _Slot:
    """A namespace with an address, for one step at a time."""

    id: str
    fd: int
    network: StepNetwork


class Networks:
    """Of one build. Thread-safe. To be closed."""

    def __init__(self, work: Workspace, database: Database, fabric: Callable[[], Fabric]) -> None:
        self._work, self._database, self._fabric = work, database, fabric
        self._lock = threading.Lock()
        self._guard = threading.Lock()
        self._idle: list[_Slot] = []
        self._all: list[_Slot] = []
        self._warming: threading.Thread | None = None
        self._ending: threading.Thread | None = None

    def warm(self) -> None:
        """Make the first network aside: a step will want it soon. Repeatable; what fails is told to the
        step."""
        with self._guard:
            if self._warming is None and not self._all:
                self._warming = threading.Thread(target=self._warm, name="stead-build-network")
                self._warming.start()

    def _warm(self) -> None:
        with suppress(Fault, OSError), self._lock:
            slot = self._make(f"{self._work.mark}-0")
            self._all.append(slot)
            self._idle.append(slot)

    @contextmanager
    def of(self, mode: str) -> Iterator[StepNetwork]:
        """The network of one step: `default`, `none` or `host`. Faults of making networks."""
        if mode in ("none", "host"):
            yield StepNetwork(mode)
            return
        if self._warming is not None:
            self._warming.join()
        with self._lock:
            slot = self._idle.pop() if self._idle else None
            number = len(self._all)
            if slot is None:
                slot = self._make(f"{self._work.mark}-{number}")
                self._all.append(slot)
        try:
            yield slot.network
        finally:
            with self._lock:
                self._idle.append(slot)

    def _make(self, id: str) -> _Slot:
        from runtime.inside import in_own_thread
        from runtime.wishes import Attachment, NetworkRequest

        fabric = self._fabric()
        for attempt in range(TRIES):
            if all(record.name != NAME for record in fabric.networks()):
                fabric.create_network(NetworkRequest(NAME, "", NAME))
            try:
                with self._database.write() as connection:
                    fabric.reserve(connection, id, f"{NAME}/{id}", [Attachment(NAME)], ())
                break
            except Fault as fault:
                if fault.code != "network-not-found" or attempt == TRIES - 1:
                    raise
        with faults("make network namespace of", id):
            fd = in_own_thread(_new_namespace)
        path = f"/proc/{os.getpid()}/fd/{fd}"
        try:
            fabric.attach(id, Path(path))
        except BaseException:
            os.close(fd)
            self._release(id)
            raise
        gateway = next((record.gateway for record in fabric.networks() if record.name == NAME), "")
        addresses = tuple(address for _, address in fabric.addresses(id))
        return _Slot(id, fd, StepNetwork(path, addresses, gateway))

    def _release(self, id: str) -> None:
        release(self._fabric(), self._database, id)

    def end(self) -> None:
        """All steps are done: take the networks away aside, while the result is recorded."""
        if self._all and self._ending is None:
            self._ending = threading.Thread(target=self._end, name="stead-build-network")
            self._ending.start()

    def close(self) -> None:
        """Nothing of the networks stays, unless another build has an address on them. Repeatable."""
        for thread in (self._warming, self._ending):
            if thread is not None:
                thread.join()
        self._end()

    def _end(self) -> None:
        if not self._all:
            return
        for slot in self._all:
            os.close(slot.fd)
            with suppress(Fault):
                self._release(slot.id)
        self._all.clear()
        self._idle.clear()
        with suppress(Fault):
            self._fabric().remove_network(NAME)


def release(fabric: Fabric, database: Database, id: str) -> None:
    """Give the addresses of one step back. Repeatable."""
    fabric.detach(id)
    with database.write() as connection:
        fabric.release(connection, id)


def release_all(fabric: Fabric, database: Database, mark: str) -> None:
    """Give back what a build of that mark had, and the network when nobody is on it any more. The build may
    have been killed in between: what its network left in the kernel goes even where no row knows of it."""
    query = "SELECT container FROM endpoints WHERE container LIKE ?"
    found = [str(row[0]) for row in database.read().execute(query, (f"{mark}-%",))]
    for id in found:
        release(fabric, database, id)
    with suppress(Fault):
        fabric.remove_network(NAME)


def _new_namespace() -> int:
    """The thread ends afterwards: that it is in the new namespace does not matter."""
    from runtime.linux import namespaces

    namespaces.unshare(namespaces.CLONE_NEWNET)
    namespaces.raise_loopback()
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
