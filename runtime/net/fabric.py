"""Effects: the networks of one state directory and the containers on them; the door of this room.

What should be is in the database (networks, leases, ports, which containers are up), what is comes from the
kernel in one netlink dump and, when anything touched nftables, one listing. Every method is an ensure and
thread-safe. Bridges, veth pairs and the table carry a hash of the root in their names: two roots never meet.
"""

from __future__ import annotations

import errno
import json
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from pathlib import Path
from typing import TypeVar

from runtime.database import Database
from runtime.faults import Fault, from_oserror
from runtime.interface import Attachment, ContainerRequest, Defect, NetworkRequest, ObservedNetwork
from runtime.net import addresses, defects, firewall, links, ports, records
from runtime.net.dns.service import NameService
from runtime.net.files import Files
from runtime.net.records import NET_SCHEMA, Lease, NetworkRecord, by_container, way_out
from runtime.paths import Paths
from specs.values import PortBinding

__all__ = ["NET_SCHEMA", "Fabric", "NetObservation"]

T = TypeVar("T")

DEFAULT_POOL = "10.88.0.0/16"
IP_FORWARD = "ipv4/ip_forward"
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
    addresses: dict[str, tuple[tuple[str, str], ...]]  # by id: (network, address), the first one is eth0
    strays: frozenset[str]  # links with our mark that no record knows
    names_pid: int = 0  # of the name server


class Fabric:
    """The networks of one root, in the network namespace of this process. See the module's docstring."""

    def __init__(
        self,
        paths: Paths,
        database: Database,
        *,
        pool: str = DEFAULT_POOL,
        service: NameService | None = None,
    ) -> None:
        self._paths = paths
        self._database = database
        self._pool = IPv4Network(pool)
        self._root = str(paths.root.resolve())
        self._table = addresses.table_name(self._root)
        self._firewall = firewall.Firewall(self._table, paths.run / "firewall.json", self._wanted)
        self._creating = threading.Lock()
        self._files = Files(paths, database, service)

    def close(self) -> None:
        """Nothing is held open between calls."""

    # ------------------------------------------------------------ networks

    def create_network(self, request: NetworkRequest) -> None:
        """Record and bridge. Faults subnet-overlap, address-exhausted, network-in-use, request-invalid."""
        # Others see by its bridge only that a subnet is taken, so the record is not there before it; a bridge
        # that a crash leaves without a record is swept.
        with self._creating, links.alone(), self._database.write():
            record = self._recorded(request)
            self._bridge(record, "create network")
        self.publish()
        self._files.tell_networks()

    def _recorded(self, request: NetworkRequest) -> NetworkRecord:
        """The row for the request: the one that is there where nothing of weight differs, else a new one."""
        with self._database.write() as connection:
            old = records.read_network(connection, request.name)
            new = self._planned(connection, request, old)
            if old is not None and _shape(old) != _shape(new):
                members = [item.name for item in records.read_leases(connection, networks=[request.name])]
                if members:
                    raise _in_use("change network", request.name, members)
            if old is not None and _shape(old) == _shape(new):
                new = replace(new, last=old.last)
            if new != old:
                records.write_network(connection, new)
        return new

    def _planned(
        self, connection: sqlite3.Connection, request: NetworkRequest, old: NetworkRecord | None
    ) -> NetworkRecord:
        bridge = addresses.bridge_name(self._root, request.name)
        others = [
            item.net for name, item in records.read_networks(connection).items() if name != request.name
        ]
        if request.subnet:
            subnet = _valid(addresses.parse_subnet, request, request.subnet)
        elif old is not None:
            subnet = old.net
        else:
            free = addresses.free_subnet(self._pool, others + self._routes(bridge))
            if free is None:
                cause, hint = f"the pool {self._pool} has no free subnet", "widen the node's pool"
                raise Fault("address-exhausted", "create network", request.name, cause, hint)
            subnet = free
        if old is None or subnet != old.net:
            other = addresses.overlapping(subnet, others + self._routes(bridge))
            if other is not None:
                cause, hint = f"{subnet} overlaps {other}", "choose another subnet, or leave it out"
                raise Fault("subnet-overlap", "create network", request.name, cause, hint)
        gateway = _valid(lambda text: addresses.parse_gateway(text, subnet), request, request.gateway)
        return NetworkRecord(
            name=request.name,
            source=request.source,
            fingerprint=request.fingerprint,
            bridge=bridge,
            subnet=str(subnet),
            gateway=str(gateway),
            internal=request.internal,
            mtu=request.mtu or (old.mtu if old is not None else links.default_mtu()),
            labels=records.encode_labels(request.labels),
        )

    def _routes(self, bridge: str) -> list[IPv4Network]:
        own = links.index_of(bridge)
        return [network for network, index in links.routes() if not own or index != own]

    def repair_network(self, name: str) -> None:
        """Bridge, its address and settings, and the ports of members that are up; no process is touched."""
        record = self._network(self._database.read(), name, "repair network")
        with self._creating, links.alone():
            self._bridge(record, "repair network")
        leases = records.read_leases(self._database.read(), networks=[name])
        hosts = [addresses.link_name(self._root, item.container, name) for item in leases]
        try:
            links.enslave(record.bridge, hosts, hairpin=links.hairpin_needed())
        except OSError as error:
            raise from_oserror(error, "repair network", name) from error
        self.publish()
        if any(item.active for item in leases):
            self._files.tell_networks()
            self._files.ensure_served(record.gateway)

    def remove_network(self, name: str) -> None:
        """Repeatable. Fault network-in-use while containers have leases on it."""
        with self._creating:
            with self._database.write() as connection:
                leases = records.read_leases(connection, networks=[name])
                if leases:
                    raise _in_use("remove network", name, [item.name for item in leases])
                try:  # the bridge before its record, so that a crash leaves nothing that no record knows
                    links.delete_links([addresses.bridge_name(self._root, name)])
                except OSError as error:
                    raise from_oserror(error, "remove network", name) from error
                records.delete_network(connection, name)
        self.publish()
        self._files.tell_networks()

    def networks(self) -> list[NetworkRecord]:
        return list(records.read_networks(self._database.read()).values())

    def _bridge(self, record: NetworkRecord, operation: str) -> None:
        """The caller is alone (links.alone). Fault subnet-overlap: a bridge that is gone may have lost its
        subnet to another state directory or to the host, which saw that it was free.
        """
        if not links.index_of(record.bridge):
            other = addresses.overlapping(record.net, self._routes(record.bridge))
            if other is not None:
                cause = f"{record.subnet} overlaps {other}, which another interface of this host has now"
                raise Fault("subnet-overlap", operation, record.name, cause, "free it, or remove the network")
        mac = addresses.mac_of(record.gateway)
        bridge = links.Bridge(record.bridge, record.gateway_interface, mac, record.mtu)
        try:
            links.ensure_bridge(bridge)
        except OSError as error:
            raise _link_fault(error, operation, record.name) from error

    def _network(self, connection: sqlite3.Connection, name: str, operation: str) -> NetworkRecord:
        record = records.read_network(connection, name)
        if record is None:
            raise Fault("network-not-found", operation, name, "there is no network of this name")
        return record

    # ------------------------------------------------------------ leases

    def reserve(
        self,
        connection: sqlite3.Connection,
        id: str,
        container_name: str,
        networks: Sequence[Attachment],
        ports: Sequence[PortBinding],
    ) -> None:
        """An address on each network and the rows of the ports, in the caller's transaction. Repeatable.

        Faults network-not-found, address-exhausted, address-taken, request-invalid.
        """
        records.write_endpoint(connection, id, container_name)
        held = {lease.network: lease for lease in records.read_leases(connection, container=id)}
        for position, attachment in enumerate(networks):
            if attachment.network not in held:
                self._lease(connection, id, container_name, position, attachment)
        self.set_ports(connection, id, container_name, ports)

    def _lease(
        self,
        connection: sqlite3.Connection,
        id: str,
        name: str,
        position: int,
        attachment: Attachment,
    ) -> None:
        record = self._network(connection, attachment.network, "attach container to network")
        taken = records.taken_addresses(connection, record.name)
        if attachment.ipv4_address:
            address = _static(attachment, record, name, taken)
        else:
            last = IPv4Address(record.last) if record.last else None
            found = addresses.next_address(record.net, IPv4Address(record.gateway), taken, last)
            if found is None:
                cause = f"network {record.name} ({record.subnet}) has no free address"
                raise Fault("address-exhausted", "attach container", name, cause, "use a larger subnet")
            address = found
            records.set_last(connection, record.name, str(address))
        mac = attachment.mac_address or addresses.mac_of(address)
        lease = Lease(record.name, str(address), id, name, position, mac, attachment.aliases, False)
        records.write_lease(connection, lease)

    def release(self, connection: sqlite3.Connection, id: str) -> None:
        """Forget the container: leases and ports, in the caller's transaction."""
        records.delete_endpoint(connection, id)

    def set_ports(
        self, connection: sqlite3.Connection, id: str, container_name: str, ports: Sequence[PortBinding]
    ) -> None:
        """Exactly these ports from the next `publish` on. Faults request-invalid, port-taken."""
        for binding in ports:
            if ":" in binding.host_ip and binding.host_ip != "::":
                cause = f"port {binding} has an IPv6 address, which is not supported yet"
                raise Fault("request-invalid", "publish ports of", container_name, cause)
        before = records.read_ports(connection, id)
        records.write_ports(connection, id, ports)
        if records.is_active(connection, id):
            self._check(connection, id, container_name, [item for item in ports if item not in before])

    def set_aliases(self, connection: sqlite3.Connection, id: str, networks: Sequence[Attachment]) -> None:
        """The aliases of the networks that it is on; `tell` makes them known."""
        for item in networks:
            records.write_aliases(connection, id, item.network, item.aliases)

    def addresses(self, id: str) -> list[tuple[str, str]]:
        """(network, address), the first one is eth0."""
        leases = records.read_leases(self._database.read(), container=id)
        return [(lease.network, lease.address) for lease in leases]

    # ------------------------------------------------------------ ports

    def check_ports(self, id: str) -> None:
        """Fault port-taken when a container that is up, or a program of the host, has one of its ports;
        request-invalid when one is for an address that the host does not have.
        """
        connection = self._database.read()
        self._check(connection, id, _name(connection, id), records.read_ports(connection, id))

    def _check(
        self, connection: sqlite3.Connection, id: str, name: str, bindings: Sequence[PortBinding]
    ) -> None:
        self._check_rows(connection, id, name, bindings)
        if not bindings:
            return
        for binding in bindings:
            if binding.host_ip not in ports.ANY and not ports.is_local(binding.host_ip):
                cause = f"port {binding} is for {binding.host_ip}, which is no address of this host"
                raise Fault("request-invalid", "publish ports of", name, cause, "leave the address out")
        listening = ports.listeners()
        for binding in bindings:
            listener = ports.conflict(binding, listening)
            if listener is not None:
                who = ports.owner(listener.inode) or "a program of the host"
                cause = f"port {binding.host_port}/{binding.protocol} is used by {who}"
                hint = "stop it or publish on another port"
                raise Fault("port-taken", "publish ports of", name, cause, hint)
        for table, theirs in firewall.published_elsewhere(self._table):
            if any(ports.overlap(binding, theirs) for binding in bindings):
                cause = f"port {theirs.host_port}/{theirs.protocol} is published by another state directory"
                hint = f"its nftables table is {table}"
                raise Fault("port-taken", "publish ports of", name, cause, hint)

    def _check_rows(
        self, connection: sqlite3.Connection, id: str, name: str, bindings: Iterable[PortBinding]
    ) -> None:
        for binding in bindings:
            for other, theirs in records.same_port_rows(connection, id, binding):
                if ports.overlap(binding, theirs):
                    cause = f"port {binding.host_port}/{binding.protocol} is used by container {other}"
                    raise Fault("port-taken", "publish ports of", name, cause)

    def activate(self, id: str) -> None:
        """The container is up: its ports are wanted from now on, `publish` brings them. Fault port-taken."""
        with self._database.write() as connection:
            if records.is_active(connection, id):
                return
            bindings = records.read_ports(connection, id)
            self._check_rows(connection, id, _name(connection, id), bindings)
            records.set_active(connection, id, True)

    def deactivate(self, id: str) -> None:
        """The container is down: its ports are not wanted any more."""
        if not records.is_active(self._database.read(), id):
            return
        with self._database.write() as connection:
            records.set_active(connection, id, False)

    def publish(self, *, force: bool = False) -> None:
        """Make the table and the settings of forwarding as the records want them.

        Callers at one time share one transaction. `force` reads everything back first, and raises where
        a table of somebody else drops our packets. Fault firewall-failed.
        """
        self._firewall.publish(force=force)
        networks = records.read_networks(self._database.read())
        if not networks:
            self._files.tell_networks()
            return
        try:
            links.write_sysctl(IP_FORWARD, "1")
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

    def _wanted(self) -> firewall.Contents | None:
        connection = self._database.read()
        networks = records.read_networks(connection)
        if not networks:
            return None
        zones = [firewall.Zone(item.bridge, item.subnet, item.internal) for item in networks.values()]
        published = records.read_active_ports(connection)
        target: dict[str, str] = {}
        if published:
            for container, leases in by_container(records.read_leases(connection)).items():
                target[container] = (way_out(leases, networks) or leases[0]).address
        publications = [
            firewall.Publication(
                "" if port.host_ip in ports.ANY else port.host_ip,
                port.host_port,
                port.protocol,
                target[container],
                port.container_port,
            )
            for container, _, port in published
            if container in target
        ]
        return firewall.contents(zones, publications)

    # ------------------------------------------------------------ containers

    def attach(self, id: str, netns: Path) -> None:
        """Make or mend the container's links in the namespace bound at `netns`, while it runs or not."""
        connection = self._database.read()
        leases = records.read_leases(connection, container=id)
        networks = records.read_networks(connection)
        hairpin = links.hairpin_needed()
        outward = way_out(leases, networks)
        for lease in leases:
            record = networks[lease.network]
            endpoint = self._endpoint(lease, record, lease is outward)
            try:
                if not links.index_of(record.bridge):
                    with self._creating, links.alone():
                        self._bridge(record, "attach container")
                links.ensure_endpoint(endpoint, netns, hairpin=hairpin)
            except OSError as error:
                raise _link_fault(error, "attach container", f"{lease.name} to {lease.network}") from error

    def _endpoint(self, lease: Lease, record: NetworkRecord, way_out: bool) -> links.Endpoint:
        return links.Endpoint(
            host=addresses.link_name(self._root, lease.container, lease.network),
            bridge=record.bridge,
            position=lease.position,
            address=f"{lease.address}/{record.net.prefixlen}",
            mac=lease.mac,
            mtu=record.mtu,
            gateway=record.gateway if way_out else "",
        )

    def detach(self, id: str) -> None:
        """The container's links go, whether its namespace lives or not. Repeatable."""
        leases = records.read_leases(self._database.read(), container=id)
        hosts = [addresses.link_name(self._root, id, lease.network) for lease in leases]
        try:
            links.delete_links(hosts)
        except OSError as error:
            raise from_oserror(error, "detach container", id) from error

    # ------------------------------------------------------------ files

    def write_files(self, id: str, request: ContainerRequest, directory: Path) -> None:
        """hosts, hostname and resolv.conf of the container, in place where they exist; its names."""
        self._files.write(id, request, directory)

    def tell(self, id: str, request: ContainerRequest) -> None:
        """Make known what a container that is up is called now."""
        self._files.tell(id, request)

    # ------------------------------------------------------------ look

    def observe(self) -> NetObservation:
        """One dump of links and addresses, one listing of nftables if anything touched it."""
        connection = self._database.read()
        try:
            found, given = links.links(), links.addresses()
            networks, leases = records.read_networks(connection), records.read_leases(connection)
            forward = links.read_sysctl(IP_FORWARD)
            names = self._files.network_defects(connection)
            observed = [
                ObservedNetwork(
                    name=record.name,
                    source=record.source,
                    fingerprint=record.fingerprint,
                    bridge=record.bridge,
                    subnet=record.subnet,
                    gateway=record.gateway,
                    members=tuple(lease.name for lease in leases if lease.network == record.name),
                    defects=defects.bridge_defects(record, found, given) + names.get(record.name, ()),
                    labels=json.loads(record.labels),
                )
                for record in networks.values()
            ]
            containers = self._container_defects(leases, networks, found)
        except OSError as error:
            raise from_oserror(error, "observe", "networks") from error
        wall = self._firewall.check()
        if networks and forward != "1":
            wall += (Defect("forwarding", "net.ipv4.ip_forward is 0: containers cannot reach the network"),)
        server = self._files.server_pid()
        if server and not networks:
            wall += (Defect("names", "the name server is left, though there is no network"),)
        given_to = {
            id: tuple((lease.network, lease.address) for lease in held)
            for id, held in by_container(leases).items()
        }
        strays = self._strays(found, networks.values(), leases)
        return NetObservation(observed, containers, wall, given_to, strays, server)

    def _strays(
        self, found: Iterable[str], networks: Iterable[NetworkRecord], leases: Iterable[Lease]
    ) -> frozenset[str]:
        """The links must have been listed before the records were read: a lease is made before its link, and
        who is about to remove something reads in a transaction, which waits for that of a new network."""
        ours = (addresses.bridge_prefix(self._root), addresses.link_prefix(self._root))
        kept = {addresses.link_name(self._root, item.container, item.network) for item in leases}
        kept |= {record.bridge for record in networks}
        return frozenset(name for name in found if name.startswith(ours) and name not in kept)

    def _container_defects(
        self, leases: Sequence[Lease], networks: Mapping[str, NetworkRecord], found: Mapping[str, links.Link]
    ) -> dict[str, tuple[Defect, ...]]:
        hairpin = links.hairpin_needed()
        wrongs: dict[str, tuple[Defect, ...]] = {}
        with links.Inside() as inside:
            for lease in leases:
                if lease.active:
                    name = addresses.link_name(self._root, lease.container, lease.network)
                    bridge = found.get(networks[lease.network].bridge)
                    wrong = defects.link_defects(
                        lease, networks[lease.network], found.get(name), bridge, hairpin
                    )
                    if not wrong:
                        wrong = defects.address_defects(lease, networks[lease.network], inside, found[name])
                    wrongs[lease.container] = wrongs.get(lease.container, ()) + wrong
        for id, wrong in self._files.defects().items():
            wrongs[id] = wrongs.get(id, ()) + wrong
        return wrongs

    def counters(self) -> dict[str, dict[str, int]]:
        """Traffic of the containers that are up, as they see it: keys are fields of interface.Sample."""
        found = links.links(stats=True)
        counted: dict[str, dict[str, int]] = {}
        for lease in records.read_leases(self._database.read()):
            link = found.get(addresses.link_name(self._root, lease.container, lease.network))
            if link is not None and link.stats:
                sums = counted.setdefault(lease.container, dict.fromkeys(_COUNTERS, 0))
                for key, value in zip(_COUNTERS, link.stats, strict=True):
                    sums[key] += value
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
            networks, leases = records.read_networks(connection), records.read_leases(connection)
        strays = sorted(self._strays(found, networks.values(), leases))
        try:
            links.delete_links(strays)
        except OSError as error:
            raise from_oserror(error, "sweep", "links") from error
        self.publish()
        return removed + [f"link {name}" for name in strays]


# ---------------------------------------------------------------- decisions


def _shape(record: NetworkRecord) -> tuple[object, ...]:
    """What cannot change under members."""
    return (record.subnet, record.gateway, record.internal, record.mtu)


def _valid(parse: Callable[[str], T], request: NetworkRequest, text: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise Fault("request-invalid", "create network", request.name, str(error)) from None


def _static(
    attachment: Attachment, record: NetworkRecord, name: str, taken: Collection[IPv4Address]
) -> IPv4Address:
    """The address asked for. Faults request-invalid, address-taken."""
    try:
        address = IPv4Address(attachment.ipv4_address)
    except AddressValueError as error:
        raise Fault("request-invalid", "attach container", name, str(error).lower()) from None
    net = record.net
    if address not in net or address in (net.network_address, net.broadcast_address):
        cause = f"{address} is not a host address of network {record.name} ({net})"
        raise Fault("request-invalid", "attach container", name, cause)
    if address in taken or str(address) == record.gateway:
        who = "the gateway" if str(address) == record.gateway else "another container"
        cause = f"{address} on network {record.name} belongs to {who}"
        raise Fault("address-taken", "attach container", name, cause)
    return address


def _name(connection: sqlite3.Connection, id: str) -> str:
    row = connection.execute("SELECT name FROM endpoints WHERE container = ?", (id,)).fetchone()
    return id if row is None else str(row["name"])


def _in_use(operation: str, network: str, members: Sequence[str]) -> Fault:
    shown = ", ".join(sorted(members)[:5])
    return Fault("network-in-use", operation, network, f"used by {shown}", "remove its containers first")


def _link_fault(error: OSError, operation: str, subject: str) -> Fault:
    """A kernel without bridges or veth pairs gets a hint."""
    if error.errno in (errno.EOPNOTSUPP, errno.ENOTSUP):
        hint = "load the modules bridge and veth, or install the full kernel package"
        cause = "the kernel has no bridges or veth pairs"
        return Fault("kernel-unsupported", operation, subject, cause, hint)
    return from_oserror(error, operation, subject)
