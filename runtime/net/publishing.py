"""Effects: the published ports of one state directory: their rows, and the firewall that follows them."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from runtime.database import Database
from runtime.faults import Fault, from_oserror
from runtime.linux import namespaces
from runtime.linux.regular import read_regular
from runtime.net import addresses, contents, firewall, links, listening, loopback, ports, records
from runtime.net.contents import Contents, Element, Publication, Zone, port_of
from runtime.net.foreign import Foreign
from runtime.net.records import NetworkRecord, PortRow, by_container, published_on
from runtime.observations import Defect
from runtime.paths import write_atomically
from specs.values import PortBinding

#: Seconds between two looks at connections that are to end.
DRAIN_LOOK = 0.02
#: Seconds without a connection after which none is on its way any more.
DRAIN_QUIET = 0.1
#: The leases of so many containers are read one by one, and not all that there are.
FEW = 32
IP_FORWARD = "ipv4/ip_forward"
IP6_FORWARD = "ipv6/conf/all/forwarding"
#: seconds after which what was changed in the records should have come to the kernel
UNDER_WAY = 5.0


class Publishing:
    """A port is wanted while its container is active (up). Thread-safe.

    Containers of one service may have the same ports: new connections are spread over those that `is_ready`
    tells of by their ids, or over all where none is.
    """

    def __init__(
        self,
        database: Database,
        root: str,
        state: Path,
        is_ready: Callable[[str], bool] = lambda _: True,
        *,
        shortcut: bool = False,
    ) -> None:
        """`state` is the file in which the firewall keeps what it wrote last; `shortcut`: this
        process, which stays, makes it (shortcut.py)."""
        self._database = database
        self._root = root
        self._answering = threading.Lock()
        self._table = addresses.table_name(root)
        self._firewall = firewall.Firewall(
            self._table, state, self._wanted, Foreign(addresses.bridge_prefix(root)), shortcut=shortcut
        )
        self._is_ready = is_ready
        self._lock = threading.Lock()
        self._changes = 0
        #: what was changed in the records and is not yet in the kernel: (thread, container), since when
        self._under_way: dict[tuple[int, str], float] = {}

    def close(self) -> None:
        self._firewall.close()

    # ------------------------------------------------------------ what is half done

    def changing(self, id: str = "") -> None:
        """To be called before records change what is wanted of the kernel, of one container or of all, which
        a `publish` of the same thread then brings: what is half done is no defect."""
        now = time.monotonic()
        with self._lock:
            self._changes += 1
            self._under_way = {key: at for key, at in self._under_way.items() if at > now - UNDER_WAY}
            self._under_way[threading.get_ident(), id] = now

    def _done(self, only: str) -> None:
        """What this thread changed, of one container or of all, is in the kernel. What another changed may
        have come into the records after they were read."""
        ours = threading.get_ident()
        with self._lock:
            for thread, id in [*self._under_way]:
                if thread == ours and (not only or id == only):
                    del self._under_way[thread, id]

    def _half_done(self) -> tuple[bool, int]:
        """Whether something is, and how many changes have begun so far."""
        with self._lock:
            since = time.monotonic() - UNDER_WAY
            return any(at > since for at in self._under_way.values()), self._changes

    # ------------------------------------------------------------ rows

    def set_ports(
        self, connection: sqlite3.Connection, id: str, container_name: str, wanted: Sequence[PortBinding]
    ) -> None:
        """Exactly these ports from the next `publish` on; ports of the host that are left to us are chosen,
        and stay as they are where they were before. Faults request-invalid, port-taken.
        """
        self._check_families(connection, id, container_name, wanted)
        if records.is_active(connection, id):
            self.changing(id)
        before = records.read_ports(connection, id)
        kept = {(row.asked, row.binding.container_port): row for row in before if row.asked}
        others = _Others(self._table)
        rows = [PortRow(binding) for binding in wanted if binding.is_fixed]
        for binding in wanted:
            if not binding.is_fixed:
                row = kept.pop((str(binding), binding.container_port), None)
                rows.append(
                    row or self._chosen(connection, id, container_name, binding, [*rows, *before], others)
                )
        records.write_ports(connection, id, rows)
        if records.is_active(connection, id):
            held = {row.binding for row in before}
            added = [row.binding for row in rows if row.binding not in held]
            self._check(connection, id, container_name, added, others)

    def _chosen(
        self,
        connection: sqlite3.Connection,
        id: str,
        name: str,
        asked: PortBinding,
        own: Iterable[PortRow],
        others: _Others,
    ) -> PortRow:
        """A free port of the host. Fault port-taken when there is none."""
        used = [row.binding for row in own]

        def is_taken(found: PortBinding) -> bool:
            rows = records.same_port_rows(connection, id, found, sleeping=True)
            mine = any(ports.overlap(found, other) for other in (*used, *(theirs for _, theirs in rows)))
            return mine or others.taker(found) is not None

        span = listening.ephemeral()
        found = ports.choose(asked, span, f"{self._table} {name}", is_taken)
        if found is None:
            first, last = (asked.host_port, asked.host_end) if asked.host_end else span
            cause = f"every port from {first} to {last}/{asked.protocol} is taken"
            raise Fault("port-taken", "publish ports of", name, cause, "give it a wider range")
        return PortRow(found, str(asked))

    def _check_families(
        self, connection: sqlite3.Connection, id: str, name: str, wanted: Iterable[PortBinding]
    ) -> None:
        six = next((binding for binding in wanted if ":" in binding.host_ip), None)
        if six is not None and not _targets(connection, [id])[id][1]:
            cause = f"port {six} is for IPv6, and the container is on no network that has it"
            hint = "set enable_ipv6 on its network, or leave the address out"
            raise Fault("request-invalid", "publish ports of", name, cause, hint)

    # ------------------------------------------------------------ conflicts

    def check_ports(self, id: str) -> None:
        """Fault port-taken when a container that is up, or a program of the host, has one of its ports;
        request-invalid when one is for an address that the host does not have.

        A port that was chosen by us and is taken meanwhile is chosen anew.
        """
        connection, others = self._database.read(), _Others(self._table)
        rows = records.read_ports(connection, id)
        if not rows:
            return
        name = _name(connection, id)
        lost = [row for row in rows if row.asked and self._taken(connection, id, row.binding, others)]
        if lost:
            with self._database.write() as connection:
                rows = [row for row in records.read_ports(connection, id) if row not in lost]
                for row in lost:
                    asked = _asked(row)
                    rows.append(self._chosen(connection, id, name, asked, [*rows, *lost], others))
                records.write_ports(connection, id, rows)
        self._check(connection, id, name, [row.binding for row in rows], others)

    def _taken(self, connection: sqlite3.Connection, id: str, binding: PortBinding, others: _Others) -> bool:
        rows = records.same_port_rows(connection, id, binding)
        return others.taker(binding) is not None or any(ports.overlap(binding, theirs) for _, theirs in rows)

    def _check(
        self,
        connection: sqlite3.Connection,
        id: str,
        name: str,
        bindings: Sequence[PortBinding],
        others: _Others,
    ) -> None:
        self._check_rows(connection, id, name, bindings)
        if not bindings:
            return
        has6 = bool(_targets(connection, [id])[id][1])
        for binding in bindings:
            if binding.host_ip not in ports.ANY and not listening.is_local(binding.host_ip):
                cause = f"port {binding} is for {binding.host_ip}, which is no address of this host"
                raise Fault("request-invalid", "publish ports of", name, cause, "leave the address out")
        for binding in bindings:
            narrow = binding if binding.host_ip or has6 else replace(binding, host_ip=contents.ANY4)
            taker = others.taker(narrow)
            if taker is not None:
                cause = f"port {binding.host_port}/{binding.protocol} is {taker[0]}"
                raise Fault("port-taken", "publish ports of", name, cause, taker[1])

    def _check_rows(
        self, connection: sqlite3.Connection, id: str, name: str, bindings: Iterable[PortBinding]
    ) -> None:
        for binding in bindings:
            for other, theirs in records.same_port_rows(connection, id, binding):
                if ports.overlap(binding, theirs):
                    cause = f"port {binding.host_port}/{binding.protocol} is used by container {other}"
                    hint = "stop it or publish on another port"
                    raise Fault("port-taken", "publish ports of", name, cause, hint)

    # ------------------------------------------------------------ up and down

    def activate(self, id: str) -> None:
        """The container is up: its ports are wanted from now on, `publish` brings them. Fault port-taken.

        A power cut takes the container with it, so what is said of it here need not outlive one."""
        with self._database.write(durable=False) as connection:
            if records.is_active(connection, id):
                return
            bindings = [row.binding for row in records.read_ports(connection, id)]
            self._check_rows(connection, id, _name(connection, id), bindings)
            self.changing(id)
            records.set_active(connection, id, True)

    def deactivate(self, id: str) -> None:
        """The container is down: its ports are not wanted any more."""
        if not records.is_active(self._database.read(), id):
            return
        with self._database.write(durable=False) as connection:
            self.changing(id)
            records.set_active(connection, id, False)

    def drain(self, id: str, netns: Path, seconds: float) -> bool:
        """Wait until no TCP connection to its published ports is left; False when one is after `seconds`.

        A connection that was sent on its way before the ports led elsewhere may come a little later: on a
        busy machine the kernel delivers between two namespaces when it gets to it. So it must be quiet for a
        while. A drain that was broken off, as by a kill of the agent, has only what is left of its time."""
        rows = records.read_ports(self._database.read(), id)
        wanted = {row.binding.container_port for row in rows if row.binding.protocol == "tcp"}
        busy = time.monotonic()
        begin = busy - _drained_for(netns.with_name(f"{netns.name}.drain")) if wanted else busy
        while wanted and netns.exists():
            with namespaces.in_netns(netns):
                left = listening.connected() & wanted
            now = time.monotonic()
            busy = now if left else busy
            if now - busy >= DRAIN_QUIET or now - begin > seconds:
                return not left
            time.sleep(DRAIN_LOOK)
        return True

    def is_shared(self, id: str) -> bool:
        """Whether another container that is up answers on one of its ports."""
        return records.is_shared(self._database.read(), id)

    def publish(self, *, only: str = "", force: bool = False) -> None:
        """Make the table and the settings of forwarding as the records want them.

        `only` names a container: nothing but its ports differ from what they were, and the cost is theirs.
        Callers at one time share one transaction otherwise. `force` reads everything back first,
        and raises where a table of somebody else drops our packets. Fault firewall-failed.
        """
        if only:
            self._publish_ports(only)
        else:
            self._firewall.publish(force=force)
        self._done(only)
        networks = records.read_networks(self._database.read())
        try:
            if not only:
                with self._answering:  # of as late as now, or an older one would undo it
                    networks = records.read_networks(self._database.read())
                    six = [item.bridge for item in networks.values() if item.subnet6 and item.is_bridge]
                    loopback.ensure(self._table, addresses.bridge_prefix(self._root), six)
            if not networks:
                return
            links.write_sysctl(IP_FORWARD, "1")
            if any(record.subnet6 for record in networks.values()):
                links.forward_ipv6()
            if force:
                for record in networks.values():
                    name = f"ipv4/conf/{record.bridge}/route_localnet"
                    links.write_sysctl(name, "1", optional=True)
        except OSError as error:
            raise from_oserror(error, "set forwarding of", "this host") from error
        if force:
            for defect in self._firewall.check():
                if defect.kind == "forwarding":
                    raise Fault("firewall-failed", "repair", "firewall", defect.text)

    def _publish_ports(self, id: str) -> None:
        bindings = [row.binding for row in records.read_ports(self._database.read(), id)]
        if not bindings:
            return
        keys = {port_of(item.host_ip, item.protocol, item.host_port) for item in bindings}
        pairs = {(item.host_port, item.protocol) for item in bindings}

        def wanted() -> Mapping[str, Collection[Element]]:
            connection = self._database.read()
            rows = [
                row
                for row in records.read_active_ports(connection, pairs)
                if port_of(row[2].host_ip, row[2].protocol, row[2].host_port) in keys
            ]
            return contents.elements(self._publications(connection, rows))

        self._firewall.update(keys, wanted)

    def _wanted(self) -> Contents | None:
        connection = self._database.read()
        networks = records.read_networks(connection)
        if not networks:
            return None
        shards = records.read_shards(connection)
        zones = [
            Zone(
                item.bridge,
                item.subnet,
                item.internal,
                item.subnet6,
                item.options.icc,
                item.options.masquerade,
                tuple(
                    addresses.shard_name(self._root, item.name, shard) for shard in shards.get(item.name, ())
                ),
            )
            for item in networks.values()
            if item.is_bridge
        ]
        rows = records.read_active_ports(connection)
        return contents.contents(zones, self._publications(connection, rows))

    def _publications(
        self, connection: sqlite3.Connection, rows: Sequence[tuple[str, str, PortBinding]]
    ) -> list[Publication]:
        """Who is ready is asked only of those that share a port, or have a readiness probe: these get nothing
        while it says no, whoever else is there."""
        users: dict[tuple[str, str, str], set[str]] = {}
        for container, _, port in rows:
            users.setdefault(port_of(port.host_ip, port.protocol, port.host_port), set()).add(container)
        shared = {container for sharing in users.values() if len(sharing) > 1 for container in sharing}
        choosy = records.read_choosy(connection)
        asked = shared | (choosy & {row[0] for row in rows})
        ready = {container: self._is_ready(container) for container in asked}
        targets = _targets(connection, {row[0] for row in rows})
        return [
            Publication(
                port.host_ip,
                port.host_port,
                port.protocol,
                targets[container][0],
                port.container_port,
                targets[container][1],
                ready.get(container, True),
            )
            for container, _, port in rows
            if container not in choosy or ready[container]
        ]

    def defects(self, networks: Collection[NetworkRecord], forward: str) -> tuple[Defect, ...]:
        """How the firewall and the settings of forwarding differ from what the records want. `forward` is
        net.ipv4.ip_forward as it was read."""
        busy, begun = self._half_done()
        wall = () if busy else self._firewall.check()
        if busy or (wall and self._half_done()[1] != begun):
            return ()
        networks = tuple(networks)
        if forward != "1" and networks:
            wall += (Defect("forwarding", "net.ipv4.ip_forward is 0: containers cannot reach the network"),)
        if any(record.subnet6 for record in networks) and links.read_sysctl(IP6_FORWARD) != "1":
            text = "net.ipv6.conf.all.forwarding is 0: containers cannot reach the network by IPv6"
            wall += (Defect("forwarding", text),)
        six = [item.bridge for item in networks if item.subnet6 and item.is_bridge]
        return wall + tuple(Defect("forwarding", text) for text in loopback.missing(self._table, six))


class _Others:
    """Who else has ports of this host, looked up once and only when asked: programs, and the containers of
    other state directories."""

    def __init__(self, table: str) -> None:
        self._table = table

    @cached_property
    def _listeners(self) -> list[ports.Listener]:
        return listening.listeners()

    @cached_property
    def _elsewhere(self) -> list[tuple[str, str]]:
        return firewall.published_elsewhere(self._table)

    def taker(self, binding: PortBinding) -> tuple[str, str] | None:
        """(what has happened to the port, what to do)"""
        listener = ports.conflict(binding, self._listeners)
        if listener is not None:
            who = listening.owner(listener.inode) or "a program of the host"
            return f"used by {who}", "stop it or publish on another port"
        for family, table in self._elsewhere:
            if firewall.publishes(family, table, binding):
                return "published by another state directory", f"its nftables table is {table}"
        return None


def _asked(row: PortRow) -> PortBinding:
    """The binding that was asked for, from its text (str of PortBinding)."""
    host = row.asked.removesuffix(f":{row.binding.container_port}/{row.binding.protocol}").rpartition(":")[2]
    first, _, last = host.partition("-")
    return replace(row.binding, host_port=int(first), host_end=int(last or 0))


def _targets(connection: sqlite3.Connection, ids: Collection[str]) -> dict[str, tuple[str, str]]:
    """Id -> (IPv4 address, IPv6 address) that published ports lead to; empty where there is none."""
    found = {}
    networks, leases_of = records.snapshot(connection, containers=sorted(ids) if len(ids) < FEW else ())
    held = by_container(leases_of)
    for id in ids:
        leases = held.get(id, [])
        four = published_on(leases, networks)
        six = published_on([lease for lease in leases if lease.address6], networks)
        found[id] = (four.address if four else "", six.address6 if six else "")
    return found


def _name(connection: sqlite3.Connection, id: str) -> str:
    row = connection.execute("SELECT name FROM endpoints WHERE container = ?", (id,)).fetchone()
    return id if row is None else str(row["name"])


def _drained_for(mark: Path) -> float:
    """Seconds since the first call for this mark, which is made if it is not there."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    try:
        return max(0.0, now - float(read_regular(mark)))
    except (OSError, ValueError):
        pass
    try:
        write_atomically(mark, repr(now).encode(), durable=False)
    except OSError:  # a full disk: it begins anew after a kill
        pass
    return 0.0
