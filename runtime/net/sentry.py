"""Effects: what looks at networks have to do with events: a look tells the Watch what is ours, and asks it
which containers nobody touched, so that their namespaces need not be entered again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from runtime.net import links, ways
from runtime.net.events import Expected, Watch
from runtime.net.records import Lease, NetworkRecord, way_out, way_out6
from runtime.net.ways import Way
from runtime.observations import Defect

#: seconds after which a container is looked into again though no event said so
AGAIN = 600.0


class Sentry:
    """Thread-safe. Without a Watch (`stead plan`, an old kernel) every look enters every namespace."""

    def __init__(self, table: str, mark: str, netns: Callable[[str], Path]) -> None:
        """`mark` is how names of our bridges begin, `netns` where a container's namespace is bound."""
        self._table, self._mark, self._netns = table, mark, netns
        self._watch: Watch | None = None
        self._lock = threading.Lock()
        #: by container: what `stirred` said before it was found whole, and when that was
        self._whole: dict[str, tuple[object, float]] = {}

    def watch(self, heard: Callable[[], None]) -> Callable[[], None]:
        """`heard` is called soon after something of ours changed, from the next look on. Returns what ends
        it. Raises OSError where the kernel has no such events."""
        made = Watch(heard)
        self._watch = made

        def end() -> None:
            self._watch = None
            with self._lock:
                self._whole.clear()
            made.close()

        return end

    # ------------------------------------------------------------ a look

    def loosened(self) -> frozenset[int]:
        """Indexes of links of ours from which somebody took a filter, or their fixed MAC."""
        return self._watch.loosened() if self._watch is not None else frozenset()

    def settings(self, names: Iterable[str]) -> dict[str, str]:
        """These settings (names below /proc/sys/net) as they are, for `expect`. To be read before all that a
        look judges by them, so that a change in the middle of it is heard."""
        return {name: links.read_sysctl(name) for name in names} if self._watch is not None else {}

    def expect(
        self, found: Mapping[str, links.Link], ours: Collection[str], settings: Mapping[str, str]
    ) -> None:
        """Changes of what was `found` of `ours`, and of `settings`, are heard."""
        if self._watch is None:
            return
        own = [found[name] for name in ours if name in found]
        expected = Expected(
            table=self._table,
            mark=self._mark,
            links={link.index: link for link in own},
            bridges=frozenset(link.index for link in own if link.kind == "bridge"),
            namespaces=frozenset(link.nsid for link in own if link.nsid != -1),
            settings=tuple(settings.items()),
        )
        self._watch.expect(expected)

    def inside(
        self,
        leases: Sequence[Lease],
        networks: Mapping[str, NetworkRecord],
        ends: Sequence[links.Link | None],
    ) -> tuple[Defect, ...]:
        """What is missing of loopback and routes in the container with these leases; `ends` are the host's
        ends of its pairs. Nothing where it cannot be entered, which is found elsewhere."""
        id, now, stirred = leases[0].container, time.monotonic(), self._stirred(ends)
        known = self._whole.get(id)
        if stirred is not None and known is not None and known[0] == stirred and now < known[1] + AGAIN:
            return ()
        try:
            lost = ways.lost_inside(self._netns(id), ways_of(leases, networks))
        except OSError:
            return ()
        with self._lock:
            self._whole.pop(id, None)
            if stirred is not None and not lost:
                self._whole[id] = (stirred, now)
        return tuple(Defect("route", text) for text in lost)

    def _stirred(self, ends: Sequence[links.Link | None]) -> object | None:
        """None: nobody knows."""
        watch = self._watch
        if watch is None or not watch.everywhere:
            return None
        if any(end is None or end.nsid == -1 for end in ends):
            return None
        return tuple((end.nsid, watch.stirred(end.nsid)) for end in ends if end is not None)

    def forget(self, ids: Collection[str]) -> None:
        """Only these containers are there."""
        with self._lock:
            for id in self._whole.keys() - set(ids):
                del self._whole[id]


# ---------------------------------------------------------------- decisions


def ways_of(leases: Sequence[Lease], networks: Mapping[str, NetworkRecord]) -> list[Way]:
    """What should be inside of the container with these leases."""
    out, out6 = way_out(leases, networks), way_out6(leases, networks)
    found = []
    for lease in leases:
        record = networks[lease.network]
        found.append(Way(lease.inside, f"{lease.address}/{record.net.prefixlen}", lease is out))
        if lease.address6:
            length = record.subnet6.partition("/")[2]
            found.append(Way(lease.inside, f"{lease.address6}/{length}", lease is out6))
    return found


def ways_to(record: NetworkRecord) -> list[Way]:
    """What should be on the host for the network's bridge."""
    given = (record.gateway_interface, record.gateway6_interface)
    return [Way(record.bridge, address) for address in given if address]
