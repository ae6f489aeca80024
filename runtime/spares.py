"""Effects: a place that waits for the next container.

Most of a start is what every container needs alike: directories, a network namespace, a cgroup in each
hierarchy, a shim, the container's first process and its file systems. A process that stays makes them ahead,
once it has started a container that a person made, and is at rest: for the next one, which is created with
the id of that place. A place that nobody took goes by itself.

The file `run/spare` names the place and the process that it belongs to, from before it is made until it is
gone or its container is recorded: as long as that process lives, the place is nobody's leftover.
"""

from __future__ import annotations

import errno
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from runtime import machine
from runtime.faults import Fault
from runtime.linux import mounts, pidfd
from runtime.linux.regular import read_regular
from runtime.paths import Paths, write_atomically
from runtime.prepare import Preparation, cgroup_path
from runtime.shim import client, forking
from runtime.wishes import ContainerRequest, owner_of_network

#: seconds for which a place waits
KEEP = 60.0
#: seconds without an action on any container after which a place is made
REST = 0.05
#: bytes; several times of what a first process has before its program
ROOM = 16 << 20
#: the file below `run`
MARK = "spare"
#: what must not end the thread: RuntimeError where no thread can be had
FAILURES = (Fault, OSError, RuntimeError, sqlite3.Error)


@dataclass(frozen=True, slots=True)
class Spare:
    """`early` as bundle.early_config has it, `rules` are those of devices; `at` by time.monotonic."""

    id: str
    idle: bool
    early: Mapping[str, Any]
    rules: list[dict[str, Any]]
    birth: forking.Birth
    at: float


class Spares:
    """Thread-safe. `busy`: on which containers anybody has acted since a time by time.monotonic."""

    def __init__(
        self,
        paths: Paths,
        preparation: Preparation,
        zygote: forking.Zygote,
        busy: Callable[[float], Collection[str]],
        *,
        stays: bool,
    ) -> None:
        """`stays`: this process does; else no place is made."""
        self._paths, self._preparation, self._zygote, self._busy = paths, preparation, zygote, busy
        self._changed = threading.Condition()
        self._like: tuple[ContainerRequest, bool] | None = None  # what is to be made
        self._waiting: Spare | None = None
        self._given: dict[str, Spare] = {}  # to containers that were not started yet
        self._left: set[str] = set()  # containers whose place nobody waits in any more
        self._named = False  # somebody is about to take the one that waits
        self._closed = not stays
        self._thread: threading.Thread | None = None

    def like(self, request: ContainerRequest, *, idle: bool) -> None:
        """One such container was started: who made it by hand may make another one."""
        if self._closed or request.source or not _fits(request):
            return
        with self._changed:
            self._like = (request, idle)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="stead-spare", daemon=True)
                with suppress(RuntimeError):  # there are as many as there may be
                    thread.start()
                    self._thread = thread
            self._changed.notify_all()

    @contextmanager
    def id(self) -> Iterator[str]:
        """Of a new container, which is recorded when this is left."""
        with self._changed:
            spare = None if self._named else self._waiting
            self._named = self._named or spare is not None
        if spare is None:
            yield secrets.token_hex(16)
            return
        taken = False
        try:
            yield spare.id
            taken = True
        finally:
            with self._changed:
                self._named = False
                if taken:
                    self._waiting = None
                    self._given[spare.id] = spare
                    _unmark(self._paths)
                self._changed.notify_all()

    def claim(
        self, id: str, request: ContainerRequest, early: Mapping[str, Any] | None, *, idle: bool
    ) -> Spare | None:
        """What waits for the start of container `id`, the caller's from now on; None where nothing does, or
        nothing that is right for it, of which nothing is left then. Fault."""
        with self._changed:
            spare, left = self._given.pop(id, None), id in self._left
            self._left.discard(id)
        if spare is not None:
            fits = spare.early == early and spare.idle == idle and _fits(request)
            if fits and mounts.is_mounted(self._paths.netns(id)):
                return spare
            spare.birth.close()
        if spare is not None or left:
            self._preparation.clear(id)
        return None

    def drop(self, id: str) -> None:
        """Container `id` is cleared next: what waits for its start has ended when this returns."""
        with self._changed:
            spare = self._given.pop(id, None)
            self._left.discard(id)
        if spare is not None:
            spare.birth.close()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        for id in list(self._given):
            self.drop(id)

    # ------------------------------------------------------------ in a thread of its own

    def _run(self) -> None:
        while not self._closed:
            with self._changed:
                old = self._old()
                like = self._like if self._is_wanted() and not self._is_busy() else None
                if not old and like is None:
                    self._changed.wait(self._pause())
                    continue
                if like is not None:
                    self._like = None
            for spare, given in old:
                if given:
                    spare.birth.close()
                else:
                    self._clear(spare.id, spare.birth)
            if like is not None:
                self._keep(self._make(*like))
        with self._changed:
            left, self._waiting = self._waiting, None
        if left is not None:
            self._clear(left.id, left.birth)

    def _is_busy(self) -> bool:
        return bool(self._busy(time.monotonic() - REST))

    def _is_wanted(self) -> bool:
        return self._like is not None and self._waiting is None and not self._named

    def _pause(self) -> float | None:
        """Seconds until there may be something to do, unless it is told."""
        if self._is_wanted():
            return REST
        held = list(self._given.values())
        if self._waiting is not None and not self._named:  # else `id` tells
            held.append(self._waiting)
        return max(0.0, min(spare.at for spare in held) + KEEP - time.monotonic()) if held else None

    def _old(self) -> list[tuple[Spare, bool]]:
        """Those that have waited long enough, which nobody can take any more; whether they were given to a
        container."""
        last = time.monotonic() - KEEP
        found = [(spare, True) for spare in self._given.values() if spare.at <= last]
        for spare, _ in found:
            del self._given[spare.id]
            self._left.add(spare.id)
        if self._waiting is not None and self._waiting.at <= last and not self._named:
            found.append((self._waiting, False))
            self._waiting = self._like = None
        return found

    def _make(self, request: ContainerRequest, idle: bool) -> Spare | None:
        """None where it cannot be made: the next start says why."""
        id, birth = secrets.token_hex(16), None
        early = self._preparation.early(id, request)
        if early is None:
            return None
        try:
            rules = machine.device_rules(request)
            _mark(self._paths, id)
            self._preparation.place(id, rules)
            home, live = self._paths.container(id), self._paths.live(id)
            birth = self._zygote.fork(home, live, idle=idle, cgroup=cgroup_path(id), early=early)
            birth.ground()
            return Spare(id, idle, early, rules, birth, time.monotonic())
        except (*FAILURES, client.ShimError):
            self._clear(id, birth)
            return None

    def _keep(self, made: Spare | None) -> None:
        with self._changed:
            self._waiting = made

    def _clear(self, id: str, birth: forking.Birth | None) -> None:
        """What cannot be cleared is a leftover from now on."""
        if birth is not None:
            birth.close()
        with suppress(*FAILURES):
            self._preparation.clear(id, home=True)
        _unmark(self._paths)


# ---------------------------------------------------------------- whose it is


def waiting(paths: Paths) -> set[str]:
    """Ids of places that wait, of a process that lives. To be asked after a look at directories and before
    one at records: a place is marked before it has a directory, and until it has a record."""
    try:
        id, pid, start = read_regular(paths.run / MARK).decode().split()
        return {id} if pidfd.is_alive(int(pid), int(start)) else set()
    except (FileNotFoundError, ValueError):
        return set()
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EISDIR):  # no file of ours
            return set()
        raise


def _mark(paths: Paths, id: str) -> None:
    own = os.getpid()
    write_atomically(paths.run / MARK, f"{id} {own} {pidfd.start_time(own)}\n".encode(), durable=False)


def _unmark(paths: Paths) -> None:
    with suppress(OSError):
        (paths.run / MARK).unlink()


def _fits(request: ContainerRequest) -> bool:
    """Whether it has a network namespace of its own, no ids of its own, which a place has not, and room for
    what a process has that waits."""
    own = request.network_mode != "host" and not owner_of_network(request.network_mode)
    return own and not request.userns and not 0 < request.limits.memory < ROOM
