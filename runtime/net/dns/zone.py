"""Decisions: what the containers of a node are called, who may know it, and what is to be forwarded.

A container knows those that share a network with it, and nobody else does. It asks the gateway of one of its
networks and means all of them, in its own order: the first network on which somebody has the name answers.
There a name means the containers of the asker's own project, and if none of them has it, all that have it. A
hostname that somebody chose counts where nobody has that name otherwise.

    web             the container web; an alias that it has on that network
    web.shop        the container web of project shop, or those with that alias in it, from any project
    <short id>      the container, by the first twelve characters of its id

Names of one label that nobody has, and addresses of our networks that the asker does not share, do not exist:
they are never forwarded. A container that is not up, or is unhealthy, has no names; one that is not ready,
since it starts or its health is not known yet, shares none with those that are.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from runtime.net import resolvconf
from runtime.net.dns import wire
from runtime.net.dns.wire import Query, Record

SHORT_ID = 12
LOCALHOST = wire.encode_name("localhost")
#: Types of the root's and top-level domains' own records: the only questions with one label that may mean
#: the world.
_OF_ZONES = frozenset({wire.NS, wire.SOA, wire.DS, wire.DNSKEY})
_NEVER = frozenset({wire.AXFR, wire.IXFR})


@dataclass(frozen=True, slots=True)
class Network:
    """`gateways` are the addresses that the name server has, one a family, `subnets` whom it answers.
    `bridge` is the interface that has them; empty: they are there without one that is ours."""

    name: str
    gateways: tuple[str, ...]
    subnets: tuple[IPv4Network | IPv6Network, ...]
    internal: bool = False
    bridge: str = ""

    def has(self, address: str) -> bool:
        """Whether `address`, which is well-formed, is of this network."""
        found = ip_address(address.partition("%")[0])
        return any(found in subnet for subnet in self.subnets)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A container on a network."""

    network: str
    addresses: tuple[str, ...]
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Files:
    """A container's own hosts and resolv.conf: where they are (empty: none that we follow), the gateway that
    it asks for names, what its spec has for it besides `dns`. `on_host`: it shares the host's network."""

    directory: str = ""
    gateway: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    on_host: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """A container; `name` is its full name. `dns` are servers of its own; empty: the host's. One that is
    `leaving` is about to be stopped: whoever shares a name with it is asked instead."""

    id: str
    name: str
    endpoints: tuple[Endpoint, ...]
    hostname: str = ""
    dns: tuple[str, ...] = ()
    files: Files = Files()
    leaving: bool = False

    @property
    def project(self) -> str:
        return self.name.rpartition("/")[0]

    @property
    def is_apart(self) -> bool:
        """Whether it has files that we follow, and does not ask us."""
        return bool(self.files.directory) and not resolvconf.asked(self.files.gateway, self.dns)


@dataclass(frozen=True, slots=True)
class Asker:
    """What an answer depends on besides the question."""

    project: str = ""
    networks: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()  # its own servers
    outward: bool = True  # False: only internal networks, so that nothing is forwarded but to its peers


@dataclass(frozen=True, slots=True)
class Answer:
    rcode: int
    records: tuple[Record, ...] = ()


@dataclass(frozen=True, slots=True)
class Forward:
    """`servers` empty: the host's."""

    servers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Entry:
    """Somebody's name. `chosen` is a hostname, which is the weakest kind; who is not `ready` counts only
    where nobody of that name is."""

    project: str
    addresses: tuple[bytes, ...]
    chosen: bool
    ready: bool


class Zone:
    """The names of all networks. Members come and go one by one; looking up changes nothing."""

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self.networks = {network.name: network for network in networks}
        self._members: dict[str, Member] = {}
        self._up: dict[str, bool] = {}  # id -> ready
        self.apart: set[str] = set()  # ids of members that are
        self._clients: dict[str, str] = {}  # address -> id
        self._names: dict[str, dict[bytes, dict[str, _Entry]]] = {}  # network -> name -> id -> entry
        self._reverse: dict[bytes, tuple[str, bytes]] = {}  # packed address -> (network, name)

    def put(self, member: Member, *, up: bool, ready: bool = True) -> bool:
        """Know this container, in place of what was known of it. Whether anything changed."""
        ready = ready and not member.leaving
        if self._members.get(member.id) == member and self._up.get(member.id) == (ready if up else None):
            return False
        self.drop(member.id)
        self._members[member.id] = member
        if member.is_apart:
            self.apart.add(member.id)
        for endpoint in member.endpoints:
            self._clients.update(dict.fromkeys(endpoint.addresses, member.id))
        if up:
            self._up[member.id] = ready
            for network, name, entry in _entries(member, ready):
                self._names.setdefault(network, {}).setdefault(name, {})[member.id] = entry
            self._reverse.update(_reverse(member))
        return True

    def drop(self, id: str) -> bool:
        """Forget a container. Whether it was known."""
        member = self._members.pop(id, None)
        if member is None:
            return False
        self.apart.discard(id)
        for endpoint in member.endpoints:
            for address in endpoint.addresses:
                if self._clients.get(address) == id:
                    del self._clients[address]
        if id in self._up:
            del self._up[id]
            self._drop_names(member)
        return True

    def _drop_names(self, member: Member) -> None:
        for network, name, _ in _entries(member, True):
            holders = self._names.get(network, {}).get(name, {})
            holders.pop(member.id, None)
            if not holders:
                self._names.get(network, {}).pop(name, None)
        for address, value in _reverse(member).items():
            if self._reverse.get(address) == value:
                del self._reverse[address]

    def __len__(self) -> int:
        return len(self._members)

    @property
    def members(self) -> tuple[Member, ...]:
        return tuple(self._members.values())

    def member(self, id: str) -> Member | None:
        return self._members.get(id)

    def peers(self, member: Member) -> dict[str, tuple[str, ...]]:
        """What the others are called that `member` can look up: their names, in order, by address."""
        asker = self._asker(member)
        own = {ip_address(address).packed for item in member.endpoints for address in item.addresses}
        found: dict[bytes, list[str]] = {}
        names = dict.fromkeys(name for network in asker.networks for name in self._names.get(network, ()))
        for name in names:
            text = wire.plain_text(name)
            for entry in self._find(asker, name) or ():
                for address in entry.addresses:
                    if text and address not in own:
                        found.setdefault(address, []).append(text)
        return {str(ip_address(address)): tuple(found[address]) for address in sorted(found)}

    # ------------------------------------------------------------ answers

    def asker(self, network: Network, address: str) -> Asker | None:
        """Who asks at the gateway of `network`; None: nobody that may."""
        id = self._clients.get(address)
        if id is None:
            if not network.has(address):
                return None
            return Asker(networks=(network.name,), outward=not network.internal)
        asker = self._asker(self._members[id])
        return asker if network.name in asker.networks else None

    def _asker(self, member: Member) -> Asker:
        names = tuple(item.network for item in member.endpoints if item.network in self.networks)
        outward = any(not self.networks[name].internal for name in names)
        return Asker(member.project, names, member.dns, outward)

    def answer(self, asker: Asker, query: Query) -> Answer | Forward:
        """What to say to `asker`; the addresses of a name are in no order."""
        if query.version:
            return Answer(wire.BADVERS)
        if query.klass != wire.IN or query.type in _NEVER:
            return Answer(wire.REFUSED)
        found = self._own(asker, query)
        if found is not None:
            return found
        if query.labels == 1 and query.type not in _OF_ZONES:
            return Answer(wire.NXDOMAIN)
        return self._forward(asker)

    def _own(self, asker: Asker, query: Query) -> Answer | None:
        """What our own names have for the question; None: it is not about us."""
        name = query.name
        if name == LOCALHOST or name.endswith(b"\x09localhost\0"):  # RFC 6761 section 6.3
            packed = (socket.inet_aton("127.0.0.1"), socket.inet_pton(socket.AF_INET6, "::1"))
            return Answer(wire.NOERROR, _addresses(packed, query.type))
        if (entries := self._find(asker, name)) is not None:
            packed_all = tuple(dict.fromkeys(a for entry in entries for a in entry.addresses))
            return Answer(wire.NOERROR, _addresses(packed_all, query.type))
        if name.endswith(b"\x04arpa\0") and (address := wire.address_of(name)) is not None:
            return self._pointer(asker, address, query.type)
        return None

    def _find(self, asker: Asker, name: bytes) -> list[_Entry] | None:
        for network in asker.networks:
            holders = self._names.get(network, {}).get(name)
            if holders:
                entries = list(holders.values())
                given = [entry for entry in entries if not entry.chosen] or entries
                near = [entry for entry in given if entry.project == asker.project] or given
                return [entry for entry in near if entry.ready] or near
        return None

    def _pointer(self, asker: Asker, address: bytes, type: int) -> Answer | None:
        network, target = self._reverse.get(address, ("", b""))
        if network and network in asker.networks:
            wanted = type in (wire.PTR, wire.ANY)
            return Answer(wire.NOERROR, (Record(wire.PTR, target),) if wanted else ())
        found = ip_address(address)
        if found.is_loopback:
            assert LOCALHOST is not None
            return Answer(wire.NOERROR, (Record(wire.PTR, LOCALHOST),) if type == wire.PTR else ())
        ours = any(found in subnet for item in self.networks.values() for subnet in item.subnets)
        return Answer(wire.NXDOMAIN) if ours else None

    def _forward(self, asker: Asker) -> Answer | Forward:
        if asker.outward:
            return Forward(asker.dns)
        networks = [self.networks[name] for name in asker.networks]
        near = tuple(server for server in asker.dns if any(_within(item, server) for item in networks))
        return Forward(near) if near else Answer(wire.NXDOMAIN)


def _within(network: Network, server: str) -> bool:
    try:
        return network.has(server)
    except ValueError:
        return False


def _addresses(packed: Iterable[bytes], type: int) -> tuple[Record, ...]:
    kinds = {4: wire.A, 16: wire.AAAA}
    return tuple(Record(kinds[len(item)], item) for item in packed if type in (kinds[len(item)], wire.ANY))


def _entries(member: Member, ready: bool) -> Iterator[tuple[str, bytes, _Entry]]:
    """(network, name, entry) for each name that the member has."""
    own = member.name.rpartition("/")[2]
    for endpoint in member.endpoints:
        packed = tuple(ip_address(address).packed for address in endpoint.addresses)
        names = (own, *endpoint.aliases)
        qualified = [f"{name}.{member.project}" for name in names if member.project and "." not in name]
        given = dict.fromkeys((*names, *qualified, member.id[:SHORT_ID]), False)
        for text, chosen in {member.hostname: True, **given}.items():
            name = wire.encode_name(text) if text else None
            if name is not None:
                yield endpoint.network, name, _Entry(member.project, packed, chosen, ready)


def _reverse(member: Member) -> dict[bytes, tuple[str, bytes]]:
    """The name that each address of the member leads back to: one that everybody can look up."""
    own = member.name.rpartition("/")[2]
    name = wire.encode_name(f"{own}.{member.project}" if member.project else own)
    if name is None:
        return {}
    return {
        ip_address(address).packed: (endpoint.network, name)
        for endpoint in member.endpoints
        for address in endpoint.addresses
    }
