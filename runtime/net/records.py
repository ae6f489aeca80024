"""Effects: rows of networks, address leases and published ports in the state database, read as values."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address
from itertools import count
from typing import Any

from runtime.net.addresses import KNOWN, mac_of
from runtime.requests import decode, encode
from runtime.wishes import NetworkOptions
from specs.values import PortBinding

NET_SCHEMA = """
CREATE TABLE IF NOT EXISTS networks (
    name        TEXT PRIMARY KEY,
    source      TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    bridge      TEXT NOT NULL,
    subnet      TEXT NOT NULL,
    gateway     TEXT NOT NULL,
    internal    INTEGER NOT NULL,
    mtu         INTEGER NOT NULL,
    labels      TEXT NOT NULL,
    last        TEXT NOT NULL DEFAULT '',
    subnet6     TEXT NOT NULL DEFAULT '',
    gateway6    TEXT NOT NULL DEFAULT '',
    last6       TEXT NOT NULL DEFAULT '',
    options     TEXT NOT NULL DEFAULT '{}',
    created     REAL NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS endpoints (
    container   TEXT PRIMARY KEY,
    name        TEXT NOT NULL,
    active      INTEGER NOT NULL DEFAULT 0,
    service     TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE IF NOT EXISTS leases (
    network     TEXT NOT NULL REFERENCES networks(name),
    address     TEXT NOT NULL,
    container   TEXT NOT NULL REFERENCES endpoints(container),
    position    INTEGER NOT NULL,
    mac         TEXT NOT NULL,
    aliases     TEXT NOT NULL,
    address6    TEXT NOT NULL DEFAULT '',
    priority    INTEGER NOT NULL DEFAULT 0,
    interface   TEXT NOT NULL DEFAULT '',
    link_local  TEXT NOT NULL DEFAULT '[]',
    shard       INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (network, address),
    UNIQUE (container, network)
) STRICT;
CREATE INDEX IF NOT EXISTS leases_by_address6 ON leases(network, address6);
CREATE INDEX IF NOT EXISTS leases_by_shard ON leases(network, shard);
CREATE TABLE IF NOT EXISTS published_ports (
    container       TEXT NOT NULL REFERENCES endpoints(container),
    host_ip         TEXT NOT NULL,
    host_port       INTEGER NOT NULL,
    container_port  INTEGER NOT NULL,
    protocol        TEXT NOT NULL,
    asked           TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (container, host_ip, host_port, protocol)
) STRICT;
CREATE INDEX IF NOT EXISTS published_ports_by_port ON published_ports(host_port, protocol);
"""


@dataclass(frozen=True, slots=True)
class NetworkRecord:
    """One row of `networks`. `last` was leased last: the next address is looked for after it.

    Without IPv6 `subnet6` and `gateway6` are empty. `created` is in seconds since the epoch."""

    name: str
    source: str
    fingerprint: str
    bridge: str
    subnet: str
    gateway: str
    internal: bool
    mtu: int
    labels: str
    last: str = ""
    subnet6: str = ""
    gateway6: str = ""
    last6: str = ""
    options: NetworkOptions = field(default_factory=NetworkOptions)
    created: float = 0.0

    @property
    def net(self) -> IPv4Network:
        return _net(self.subnet)

    @property
    def net6(self) -> IPv6Network | None:
        return IPv6Network(self.subnet6) if self.subnet6 else None

    @property
    def is_bridge(self) -> bool:
        return self.options.driver == "bridge"

    @property
    def bridge_mac(self) -> str:
        return mac_of(self.gateway)

    def gateway_mac(self, shard: int) -> str:
        """Of the bridge that members of this shard are on, where the gateway is its own; else empty."""
        return self.bridge_mac if self.is_bridge and not shard else ""

    def has_ground(self, interfaces: Container[str]) -> bool:
        """Whether the host has what it stands on: with macvlan its parent, of which we make none."""
        return self.is_bridge or self.options.parent in interfaces

    @property
    def gateway_interface(self) -> str:
        return f"{self.gateway}/{self.net.prefixlen}"

    @property
    def gateway6_interface(self) -> str:
        """Empty without IPv6."""
        return f"{self.gateway6}/{self.subnet6.partition('/')[2]}" if self.subnet6 else ""


@dataclass(frozen=True, slots=True)
class Lease:
    """A container's addresses on a network. `name` is the container's full name, `address6` is empty where
    the network has no IPv6. `interface` is its name where one was asked for, `shard` the number of the
    bridge that its link is on (0: the one with the gateway)."""

    network: str
    address: str
    container: str
    name: str
    position: int
    mac: str
    aliases: tuple[str, ...]
    active: bool
    address6: str = ""
    priority: int = 0
    interface: str = ""
    link_local: tuple[str, ...] = ()
    shard: int = 0

    @property
    def inside(self) -> str:
        """Its interface in the container."""
        return self.interface or f"eth{self.position}"


def read_networks(connection: sqlite3.Connection) -> dict[str, NetworkRecord]:
    rows = connection.execute("SELECT * FROM networks ORDER BY name")
    return {row["name"]: _network(row) for row in rows}


def read_network(connection: sqlite3.Connection, name: str) -> NetworkRecord | None:
    row = connection.execute("SELECT * FROM networks WHERE name = ?", (name,)).fetchone()
    return None if row is None else _network(row)


def snapshot(
    connection: sqlite3.Connection, *, container: str = "", containers: Iterable[str] = ()
) -> tuple[dict[str, NetworkRecord], list[Lease]]:
    """Networks, and all leases, those of a container or of some, of one moment: no lease is on a network that
    is not among them."""
    own = not connection.in_transaction
    if own:
        connection.execute("BEGIN")
    try:
        found = [lease for id in containers for lease in read_leases(connection, container=id)]
        return read_networks(connection), found or read_leases(connection, container=container)
    finally:
        if own:
            connection.execute("COMMIT")


def any_network(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM networks LIMIT 1").fetchone() is not None


def _network(row: sqlite3.Row) -> NetworkRecord:
    return _network_of(tuple(row.keys()), tuple(row))


@lru_cache(maxsize=KNOWN)
def _network_of(keys: tuple[str, ...], row: tuple[Any, ...]) -> NetworkRecord:
    """Most rows are those that were read before."""
    values = dict(zip(keys, row, strict=True))
    values["internal"] = bool(values["internal"])
    values["options"] = decode(NetworkOptions, json.loads(values["options"]))
    return NetworkRecord(**values)


def write_network(connection: sqlite3.Connection, record: NetworkRecord) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO networks (name, source, fingerprint, bridge, subnet, gateway, internal, mtu,"
        " labels, last, subnet6, gateway6, last6, options, created)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            record.name,
            record.source,
            record.fingerprint,
            record.bridge,
            record.subnet,
            record.gateway,
            int(record.internal),
            record.mtu,
            record.labels,
            record.last,
            record.subnet6,
            record.gateway6,
            record.last6,
            json.dumps(encode(record.options), sort_keys=True),
            record.created,
        ),
    )


def delete_network(connection: sqlite3.Connection, name: str) -> None:
    connection.execute("DELETE FROM networks WHERE name = ?", (name,))


def encode_labels(labels: Mapping[str, str]) -> str:
    return json.dumps(dict(labels), sort_keys=True)


# ---------------------------------------------------------------- leases

_LEASES = (
    "SELECT network, address, leases.container AS container, name, position, mac, aliases, active, address6,"
    " priority, interface, link_local, shard"
    " FROM leases JOIN endpoints ON leases.container = endpoints.container"
)


def read_leases(
    connection: sqlite3.Connection, *, container: str = "", networks: Iterable[str] | None = None
) -> list[Lease]:
    """All, those of a container, or those of some networks; by container's name and position."""
    query, values = _LEASES, []
    if container:
        query += " WHERE leases.container = ?"
        values = [container]
    elif networks is not None:
        values = sorted(set(networks))
        query += f" WHERE network IN ({', '.join('?' * len(values))})"
    rows = connection.execute(f"{query} ORDER BY name, position", values)
    return [_lease(tuple(row)) for row in rows]


@lru_cache(maxsize=KNOWN)
def _net(subnet: str) -> IPv4Network:
    return IPv4Network(subnet)


@lru_cache(maxsize=KNOWN)
def _lease(row: tuple[Any, ...]) -> Lease:
    """A row of _LEASES: each look reads them all, and few have changed."""
    network, address, container, name, position, mac, aliases, active, *more = row
    address6, priority, interface, link_local, shard = more
    return Lease(
        network=network,
        address=address,
        container=container,
        name=name,
        position=position,
        mac=mac,
        aliases=tuple(json.loads(aliases)),
        active=bool(active),
        address6=address6,
        priority=priority,
        interface=interface,
        link_local=tuple(json.loads(link_local)),
        shard=shard,
    )


class Taken:
    """The addresses of one family that are given out on a network, or reserved there: asked one by one."""

    def __init__(self, connection: sqlite3.Connection, network: NetworkRecord, *, ipv6: bool = False) -> None:
        column = "address6" if ipv6 else "address"
        self._query = f"SELECT 1 FROM leases WHERE network = ? AND {column} = ?"
        self._connection, self._network = connection, network.name
        self._reserved = {ip_address(address) for address in network.options.reserved}

    def __contains__(self, address: object) -> bool:
        if address in self._reserved:
            return True
        return self._connection.execute(self._query, (self._network, str(address))).fetchone() is not None


def owner_of(connection: sqlite3.Connection, network: str, address: str) -> str:
    """The name of the container that has an address or a MAC on a network; empty: nobody."""
    row = connection.execute(
        "SELECT name FROM leases JOIN endpoints ON leases.container = endpoints.container"
        " WHERE network = ? AND ? IN (address, address6, mac)",
        (network, address),
    ).fetchone()
    return "" if row is None else str(row["name"])


def read_shards(connection: sqlite3.Connection) -> dict[str, list[int]]:
    """The numbers of the further bridges that members are on, by network; without those that have none."""
    found: dict[str, list[int]] = {}
    for network, shard in connection.execute(
        "SELECT DISTINCT network, shard FROM leases WHERE shard > 0 ORDER BY network, shard"
    ):
        found.setdefault(network, []).append(shard)
    return found


def free_shard(connection: sqlite3.Connection, network: str, most: int) -> int:
    """The lowest number of a bridge with less than `most` members."""
    query = "SELECT shard, COUNT(*) FROM leases WHERE network = ? GROUP BY shard ORDER BY shard"
    found = dict(tuple(row) for row in connection.execute(query, (network,)))
    return next(shard for shard in count() if found.get(shard, 0) < most)


def write_lease(connection: sqlite3.Connection, lease: Lease) -> None:
    connection.execute(
        "INSERT INTO leases (network, address, container, position, mac, aliases, address6, priority,"
        " interface, link_local, shard) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            lease.network,
            lease.address,
            lease.container,
            lease.position,
            lease.mac,
            json.dumps(list(lease.aliases)),
            lease.address6,
            lease.priority,
            lease.interface,
            json.dumps(list(lease.link_local)),
            lease.shard,
        ),
    )


def set_last(connection: sqlite3.Connection, network: str, address: str) -> None:
    column = "last6" if ":" in address else "last"
    connection.execute(f"UPDATE networks SET {column} = ? WHERE name = ?", (address, network))


def replace_lease(connection: sqlite3.Connection, lease: Lease) -> None:
    """The row of that container on that network, anew."""
    delete_lease(connection, lease.container, lease.network)
    write_lease(connection, lease)


def delete_lease(connection: sqlite3.Connection, id: str, network: str) -> None:
    connection.execute("DELETE FROM leases WHERE container = ? AND network = ?", (id, network))


def by_container(leases: Iterable[Lease]) -> dict[str, list[Lease]]:
    """Leases of each container in the order of its interfaces."""
    found: dict[str, list[Lease]] = {}
    for lease in leases:
        found.setdefault(lease.container, []).append(lease)
    return found


def by_network(leases: Iterable[Lease]) -> dict[str, list[Lease]]:
    """The leases on each network."""
    found: dict[str, list[Lease]] = {}
    for lease in leases:
        found.setdefault(lease.network, []).append(lease)
    return found


def way_out(leases: Sequence[Lease], networks: Mapping[str, NetworkRecord]) -> Lease | None:
    """The lease with the default route: of those that are not internal the one with the highest priority, of
    several such the first."""
    outward = [lease for lease in leases if not networks[lease.network].internal]
    return max(outward, key=lambda lease: lease.priority, default=None)


def way_out6(leases: Sequence[Lease], networks: Mapping[str, NetworkRecord]) -> Lease | None:
    """The same for IPv6: of those that have an address of it."""
    return way_out([lease for lease in leases if lease.address6], networks)


def published_on(leases: Sequence[Lease], networks: Mapping[str, NetworkRecord]) -> Lease | None:
    """The lease whose addresses published ports lead to: that with the default route where it is on a
    bridge, else the way out by a bridge, else the first on one. None when there is none."""
    bridged = [lease for lease in leases if networks[lease.network].is_bridge]
    return way_out(bridged, networks) or next(iter(bridged), None)


# ---------------------------------------------------------------- endpoints and ports


def write_endpoint(connection: sqlite3.Connection, id: str, name: str) -> None:
    """A container of this id; harmless when it is there."""
    connection.execute(
        "INSERT INTO endpoints (container, name) VALUES (?, ?)"
        " ON CONFLICT (container) DO UPDATE SET name = excluded.name",
        (id, name),
    )


def rename_endpoint(connection: sqlite3.Connection, id: str, name: str) -> None:
    connection.execute("UPDATE endpoints SET name = ? WHERE container = ?", (name, id))


def set_service(connection: sqlite3.Connection, id: str, service: str) -> None:
    """Containers of one service may have the same ports; empty: none but itself."""
    connection.execute("UPDATE endpoints SET service = ? WHERE container = ?", (service, id))


def set_active(connection: sqlite3.Connection, id: str, active: bool) -> bool:
    """Whether anything changed."""
    cursor = connection.execute(
        "UPDATE endpoints SET active = ? WHERE container = ? AND active <> ?", (int(active), id, int(active))
    )
    return cursor.rowcount > 0


def delete_endpoint(connection: sqlite3.Connection, id: str) -> None:
    for table in ("published_ports", "leases", "endpoints"):
        connection.execute(f"DELETE FROM {table} WHERE container = ?", (id,))


def read_endpoints(connection: sqlite3.Connection) -> dict[str, bool]:
    """Whether each container's ports are published now."""
    rows = connection.execute("SELECT container, active FROM endpoints")
    return {row["container"]: bool(row["active"]) for row in rows}


def is_active(connection: sqlite3.Connection, id: str) -> bool:
    row = connection.execute("SELECT active FROM endpoints WHERE container = ?", (id,)).fetchone()
    return row is not None and bool(row["active"])


@dataclass(frozen=True, slots=True)
class PortRow:
    """A port as it is published. `asked` is the text of the binding that was asked for where the port of the
    host was chosen (random, or from a range); empty where it was given."""

    binding: PortBinding
    asked: str = ""


_PORTS = (
    "SELECT published_ports.container AS container, name, host_ip, host_port, container_port, protocol"
    " FROM published_ports JOIN endpoints ON published_ports.container = endpoints.container"
)


def read_ports(connection: sqlite3.Connection, id: str) -> list[PortRow]:
    rows = connection.execute(
        "SELECT host_ip, host_port, container_port, protocol, asked FROM published_ports WHERE container = ?"
        " ORDER BY host_ip, host_port, protocol",
        (id,),
    )
    return [PortRow(PortBinding(*tuple(row)[:4]), row["asked"]) for row in rows]


def ports_by_container(connection: sqlite3.Connection) -> dict[str, tuple[PortBinding, ...]]:
    found: dict[str, list[PortBinding]] = {}
    for row in connection.execute(f"{_PORTS} ORDER BY container_port, protocol, host_ip, host_port"):
        found.setdefault(row["container"], []).append(PortBinding(*tuple(row)[2:]))
    return {id: tuple(ports) for id, ports in found.items()}


def read_active_ports(
    connection: sqlite3.Connection, only: Iterable[tuple[int, str]] | None = None
) -> list[tuple[str, str, PortBinding]]:
    """(container, its name, port) of every container whose ports are published now; or of those on these
    (port of the host, protocol)."""
    queries: list[tuple[str, tuple[object, ...]]] = [("active = 1", ())]
    if only is not None:
        queries = [("active = 1 AND host_port = ? AND protocol = ?", pair) for pair in sorted(set(only))]
    rows = [
        row
        for where, values in queries
        for row in connection.execute(f"{_PORTS} WHERE {where} ORDER BY name, host_ip, host_port", values)
    ]
    return [(row[0], row[1], PortBinding(*tuple(row)[2:])) for row in rows]


def read_choosy(connection: sqlite3.Connection) -> set[str]:
    """Ids of the containers that have a readiness probe: runtime.requests leaves out what is not asked."""
    rows = connection.execute("""SELECT id FROM containers WHERE instr(request, '"readiness":{') > 0""")
    return {row[0] for row in rows}


def same_port_rows(
    connection: sqlite3.Connection, id: str, binding: PortBinding, *, sleeping: bool = False
) -> list[tuple[str, PortBinding]]:
    """(name, port) of containers of other services that are published now on the same port and protocol;
    with `sleeping`, of any other container that has it, published or not."""
    query = f"{_PORTS} WHERE endpoints.container <> ? AND host_port = ? AND protocol = ?"
    values = [id, binding.host_port, binding.protocol]
    if sleeping:
        query += " AND name NOT LIKE '%~old'"  # one that goes gives its ports to the one that replaces it
    else:
        query += (
            " AND active = 1 AND (service = ''"
            " OR service <> (SELECT service FROM endpoints WHERE container = ?))"
        )
        values.append(id)
    rows = connection.execute(query, values)
    return [(row[1], PortBinding(*tuple(row)[2:])) for row in rows]


def is_shared(connection: sqlite3.Connection, id: str) -> bool:
    """Whether another container that is up is published on one of its ports."""
    row = connection.execute(
        "SELECT 1 FROM published_ports AS own JOIN published_ports AS other"
        " ON own.host_port = other.host_port AND own.protocol = other.protocol"
        " JOIN endpoints ON other.container = endpoints.container"
        " WHERE own.container = ? AND other.container <> ? AND active = 1 LIMIT 1",
        (id, id),
    ).fetchone()
    return row is not None


def write_ports(connection: sqlite3.Connection, id: str, ports: Iterable[PortRow]) -> None:
    """Exactly these ports of the container; every one is fixed."""
    connection.execute("DELETE FROM published_ports WHERE container = ?", (id,))
    connection.executemany(
        "INSERT OR REPLACE INTO published_ports"
        " (container, host_ip, host_port, container_port, protocol, asked) VALUES (?, ?, ?, ?, ?, ?)",
        [
            (id, port.host_ip, port.host_port, port.container_port, port.protocol, row.asked)
            for row in ports
            for port in (row.binding,)
        ],
    )
