"""Effects: what there is to answer with, followed in the files that documents.py tells of.

`drain` takes in all that happened before it was called: a container whose start has returned has its names,
and one whose stop has returned has none, for every question that is asked after that. Only what the server
must act on by itself makes `fd` readable, which is not what happens to containers: nothing is read of them
before somebody asks, since a start needs the processors for itself. Who wants to hear of it has `quiet_fd`.
"""

from __future__ import annotations

import os
import select
import time

from runtime.linux import inotify
from runtime.net.dns import documents
from runtime.net.dns.zone import Zone

_FILES = inotify.IN_MOVED_TO | inotify.IN_DELETE | inotify.IN_ONLYDIR
_DIRECTORIES = inotify.IN_CREATE | inotify.IN_MOVED_TO | inotify.IN_DELETE | inotify.IN_ONLYDIR
#: Seconds between two looks at everything while watches are missing.
BLIND = 0.1


class Watch:
    """`zone` is replaced when the networks change. `gone` is true once there is nothing to serve for."""

    def __init__(self, run: str) -> None:
        self.zone = Zone()
        self.gone = False
        self.unheard = False  # somebody has removed what the server wrote of itself
        self._own = f"{run}/{documents.DIRECTORY}"
        self._containers = f"{run}/containers"
        self.fd = inotify.open_inotify()  # of networks
        self.quiet_fd = inotify.open_inotify()  # of containers
        self._happened = select.poll()
        for fd in (self.fd, self.quiet_fd):
            self._happened.register(fd, select.POLLIN)
        self._watched: dict[int, str] = {}  # watch -> id of a container
        self._numbers: dict[str, int] = {}
        self._containers_number = -1
        self._blind = False  # the machine's watches are used up, and not all is heard of
        self._looked = 0.0
        self._rescan()

    def close(self) -> None:
        os.close(self.fd)
        os.close(self.quiet_fd)

    def drain(self, *, whole: bool = False) -> bool:
        """Take in what has changed; whether anything of it matters. Where watches are missing, what came in
        the last BLIND seconds may be left out, but for `whole`."""
        changed = False
        for fd, _ in self._happened.poll(0):
            while events := inotify.read_events(fd):
                changed = self._take(fd, events) or changed
        if self._blind and (whole or not 0 <= time.monotonic() - self._looked < BLIND):
            self._rescan()
            return True
        return changed

    def _take(self, fd: int, events: list[tuple[int, int, str]]) -> bool:
        if any(mask & inotify.IN_Q_OVERFLOW for _, mask, _ in events):
            self._rescan()
            return True
        return self._take_networks(events) if fd == self.fd else self._take_containers(events)

    def _take_networks(self, events: list[tuple[int, int, str]]) -> bool:
        changed = False
        for _, mask, name in events:
            changed = changed or name == documents.NETWORKS or bool(mask & inotify.IN_IGNORED)
            if name == documents.STATE:
                self.unheard = bool(mask & inotify.IN_DELETE)
        return changed and self._read_networks()

    def _take_containers(self, events: list[tuple[int, int, str]]) -> bool:
        changed, ids = False, {}
        for number, mask, name in events:
            if number == self._containers_number:
                if name:
                    ids[name] = True
            elif (id := self._watched.get(number)) is not None:
                if mask & inotify.IN_IGNORED:
                    self._forget(id)
                if name in (documents.MEMBER, documents.STATE):
                    ids[id] = True
        for id in ids:
            changed = self._read_container(id) or changed
        return changed

    def _rescan(self) -> None:
        for id in list(self._numbers):
            self._forget(id)
        self._blind, self._looked = False, time.monotonic()
        try:
            self._add(self.fd, self._own, _FILES)
            self._containers_number = self._add(self.quiet_fd, self._containers, _DIRECTORIES)
        except OSError:
            self.gone = True
            return
        self._read_networks(scan=True)

    def _add(self, fd: int, directory: str, mask: int) -> int:
        """The number of its watch; -1 where none is left, and then everything is looked at again and again
        until there is. OSError when it is not there."""
        try:
            return inotify.add_watch(fd, directory, mask)
        except OSError as error:
            if not inotify.is_exhausted(error):
                raise
            self._blind = True
            return -1

    def _read_networks(self, *, scan: bool = False) -> bool:
        try:
            networks = documents.decode_networks(_read(f"{self._own}/{documents.NETWORKS}"))
        except ValueError:
            return False  # never half a file: not ours, so what was known stays
        except OSError:
            networks = []
        self.gone = not networks
        if not scan and self.zone.networks == {item.name: item for item in networks}:
            return False
        self.zone = Zone(networks)
        for id in _list(self._containers):
            self._read_container(id)
        return True

    def _read_container(self, id: str) -> bool:
        directory = f"{self._containers}/{id}"
        try:
            if id not in self._numbers:
                number = self._add(self.quiet_fd, directory, _FILES)
                if number >= 0:
                    self._numbers[id], self._watched[number] = number, id
            member = documents.decode_member(_read(f"{directory}/{documents.MEMBER}"))
        except (OSError, ValueError):
            return self.zone.drop(id)
        try:
            up, ready = documents.standing(_read(f"{directory}/{documents.STATE}"))
        except (OSError, ValueError):
            up, ready = False, False
        return self.zone.put(member, up=up, ready=ready) if member.id == id else self.zone.drop(id)

    def _forget(self, id: str) -> None:
        self._watched.pop(self._numbers.pop(id, -1), None)


def _list(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(fd, min(os.fstat(fd).st_size, documents.MAX_SIZE))
    finally:
        os.close(fd)
