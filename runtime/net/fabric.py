"""Effects: the networks of one state directory and the containers on them; the door of this room.

What should be is in the database (networks, leases, ports, which containers are up), what is comes from the
kernel in one netlink dump and, when anything touched nftables, one listing. Every method is an ensure and
thread-safe. Bridges, veth pairs and the table carry a hash of the root in their names: two roots never meet.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runtime import events
from runtime.database import Database
from runtime.faults import Fault, faults, from_oserror
from runtime.net import addresses, defects, endpoints, leases, links, records, straight, ways
from runtime.net.bridges import Bridges, link_fault
from runtime.net.defects import interfaces
from runtime.net.dns.service import NameService
from runtime.net.files import Files
from runtime.net.netlink import Netlink
from runtime.net.publishing import IP6_FORWARD, IP_FORWARD, Publishing
from runtime.net.records import (
    NET_SCHEMA,
    Lease,
    NetworkRecord,
    by_container,
    by_network,
    way_out,
    way_out6,
)
from runtime.net.sentry import Sentry, ways_of, ways_to
from runtime.observations import Defect, ObservedNetwork
from runtime.paths import Paths
from runtime.shim import client
from runtime.wishes import Attachment, ContainerRequest, NetworkRequest
from specs.values import PortBinding

__all__ = ["NET_SCHEMA", "Fabric", "NetObservation"]

DEFAULT_POOL = "10.88.0.0/16"
_COUNTERS = (  # host's end: what it receives, the container has sent
    "tx_packets",
    "rx_packets",
    "tx_bytes",
    "rx_bytes",
    "tx_errors",
    "rx_errors",
    "tx_dropped",
    "rx_dropped",
)


@dataclass(frozen=True, slots=True)
class NetObservation:
    """How networks, containers (by id, those that are up) and the firewall differ from their records."""

    networks: list[ObservedNetwork]
    containers: dict[str, tuple[Defect, ...]]
    firewall: tuple[Defect, ...]
    addresses: dict[str, tuple[tuple[str, str], ...]]  # by id: (network, address)
    strays: frozenset[str]  # links with our mark that no record knows
    names_pid: int = 0  # of the name server
    ports: Mapping[str, tuple[PortBinding, ...]] = field(default_factory=dict)  # by id, as published


class Fabric:
    """The networks of one root, in the network namespace of this process. See the module's docstring."""

    def __init__(
        self,
        paths: Paths,
        database: Database,
        *,
        pool: str = DEFAULT_POOL,
        pool6: str = "",
        service: NameService | None = None,
        shortcut: bool = False,
    ) -> None:
        """`shortcut`: of the host's own connections, for the process that stays (shortcut.py)."""
        self._paths = paths
        self._database = database
        self._root = str(paths.root.resolve())
        self._marks = (addresses.bridge_prefix(self._root), addresses.link_prefix(self._root))
        self._bridges = Bridges(database, self._root, pool, pool6)
        self._publishing = Publishing(
            database,
            self._root,
            paths.run / "firewall.json",
            lambda id: _is_ready(paths.live(id)),
            shortcut=shortcut,
        )
        self._files = Files(paths, database, service)
        self._sentry = Sentry(addresses.table_name(self._root), self._marks[0], paths.netns)

    def close(self) -> None:
        """The networks stay."""
        self._publishing.close()

    # ------------------------------------------------------------ networks

    def create_network(self, request: NetworkRequest) -> None:
        """Record and bridge. Faults subnet-overlap, address-exhausted, network-in-use, request-invalid."""
        self._publishing.changing()
        self._bridges.create(request)
        self.publish()
        self._files.tell_networks()
        driver = request.options.driver
        events.tell(self._paths.root, "network", "create", request.name, request.name, driver=driver)

    def repair_network(self, name: str) -> None:
        """Bridge, its address and settings, and the ports of members that are up; no process is touched."""
        record = self._bridges.repair(name)
        if record.is_bridge:
            with faults("repair network", name):
                ways.mend_host(ways_to(record))
        self.publish()
        if any(item.active for item in records.read_leases(self._database.read(), networks=[name])):
            self._files.tell_networks()
            self._files.ensure_served(record.gateway)

    def remove_network(self, name: str) -> None:
        """Repeatable. Fault network-in-use while containers have leases on it."""
        self._publishing.changing()
        self._bridges.remove(name)
        self.publish()
        self._files.tell_networks()
        events.tell(self._paths.root, "network", "destroy", name, name)

    def networks(self) -> list[NetworkRecord]:
        return list(records.read_networks(self._database.read()).values())

    # ------------------------------------------------------------ leases

    def reserve(
        self,
        connection: sqlite3.Connection,
        id: str,
        container_name: str,
        networks: Sequence[Attachment],
        ports: Sequence[PortBinding],
        service: str = "",
    ) -> None:
        """An address on each network and the rows of the ports, in the caller's transaction. Repeatable.
        Containers of one service may have the same ports.

        Faults network-not-found, address-exhausted, address-taken, request-invalid, port-taken.
        """
        leases.reserve(connection, id, container_name, networks)
        records.set_service(connection, id, service)
        self._publishing.set_ports(connection, id, container_name, ports)

    def release(self, connection: sqlite3.Connection, id: str) -> None:
        """Forget the container: leases and ports, in the caller's transaction."""
        records.delete_endpoint(connection, id)

    def set_ports(
        self, connection: sqlite3.Connection, id: str, container_name: str, ports: Sequence[PortBinding]
    ) -> None:
        """Exactly these ports from the next `publish` on. Faults request-invalid, port-taken."""
        self._publishing.set_ports(connection, id, container_name, ports)

    def settle(
        self,
        connection: sqlite3.Connection,
        id: str,
        container_name: str,
        before: Sequence[Attachment],
        after: Sequence[Attachment],
    ) -> list[Lease]:
        """Lead the leases from one list of networks to another, in the caller's transaction. What comes back
        goes to `drop_links` after it; then `attach` makes what is new. Faults as `reserve`."""
        self._publishing.changing(id)
        return leases.settle(connection, id, container_name, before, after)

    def rejoin(
        self, connection: sqlite3.Connection, id: str, container_name: str, networks: Sequence[Attachment]
    ) -> None:
        """Addresses on those of these networks where it has none; its ports stay as they are."""
        self._publishing.changing(id)
        leases.reserve(connection, id, container_name, networks)

    def reserve_one(
        self, connection: sqlite3.Connection, id: str, container_name: str, attachment: Attachment
    ) -> None:
        """An address on one more network. Fault request-invalid where it is on it already. As `reserve`."""
        held = records.read_leases(connection, container=id)
        if any(lease.network == attachment.network for lease in held):
            cause = f"it is on network {attachment.network} already"
            raise Fault("request-invalid", "connect container", container_name, cause)
        self._publishing.changing(id)
        leases.reserve(connection, id, container_name, [attachment])

    def leave(self, connection: sqlite3.Connection, id: str, network: str) -> list[Lease]:
        """Give up the lease on one network. Returns it, for `drop_links`; empty when there is none."""
        held = records.read_leases(connection, container=id)
        self._publishing.changing(id)
        records.delete_lease(connection, id, network)
        return [lease for lease in held if lease.network == network]

    def drop_links(self, gone: Sequence[Lease], netns: Path) -> None:
        """The links of leases that are not there any more, or that get another name. Repeatable."""
        networks = records.read_networks(self._database.read())
        try:
            for lease in gone:
                if lease.network in networks and not networks[lease.network].is_bridge:
                    endpoints.remove_inside(lease.inside, netns)
            hosts = [addresses.link_name(self._root, lease.container, lease.network) for lease in gone]
            links.delete_links(hosts)
        except OSError as error:
            raise from_oserror(error, "detach container", gone[0].name) from error

    def addresses(self, id: str) -> list[tuple[str, str]]:
        """(network, address), the first one is eth0."""
        held = records.read_leases(self._database.read(), container=id)
        return [(lease.network, lease.address) for lease in held]

    # ------------------------------------------------------------ ports

    def check_ports(self, id: str) -> None:
        """Fault port-taken when a container that is up, or a program of the host, has one of its ports;
        request-invalid when one is for an address that the host does not have.
        """
        self._publishing.check_ports(id)

    def activate(self, id: str) -> None:
        """The container is up: its ports are wanted from now on, `publish` brings them. Fault port-taken."""
        self._publishing.activate(id)

    def deactivate(self, id: str) -> None:
        """The container is down: its ports are not wanted any more."""
        self._publishing.deactivate(id)

    def rename(self, connection: sqlite3.Connection, id: str, name: str) -> None:
        """It is called `name` in messages; peers know it by the names that it had."""
        records.rename_endpoint(connection, id, name)

    def leave_names(self, id: str) -> None:
        """The container is about to be stopped: by a name that others have as well only they are found."""
        self._files.leave(id)

    def drain(self, id: str, netns: Path, seconds: float) -> bool:
        """Wait until no client is connected to one of its published ports any more. Returns whether that came
        about in time."""
        return self._publishing.drain(id, netns, seconds)

    def is_shared(self, id: str) -> bool:
        """Whether another container that is up answers on one of its ports."""
        return self._publishing.is_shared(id)

    def publish(self, *, only: str = "", force: bool = False) -> None:
        """Make the table and the settings of forwarding as the records want them.

        `only` names a container: nothing but its ports differ from what they were. `force` reads everything
        back first, and raises where a table of somebody else drops our packets. Fault firewall-failed.
        """
        self._publishing.publish(only=only, force=force)
        if not records.any_network(self._database.read()):
            self._files.tell_networks()

    # ------------------------------------------------------------ containers

    def attach(self, id: str, netns: Path) -> None:
        """Make or mend the container's links in the namespace bound at `netns`, while it runs or not."""
        connection = self._database.read()
        networks, held = records.snapshot(connection, container=id)
        hairpin = links.hairpin_needed()
        outward, outward6 = way_out(held, networks), way_out6(held, networks)
        if any(links.index_of(addresses.link_name(self._root, id, lease.network)) for lease in held):
            with faults("mend routes of container", held[0].name):  # a default route stands on another
                ways.mend_inside(netns, ways_of(held, networks))
        for lease in held:
            record = networks[lease.network]
            endpoint = self._endpoint(lease, record, lease is outward, lease is outward6)
            try:
                if record.is_bridge and not links.index_of(endpoint.bridge):
                    self._bridges.ensure(record, "attach container")
                    self.publish()
                endpoints.ensure_endpoint(endpoint, netns, hairpin=hairpin)
            except OSError as error:
                raise link_fault(error, "attach container", f"{lease.name} to {lease.network}") from error

    def _endpoint(self, lease: Lease, record: NetworkRecord, out: bool, out6: bool) -> endpoints.Endpoint:
        options = record.options
        bridge = options.parent or addresses.shard_name(self._root, record.name, lease.shard)
        return endpoints.Endpoint(
            host=addresses.link_name(self._root, lease.container, lease.network),
            bridge=bridge,
            inside=lease.inside,
            addresses=tuple(interfaces(lease, record)),
            mac=lease.mac,
            mtu=record.mtu,
            gateway=record.gateway if out else "",
            gateway6=record.gateway6 if out6 else "",
            isolated=not options.icc,
            macvlan="" if record.is_bridge else options.mode or "bridge",
            bridge_mac=record.gateway_mac(lease.shard),
        )

    def detach(self, id: str) -> None:
        """The container's links go, whether its namespace lives or not. Repeatable."""
        held = records.read_leases(self._database.read(), container=id)
        self.drop_links(held, self._paths.netns(id))

    # ------------------------------------------------------------ files

    def lay_files(self, directory: Path) -> None:
        """The files that `write_files` fills are there, and may be mounted."""
        self._files.lay(directory)

    def write_files(self, id: str, request: ContainerRequest, directory: Path) -> None:
        """hosts, hostname and resolv.conf of the container, in place where they exist; its names."""
        self._files.write(id, request, directory)

    def tell(self, id: str, request: ContainerRequest) -> None:
        """Make known what a container that is up is called now."""
        self._files.tell(id, request)

    # ------------------------------------------------------------ look

    def observe(self, *, ask: bool = True) -> NetObservation:
        """One dump of links and addresses, one listing of nftables if anything touched it. Without `ask`
        nothing is waited for: what the name server hears is as it was known."""
        connection = self._database.read()
        try:
            found, given = links.links(), links.addresses()
            networks, held = records.snapshot(connection)
            settings = self._sentry.settings(_settings(networks.values()))
            forward = links.read_sysctl(IP_FORWARD)
            names = self._files.network_defects(connection, ask=ask)
            members = by_network(held)
            observed = [
                _observed(
                    record,
                    members.get(record.name, ()),
                    self._network_defects(record, members.get(record.name, ()), found, given)
                    + names.get(record.name, ()),
                )
                for record in networks.values()
            ]
            containers = self._container_defects(held, networks, found)
            self._look_inside(containers, held, networks, found)
        except OSError as error:
            raise from_oserror(error, "observe", "networks") from error
        wall = self._publishing.defects(networks.values(), forward)
        server = self._files.server_pid()
        if server and not networks:
            wall += (Defect("names", "the name server is left, though there is no network"),)
        given_to = {
            id: tuple(
                (lease.network, address)
                for lease in leases
                for address in (lease.address, lease.address6)
                if address
            )
            for id, leases in by_container(held).items()
        }
        ours = self._ours(networks.values(), held)
        strays = frozenset(name for name in found if name.startswith(self._marks) and name not in ours)
        self._sentry.expect(found, ours, settings)
        published = records.ports_by_container(connection)
        return NetObservation(observed, containers, wall, given_to, strays, server, published)

    def _ours(self, networks: Iterable[NetworkRecord], held: Iterable[Lease]) -> frozenset[str]:
        """Names of the links that records know; others with our marks are strays. Links must have been listed
        before the records were read: a lease is made before its link, and who is about to remove something
        reads in a transaction, which waits for that of a new network."""
        kept = {addresses.link_name(self._root, item.container, item.network) for item in held}
        kept |= {record.bridge for record in networks if record.is_bridge}
        for network, shard in {(item.network, item.shard) for item in held if item.shard}:
            kept |= {addresses.shard_name(self._root, network, shard)}
            kept |= {*addresses.uplink_names(self._root, network, shard)}
        return frozenset(kept)

    def _network_defects(
        self,
        record: NetworkRecord,
        members: Sequence[Lease],
        found: Mapping[str, links.Link],
        given: Mapping[int, set[str]],
    ) -> tuple[Defect, ...]:
        if not record.is_bridge:
            return defects.parent_defects(record, found)
        wrong = defects.bridge_defects(record, found, given)
        if not wrong:
            lost = ways.lost_by_host(ways_to(record)).get(record.bridge, [])
            wrong = tuple(Defect("route", text) for text in lost)
        for shard in sorted({lease.shard for lease in members if lease.shard}):
            name = addresses.shard_name(self._root, record.name, shard)
            ends = addresses.uplink_names(self._root, record.name, shard)
            wrong += defects.shard_defects(record, name, ends, found)
        return wrong

    def _container_defects(
        self, held: Sequence[Lease], networks: Mapping[str, NetworkRecord], found: Mapping[str, links.Link]
    ) -> dict[str, tuple[Defect, ...]]:
        hairpin = links.hairpin_needed()
        crooked = self._crooked(held, networks, found)
        wrongs: dict[str, tuple[Defect, ...]] = {}
        with links.Inside() as inside:
            for lease in held:
                if not lease.active:
                    continue
                record = networks[lease.network]
                if record.is_bridge:
                    name = addresses.link_name(self._root, lease.container, lease.network)
                    bridge = found.get(addresses.shard_name(self._root, lease.network, lease.shard))
                    wrong = defects.link_defects(lease, record, found.get(name), bridge, hairpin, crooked)
                    if not wrong:
                        wrong = defects.address_defects(lease, record, inside.addresses(found[name]))
                else:
                    link, given = endpoints.look(lease.inside, self._paths.netns(lease.container))
                    wrong = defects.macvlan_defects(lease, record, link, given, found)
                wrongs[lease.container] = wrongs.get(lease.container, ()) + wrong
        for id, wrong in self._files.defects().items():
            wrongs[id] = wrongs.get(id, ()) + wrong
        return wrongs

    def _crooked(
        self, held: Sequence[Lease], networks: Mapping[str, NetworkRecord], found: Mapping[str, links.Link]
    ) -> frozenset[int]:
        """The indexes of ports that lack what straight.py gives them."""
        led = [item for item in held if item.active and not item.shard and networks[item.network].is_bridge]
        names = [addresses.link_name(self._root, item.container, item.network) for item in led]
        ports = [found[name].index for name in names if name in found]
        if not ports:
            return frozenset()
        with Netlink() as netlink:
            return straight.lost(netlink, ports) | self._sentry.loosened()

    def _look_inside(
        self,
        containers: dict[str, tuple[Defect, ...]],
        held: Sequence[Lease],
        networks: Mapping[str, NetworkRecord],
        found: Mapping[str, links.Link],
    ) -> None:
        """Add what is wrong with loopback and routes of those that have no other defect."""
        for id, own in by_container(held).items():
            whole = all(networks[item.network].has_ground(found) for item in own)
            if own[0].active and whole and not containers.get(id):
                ends = [found.get(addresses.link_name(self._root, id, item.network)) for item in own]
                containers[id] = self._sentry.inside(own, networks, ends)
        self._sentry.forget(containers)

    def watch(self, heard: Callable[[], None]) -> Callable[[], None]:
        """`heard` is called, in a thread of its own, soon after something of ours was changed in the kernel,
        by whomever, from the next look on. Returns what ends it. Raises OSError where the kernel tells
        nobody."""
        self._files.renew_server()
        return self._sentry.watch(heard)

    def counters(self) -> dict[str, dict[str, int]]:
        """Traffic of the containers that are up, as they see it: keys are fields of interface.Sample."""
        counted: dict[str, dict[str, int]] = {}
        for (container, _), found in self.traffic().items():
            sums = counted.setdefault(container, dict.fromkeys(_COUNTERS, 0))
            for key, value in found.items():
                sums[key] += value
        return counted

    def traffic(self) -> dict[tuple[str, str], dict[str, int]]:
        """The same by (container, network)."""
        found = links.links(stats=True)
        connection = self._database.read()
        networks, held = records.snapshot(connection)
        counted: dict[tuple[str, str], dict[str, int]] = {}
        for lease in held:
            stats: tuple[int, ...] = ()
            if networks[lease.network].is_bridge:
                host = found.get(addresses.link_name(self._root, lease.container, lease.network))
                stats = host.stats if host is not None else ()
            elif lease.active:
                netns = self._paths.netns(lease.container)
                link, _ = endpoints.look(lease.inside, netns, stats=True)
                stats = _turned(link.stats) if link is not None else ()
            if stats:
                counted[lease.container, lease.network] = dict(zip(_COUNTERS, stats, strict=True))
        return counted

    def sweep(self, known_ids: Collection[str]) -> list[str]:
        """Remove leases, links and bridges of ours that no record knows. Returns what was removed."""
        removed = []
        found = links.links()  # before the records: a lease is made before its link
        with self._database.write() as connection:
            known = {*known_ids, *(row[0] for row in connection.execute("SELECT id FROM containers"))}
            for id in records.read_endpoints(connection):
                if id not in known:
                    records.delete_endpoint(connection, id)
                    removed.append(f"leases of {id}")
            networks, held = records.snapshot(connection)
        ours = self._ours(networks.values(), held)
        strays = sorted(name for name in found if name.startswith(self._marks) and name not in ours)
        try:
            links.delete_links(strays)
        except OSError as error:
            raise from_oserror(error, "sweep", "links") from error
        self.publish()
        return removed + [f"link {name}" for name in strays]


def _is_ready(live: Path) -> bool:
    """Whether a container can take connections: it runs, and its probes, if it has some, have passed."""
    state = client.read_state(live)
    if state is None or state.phase != "running" or not state.ready:
        return False
    return state.health not in ("starting", "unhealthy")


def _observed(record: NetworkRecord, members: Sequence[Lease], wrong: tuple[Defect, ...]) -> ObservedNetwork:
    return ObservedNetwork(
        name=record.name,
        source=record.source,
        fingerprint=record.fingerprint,
        bridge=record.bridge if record.is_bridge else record.options.parent,
        subnet=record.subnet,
        gateway=record.gateway,
        members=tuple(lease.name for lease in members),
        defects=wrong,
        labels=json.loads(record.labels),
        subnet6=record.subnet6,
        gateway6=record.gateway6,
    )


def _settings(networks: Iterable[NetworkRecord]) -> list[str]:
    """Below /proc/sys/net: of which the kernel tells nobody when somebody changes them, or not always."""
    found = []
    for record in networks:
        if record.is_bridge:
            found += [f"ipv4/conf/{record.bridge}/route_localnet"]
            found += [f"ipv6/conf/{record.bridge}/disable_ipv6", IP6_FORWARD] if record.subnet6 else []
    return [IP_FORWARD, links.BRIDGED_HOOKS, *dict.fromkeys(found)] if found else []


def _turned(stats: tuple[int, ...]) -> tuple[int, ...]:
    """What the other end of a link would count: received and sent stand side by side."""
    return tuple(stats[at ^ 1] for at in range(len(stats)))
