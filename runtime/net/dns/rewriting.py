"""Effects: the hosts and resolv.conf of containers that run are kept as they should be.

The agent writes both before a container starts. From then on they are rewritten here, in place, since this
process lives when no agent does: resolv.conf when the host's changes or the name server comes or goes at the
gateway that the container asks, hosts when peers join or leave and there is no name server to ask about them.
Where there is one, a start or a stop of others writes nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from runtime.net import names, resolvconf
from runtime.net.dns.hostfiles import HostFiles
from runtime.net.dns.watch import Watch
from runtime.net.dns.zone import Member
from runtime.shim.loop import Loop

#: Seconds from a change to the writing of files: what comes in a row is written once.
DELAY = 0.01
#: The pause after a round of writing is so many times as long as the round took: answers go first.
REST = 3.0
#: Containers whose files are written without a look at questions between them.
BATCH = 16


class Rewriting:
    """Only for the thread of `loop`. `answers` says whether the name server listens at a gateway, `refresh`
    takes in what has happened to containers."""

    def __init__(
        self, loop: Loop, watch: Watch, answers: Callable[[str], bool], refresh: Callable[[], object]
    ) -> None:
        self._loop, self._watch, self._answers, self._refresh = loop, watch, answers, refresh
        self._host = HostFiles((os.fspath(resolvconf.HOST), os.fspath(resolvconf.UPLINK)))
        self._status = _status()
        self._all_due, self._peers_due, self._armed = False, False, False
        self._queue: list[str] = []  # ids of containers that this round has not come to
        self._all = False  # this round is for all files
        self._bases = ("", "")  # what containers with networks of their own follow, and those on the host's
        self._began = 0.0
        loop.watch(self._host.fd, self._heard)
        self.everything()

    def close(self) -> None:
        self._loop.forget(self._host.fd)
        self._host.close()

    # ------------------------------------------------------------ what has changed

    def _heard(self) -> None:
        if self._host.drain():
            self.look(anyway=True)

    def look(self, *, anyway: bool = False) -> None:
        """Follow the host's files if their status has changed: not every file system tells of changes."""
        status = _status()
        if anyway or status != self._status:
            self._status = status
            self.everything()

    def everything(self) -> None:
        """The host's files have changed, or the addresses at which names are answered."""
        self._all_due = True
        self._arm(DELAY)

    def peers(self) -> None:
        """Somebody came, went or is called otherwise."""
        if self.names_peers():
            self._peers_due = True
            self._arm(DELAY)

    def names_peers(self) -> bool:
        """Whether there may be a container whose hosts file names its peers."""
        zone = self._watch.zone
        gateways = {address for network in zone.networks.values() for address in network.gateways}
        return bool(zone.apart) or (len(zone) > 0 and not all(map(self._answers, gateways)))

    # ------------------------------------------------------------ write

    def _arm(self, delay: float) -> None:
        if not self._armed:
            self._armed = True
            self._loop.after(delay, self._step)

    def _step(self) -> None:
        self._armed = False
        if not self._queue:
            self._begin()
        zone = self._watch.zone
        for id in self._queue[:BATCH]:
            member = zone.member(id)
            if member is not None:
                self._rewrite(member)
        del self._queue[:BATCH]
        if self._queue:
            self._arm(0.0)
        elif self._all_due or self._peers_due:  # meanwhile
            self._arm(max(DELAY, REST * (time.monotonic() - self._began)))

    def _begin(self) -> None:
        self._refresh()
        self._all, self._all_due, self._peers_due = self._all_due, False, False
        self._began = time.monotonic()
        if self._all:
            self._bases = resolvconf.host_text(), resolvconf.raw_host_text()
        members = self._watch.zone.members
        self._queue = [member.id for member in members if self._all or not self._via(member)]

    def _rewrite(self, member: Member) -> None:
        via = self._via(member)
        try:
            if self._all:
                self._rewrite_resolv(member, via)
            if not member.files.on_host:
                self._rewrite_hosts(member, via)
        except OSError:
            pass  # it is being removed, or has made the file somebody else's: its own loss

    def _rewrite_resolv(self, member: Member, via: str) -> None:
        files, base = member.files, self._bases[member.files.on_host]
        path = f"{files.directory}/resolv.conf"
        text = names.read_small(path)
        if text is not None and resolvconf.is_stale(text, base, via):
            made = resolvconf.resolv_text(
                base, member.dns, files.search, files.options, loopback=files.on_host, via=via
            )
            names.write_in_place(path, made)

    def _rewrite_hosts(self, member: Member, via: str) -> None:
        path = f"{member.files.directory}/hosts"
        text = names.read_small(path)
        if text is not None and len(text) < names.MAX_SIZE:
            made = names.with_peers(text, {} if via else self._watch.zone.peers(member))
            if made != text:
                names.write_in_place(path, made)

    def _via(self, member: Member) -> str:
        """Where the container asks us; empty where it does not, and has files of ours."""
        files = member.files
        if not files.directory:
            return "-"
        gateway = resolvconf.asked(files.gateway, member.dns)
        return gateway if gateway and self._answers(gateway) else ""


def _status() -> list[tuple[int, ...] | None]:
    return [_status_of(path) for path in (resolvconf.HOST, resolvconf.UPLINK)]


def _status_of(path: str | os.PathLike[str]) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
