"""Decisions: what the nftables table of a state directory holds, and how two such contents differ.

Rules never change with contents: a network or a port is an element of a set or map (rules.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from ipaddress import ip_address

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
PROTOCOL_NAMES = {str(number): name for name, number in PROTOCOLS.items()}

#: A port with several backends has so many elements, dealt out among them; a new connection takes one by
#: chance. It can be divided by 2 to 6, 10, 12, 15, 20 and 30: so many backends get equal parts.
SLOTS = 60

#: An element of a set or map in canonical form: words, as nft text has them; protocols are numbers.
Element = tuple[str, ...]

ANY4, ANY6 = "0.0.0.0", "::"


@dataclass(frozen=True, slots=True)
class Contents:
    """What the sets and maps hold; a map's element is its key, its value after the key. Names that end with
    6 are for IPv6. `published`: on every address, one backend; `_at`: on one address; `spread`: several."""

    published: frozenset[Element] = frozenset()
    published_at: frozenset[Element] = frozenset()
    spread: frozenset[Element] = frozenset()
    spread_at: frozenset[Element] = frozenset()
    published6: frozenset[Element] = frozenset()
    published6_at: frozenset[Element] = frozenset()
    spread6: frozenset[Element] = frozenset()
    spread6_at: frozenset[Element] = frozenset()
    bridges: frozenset[Element] = frozenset()
    further: frozenset[Element] = frozenset()
    within: frozenset[Element] = frozenset()
    internal: frozenset[Element] = frozenset()
    hairpin: frozenset[Element] = frozenset()
    hairpin6: frozenset[Element] = frozenset()
    outgoing: frozenset[Element] = frozenset()
    outgoing6: frozenset[Element] = frozenset()


#: Map -> how many words of an element are its key. In sets, every word is.
KEYS = {
    "published": 2,
    "published_at": 3,
    "spread": 3,
    "spread_at": 4,
    "published6": 2,
    "published6_at": 3,
    "spread6": 3,
    "spread6_at": 4,
}
NAMES = tuple(item.name for item in fields(Contents))


@dataclass(frozen=True, slots=True)
class Zone:
    """A network as the firewall sees it. `subnet6` empty: it has no IPv6. Without `icc` its members do not
    reach each other, without `masquerade` packets leave with the address of the container. `further`
    are bridges of more members, which have no address."""

    bridge: str
    subnet: str
    internal: bool
    subnet6: str = ""
    icc: bool = True
    masquerade: bool = True
    further: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Publication:
    """One published port and where it leads. `host_ip` empty: every address of the host, as far as the
    container has an address of that family; 0.0.0.0 and ::, every one of a family. Several with the same
    host side are backends of one port: those that are `ready` get its connections, or all where none is.
    """

    host_ip: str
    host_port: int
    protocol: str
    address: str
    port: int
    address6: str = ""
    ready: bool = True


def contents(zones: Iterable[Zone], publications: Iterable[Publication]) -> Contents:
    """What the table should hold for these networks and ports."""
    zones = tuple(zones)
    ports = elements(publications)
    outward = [zone for zone in zones if zone.masquerade and not zone.internal]
    return Contents(
        **{name: frozenset(held) for name, held in ports.items()},
        bridges=frozenset((zone.bridge,) for zone in zones),
        further=frozenset((bridge,) for zone in zones for bridge in zone.further),
        within=frozenset((zone.bridge, zone.bridge) for zone in zones if zone.icc),
        internal=frozenset((zone.bridge,) for zone in zones if zone.internal),
        hairpin=frozenset((zone.bridge, zone.subnet) for zone in zones),
        hairpin6=frozenset((zone.bridge, zone.subnet6) for zone in zones if zone.subnet6),
        outgoing=frozenset((zone.subnet,) for zone in outward),
        outgoing6=frozenset((zone.subnet6,) for zone in outward if zone.subnet6),
    )


@dataclass(slots=True)
class _Backends:
    ready: set[Element] = field(default_factory=set)
    others: set[Element] = field(default_factory=set)

    def chosen(self) -> list[Element]:
        return sorted(self.ready or self.others)


def elements(publications: Iterable[Publication]) -> dict[str, set[Element]]:
    """By map."""
    groups: dict[tuple[str, Element], _Backends] = {}
    for item in publications:
        key: Element = (str(PROTOCOLS[item.protocol]), str(item.host_port))
        for six, address in (("", item.address), ("6", item.address6)):
            if not address or (item.host_ip and (":" in item.host_ip) != bool(six)):
                continue
            anywhere = item.host_ip in ("", ANY4, ANY6)
            group: tuple[str, Element] = (six, key) if anywhere else (f"{six}_at", (item.host_ip, *key))
            backends = groups.setdefault(group, _Backends())
            (backends.ready if item.ready else backends.others).add((address, str(item.port)))
    found: dict[str, set[Element]] = {name: set() for name in KEYS}
    for (suffix, key), backends in groups.items():
        chosen = backends.chosen()
        if len(chosen) == 1:
            found[f"published{suffix}"].add(key + chosen[0])
        else:
            found[f"spread{suffix}"].update(
                (*key, str(slot), *chosen[slot % len(chosen)]) for slot in range(SLOTS)
            )
    return found


#: A port of the host: (its address, empty for every one; protocol, port), the last two as in elements.
Port = tuple[str, str, str]


def port_of(host_ip: str, protocol: str, host_port: int) -> Port:
    return ("" if host_ip in (ANY4, ANY6) else host_ip, str(PROTOCOLS[protocol]), str(host_port))


def _port(name: str, element: Element) -> Port:
    return (element[0], element[1], element[2]) if name.endswith("_at") else ("", element[0], element[1])


class Held:
    """Contents that are changed port by port, at a cost that does not grow with the number of ports."""

    def __init__(self, whole: Contents) -> None:
        self._whole = whole
        self._ports: dict[Port, dict[str, set[Element]]] = {}
        for name in KEYS:
            self._add(name, getattr(whole, name))

    def _add(self, name: str, elements: Iterable[Element]) -> None:
        for element in elements:
            self._ports.setdefault(_port(name, element), {}).setdefault(name, set()).add(element)

    def whole(self) -> Contents:
        maps: dict[str, set[Element]] = {name: set() for name in KEYS}
        for held in self._ports.values():
            for name, elements in held.items():
                maps[name] |= elements
        return replace(self._whole, **{name: frozenset(elements) for name, elements in maps.items()})

    def of(self, ports: Iterable[Port]) -> dict[str, set[Element]]:
        """The elements of these ports, by map."""
        found: dict[str, set[Element]] = {name: set() for name in KEYS}
        for port in ports:
            for name, elements in self._ports.get(port, {}).items():
                found[name] |= elements
        return found

    def put(self, ports: Iterable[Port], elements: Mapping[str, Iterable[Element]]) -> None:
        """These elements instead of those of these ports."""
        for port in ports:
            self._ports.pop(port, None)
        for name in KEYS:
            self._add(name, elements.get(name, ()))


def differences(found: Contents, wanted: Contents) -> list[str]:
    """What a person should know of how the sets differ."""
    texts = []
    for name in NAMES:
        before, after = getattr(found, name), getattr(wanted, name)
        for element in sorted(after - before):
            texts.append(f"{name} lacks {' '.join(element)}")
        for element in sorted(before - after):
            texts.append(f"{name} has {' '.join(element)} besides what we put there")
    return texts


def backends(maps: Mapping[str, Iterable[Element]]) -> dict[Port, frozenset[str]]:
    """The addresses that each port leads to."""
    found: dict[Port, set[str]] = {}
    for name, elements in maps.items():
        for element in elements:
            found.setdefault(_port(name, element), set()).add(element[-2])
    return {port: frozenset(addresses) for port, addresses in found.items()}


def changed_ports(found: Contents, wanted: Contents) -> list[str]:
    """Which ports are to lead elsewhere, in words."""
    before, after = backends(maps_of(found)), backends(maps_of(wanted))
    texts = []
    for port in sorted(before.keys() | after.keys()):
        if before.get(port) != after.get(port):
            host_ip, protocol, number = port
            where = f"[{host_ip}]:" if ":" in host_ip else f"{host_ip}:" if host_ip else ""
            to = ", ".join(sorted(after.get(port, ()))) or "nothing"
            texts.append(f"port {where}{number}/{PROTOCOL_NAMES[protocol]} leads to {to} from now on")
    return texts


def maps_of(held: Contents) -> dict[str, frozenset[Element]]:
    return {name: getattr(held, name) for name in KEYS}


def shortcuts(maps: Mapping[str, Iterable[Element]]) -> dict[tuple[str, int], tuple[str, int]]:
    """(address of the loopback, TCP port) -> (address, port) of the one backend that it leads to."""
    tcp, found = str(PROTOCOLS["tcp"]), {}
    for six, loopback in (("", "127.0.0.1"), ("6", "::1")):
        for protocol, port, address, to in maps.get(f"published{six}", ()):
            if protocol == tcp:
                found[loopback, int(port)] = (address, int(to))
        for host_ip, protocol, port, address, to in maps.get(f"published{six}_at", ()):
            if protocol == tcp and ip_address(host_ip).is_loopback:
                found[host_ip, int(port)] = (address, int(to))
        for host_ip, protocol, port, *_ in maps.get(f"spread{six}_at", ()):
            if protocol == tcp:
                found.pop((host_ip, int(port)), None)
    return found


def moved_udp(
    before: Mapping[str, Iterable[Element]], after: Mapping[str, Iterable[Element]]
) -> dict[int, frozenset[str]]:
    """Host ports of UDP that lost a backend or have one at last, with the backends that are right now.

    A port that only won further ones is not in it: what flows to its old ones may go on.
    """
    old, new = backends(before), backends(after)
    udp = str(PROTOCOLS["udp"])
    ports = {
        port[2]
        for port in old.keys() | new.keys()
        if port[1] == udp and not (old.get(port) and old[port] <= new.get(port, frozenset()))
    }
    return {
        int(number): frozenset().union(*(held for port, held in new.items() if port[1:] == (udp, number)))
        for number in ports
    }
