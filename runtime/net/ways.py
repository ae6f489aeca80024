"""Effects: the routes that the kernel makes for an address, and loopback: whether they are there, and back.

`ip route del` takes a route away and leaves its address; nothing but this brings it back. Each is asked for
by one lookup, as a packet would (ip-route(8), `get`), so that the size of the routing table does not matter.
What somebody put there on purpose (a more specific route, a default route of a VPN) is no defect. The kernel
makes the route to an own address of IPv6 a moment after the address, in a work of its own, even where nothing
is to be probed (nodad); that of an address that has just been given is waited for.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv6Address,
    IPv6Interface,
    ip_address,
    ip_interface,
    ip_network,
)
from pathlib import Path

from runtime.linux import namespaces
from runtime.net.addresses import KNOWN
from runtime.net.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_REPLACE,
    Netlink,
    attribute,
    attributes,
    number,
)

AnyAddress = IPv4Address | IPv6Address

_RTM_GETLINK, _RTM_GETADDR = 18, 22
_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC = 1, 4, 5, 6, 7
_IFA_ADDRESS, _IFA_CACHEINFO = 1, 6
_RTM_F_FIB_MATCH = 0x2000
_TABLE_MAIN, _TABLE_LOCAL = 254, 255
_PROTOCOL_KERNEL = 2
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_HOST = 0, 253, 254
_UNICAST, _LOCAL = 1, 2
_PRIORITY6 = 256  # of the routes that the kernel makes for addresses of IPv6
_LOOPBACK, _IFF_UP = 1, 1  # its index in every network namespace
#: seconds for which the kernel may take its time with the route of a new address, and between two looks
_NEW, _PAUSE = 1.0, 0.002
_FORBIDDEN = (errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL)

#: addresses that are nobody's (RFC 5737, RFC 3849): only a default route leads to them
ANYWHERE = {4: ip_address("192.0.2.1"), 6: ip_address("2001:db8::1")}


@lru_cache(maxsize=KNOWN)
def _interface(address: str) -> IPv4Interface | IPv6Interface:
    return ip_interface(address)


@dataclass(frozen=True, slots=True)
class Way:
    """An interface of ours: its name, one of its addresses with the prefix length, and whether the default
    route of that family is to be there."""

    name: str
    address: str
    outward: bool = False

    @property
    def interface(self) -> IPv4Interface | IPv6Interface:
        return _interface(self.address)


@dataclass(frozen=True, slots=True)
class _Route:
    """What a lookup found. `length` is that of its prefix, -1 where it was not asked for."""

    index: int
    kind: int
    gateway: bool
    length: int


# ---------------------------------------------------------------- the host


def lost_by_host(ways: Iterable[Way]) -> dict[str, list[str]]:
    """By name: what is missing of the routes to these bridges, in words. Raises OSError."""
    lost: dict[str, list[str]] = {}
    with Netlink() as netlink:
        for way in ways:
            if _own_is_lost(netlink, way):
                lost.setdefault(way.name, []).append(f"the host's route to {way.interface.ip} is gone")
            if _subnet_is_lost(netlink, way):
                lost.setdefault(way.name, []).append(f"the host's route to {way.interface.network} is gone")
    return lost


def mend_host(ways: Iterable[Way]) -> None:
    """The routes of a bridge's addresses, as the kernel makes them. Raises OSError."""
    with Netlink() as netlink:
        for way in ways:
            if _own_is_lost(netlink, way):
                _add(netlink, way, local=True)
            if _subnet_is_lost(netlink, way):
                _add(netlink, way)


def _own_is_lost(netlink: Netlink, way: Way) -> bool:
    while True:
        route = _find(netlink, way.interface.ip)
        if route is not None and route.kind == _LOCAL:
            return False
        if way.interface.version == 4 or not _is_new(netlink, way.interface.ip):
            return True
        time.sleep(_PAUSE)


def _subnet_is_lost(netlink: Netlink, way: Way) -> bool:
    route = _find(netlink, _neighbour(way.interface), _RTM_F_FIB_MATCH)
    return route is None or 0 <= route.length < way.interface.network.prefixlen


# ---------------------------------------------------------------- containers


def lost_inside(netns: Path, ways: Iterable[Way]) -> tuple[str, ...]:
    """What is missing of loopback and the routes in a container, in words. Raises OSError."""
    with namespaces.in_netns(netns):
        netlink = Netlink()
        given = {way: _index(way.name) for way in ways}
    with netlink:
        texts = [] if _loopback_is_up(netlink) else ["its loopback interface is down"]
        for way in given:
            network = way.interface.network
            if _own_is_lost(netlink, way):
                texts.append(f"its route to its own address {way.interface.ip} is gone")
            if network.num_addresses > 2:  # else nobody else is there
                route = _find(netlink, _neighbour(way.interface))
                if route is None or (route.gateway and route.index in given.values()):
                    texts.append(f"its route to {network} is gone")
            if way.outward and _find(netlink, ANYWHERE[network.version]) is None:
                family = " of IPv6" if network.version == 6 else ""
                texts.append(f"its default route{family} is gone")
    return tuple(texts)


def mend_inside(netns: Path, ways: Iterable[Way]) -> None:
    """Loopback, and the routes of those addresses that are there; the default route comes with the link. What
    cannot be had before its interface is whole comes back with that. Raises OSError.
    """
    with namespaces.in_netns(netns), Netlink() as netlink:
        if not _loopback_is_up(netlink):
            namespaces.raise_loopback()
        for way in ways:
            with suppress(OSError):
                if _own_is_lost(netlink, way):
                    _add(netlink, way, local=True)
                _add(netlink, way)


# ---------------------------------------------------------------- messages


@lru_cache(maxsize=KNOWN)
def _neighbour(own: IPv4Interface | IPv6Interface) -> AnyAddress:
    """Another address of its subnet."""
    first = own.network.network_address + 1
    return first + 1 if first == own.ip else first


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return -1


def _find(netlink: Netlink, address: AnyAddress, flags: int = 0) -> _Route | None:
    """The route that a packet to the address would take; None when there is none. Raises OSError."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    body = struct.pack("=BBBBBBBBI", family, address.max_prefixlen, 0, 0, 0, 0, 0, 0, flags)
    try:
        answer = netlink.ask(_RTM_GETROUTE, body + attribute(_RTA_DST, address.packed))[0]
    except OSError as error:
        if error.errno == errno.ENETUNREACH:
            return None
        if error.errno in _FORBIDDEN:  # on purpose: ip-route(8), unreachable, prohibit, blackhole
            return _Route(0, 0, False, -1)
        raise
    _, length, _, _, _, _, _, kind = struct.unpack_from("=BBBBBBBB", answer)
    given = attributes(answer, 12)
    matched = length if flags & _RTM_F_FIB_MATCH else -1
    return _Route(number(given.get(_RTA_OIF)), kind, _RTA_GATEWAY in given, matched)


def _is_new(netlink: Netlink, address: AnyAddress) -> bool:
    """Whether this address of IPv6 was given a moment ago: `cstamp` of struct ifa_cacheinfo
    (linux/if_addr.h), hundredths of a second since the machine's start, by ticks that may be a little beside
    our clock."""
    body = struct.pack("=BBBBi", socket.AF_INET6, 128, 0, 0, 0) + attribute(_IFA_ADDRESS, address.packed)
    try:
        given = attributes(netlink.ask(_RTM_GETADDR, body)[0], 8)
    except OSError:  # there is none
        return False
    _, _, created, _ = struct.unpack("=IIII", given[_IFA_CACHEINFO])
    age = (int(time.monotonic() * 100) - created) % (1 << 32)
    return bool(min(age, (1 << 32) - age) < _NEW * 100)


def _loopback_is_up(netlink: Netlink) -> bool:
    body = struct.pack("=BBHiII", socket.AF_UNSPEC, 0, 0, _LOOPBACK, 0, 0)
    flags = struct.unpack_from("=I", netlink.ask(_RTM_GETLINK, body)[0], 8)[0]
    return bool(flags & _IFF_UP)


def _add(netlink: Netlink, way: Way, *, local: bool = False) -> None:
    """The route to its own address, or to its subnet."""
    own = way.interface
    to = ip_network(own.ip) if local else own.network
    family, scope = (socket.AF_INET, _SCOPE_LINK) if to.version == 4 else (socket.AF_INET6, _SCOPE_UNIVERSE)
    table, kind = (_TABLE_LOCAL, _LOCAL) if local else (_TABLE_MAIN, _UNICAST)
    if local and to.version == 4:
        scope = _SCOPE_HOST
    body = struct.pack("=BBBBBBBBI", family, to.prefixlen, 0, 0, table, _PROTOCOL_KERNEL, scope, kind, 0)
    body += attribute(_RTA_DST, to.network_address.packed)
    body += attribute(_RTA_OIF, struct.pack("=i", socket.if_nametoindex(way.name)))
    if to.version == 4:
        body += attribute(_RTA_PREFSRC, own.ip.packed)
    elif not local:
        body += attribute(_RTA_PRIORITY, struct.pack("=I", _PRIORITY6))
    try:
        netlink.ask(_RTM_NEWROUTE, body, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE)
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), f"route to {to}") from None
