"""Effects: the links of containers: veth pairs to bridges, macvlan links on an interface of the host.

A container's end is made inside its network namespace by one message from outside (IFLA_NET_NS_FD), its
addresses and routes by a socket opened inside. veth(4), ip-link(8), rtnetlink(7).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from runtime.linux import namespaces
from runtime.net import links, straight
from runtime.net.addresses import mac_of, packed_mac
from runtime.net.links import Link, index_of
from runtime.net.netlink import NLM_F_ACK, Netlink, attributes

RTM_DELNEIGH, RTM_GETNEIGH = 29, 30
_NDA_DST, _NDA_LLADDR = 1, 2
_ETH_IP, _ETH_ARP, _ARP_REQUEST = 0x0800, 0x0806, 1


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A container's tie to one network as it should be; `inside` is the name of its interface there.

    `host` is the other end of its pair, a port of `bridge`, which has `bridge_mac` where the gateway is its
    own (straight.py); with `macvlan` (a mode) there is no other end,
    and `bridge` is the interface of the host that it is on. `addresses` (CIDR) begin with that of IPv4. A
    gateway is empty when that default route is not here.
    """

    host: str
    bridge: str
    inside: str
    addresses: tuple[str, ...]
    mac: str
    mtu: int
    gateway: str = ""
    gateway6: str = ""
    isolated: bool = False
    macvlan: str = ""
    bridge_mac: str = ""

    @property
    def ipv6(self) -> bool:
        return any(":" in item and not links.is_automatic(item) for item in self.addresses)

    @property
    def own_mac(self) -> bool:
        """In passthru mode its MAC is that of the interface below."""
        return self.macvlan != "passthru"


def ensure_endpoint(endpoint: Endpoint, netns: Path, *, hairpin: bool) -> None:
    """Make or mend one tie of the container whose network namespace is bound at `netns`. Raises OSError."""
    with namespaces.in_netns(netns):
        inside = Netlink()
        there = index_of(endpoint.inside)
        found = links.links().get(endpoint.inside) if there and endpoint.macvlan else None
    with inside:
        if there and not _is_right(endpoint, there, found):
            inside.try_all((links.delete_link(endpoint.inside), endpoint.inside))
            there = 0
        if endpoint.macvlan:
            if not there:
                _make_macvlan(endpoint, netns)
        elif there:
            links.enslave(
                endpoint.bridge,
                {endpoint.host: endpoint.mac},
                bridge_mac=endpoint.bridge_mac,
                hairpin=hairpin,
                isolated=endpoint.isolated,
            )
        else:
            links.delete_links([endpoint.host])
            _make_pair(endpoint, netns, hairpin)
        _configure(endpoint, netns, inside, bool(there))
    if not there and not endpoint.macvlan:
        _announce(endpoint)


def _is_right(endpoint: Endpoint, there: int, found: Link | None) -> bool:
    """Whether the interface that has the name is the one: with our peer, or on our parent."""
    if endpoint.macvlan:
        return found is not None and found.kind == "macvlan" and found.peer == index_of(endpoint.bridge)
    return bool(index_of(endpoint.host)) and links.peer_of(endpoint.host) == there


def _configure(endpoint: Endpoint, netns: Path, inside: Netlink, there: bool) -> None:
    """MAC, MTU, exactly its addresses, and its default routes; up."""
    name = endpoint.inside
    with namespaces.in_netns(netns):
        index = socket.if_nametoindex(name)
        links.set_ipv6(name, endpoint.ipv6)
        given = links.addresses().get(index, set()) if there else set()
    wrong = {item for item in given - set(endpoint.addresses) if not links.is_automatic(item)}
    work = [(links.delete_address(index, address), name) for address in sorted(wrong)]
    attrs: list[tuple[str, Any]] = [("IFLA_MTU", endpoint.mtu)] if there else []
    if there and endpoint.own_mac:
        attrs.append(("IFLA_ADDRESS", endpoint.mac))
    work.append((links.set_link(index, attrs=attrs), name))
    work += [(links.add_address(index, address), f"{name} {address}") for address in endpoint.addresses]
    for gateway in filter(None, (endpoint.gateway, endpoint.gateway6)):
        work.append((links.default_route(index, gateway), f"default route by {gateway}"))
    inside.change(*work)


def remove_inside(name: str, netns: Path) -> None:
    """The interface of this name in a container goes; gone already is fine."""
    with suppress(FileNotFoundError), namespaces.in_netns(netns):
        links.delete_links([name])


def look(name: str, netns: Path, *, stats: bool = False) -> tuple[Link | None, set[str]]:
    """An interface of a container and its addresses, seen from inside: what has no other end is not to be
    seen from outside. None where it, or the namespace, is not there."""
    try:
        with namespaces.in_netns(netns):
            link = links.links(stats=stats).get(name)
            return link, links.addresses().get(link.index, set()) if link is not None else set()
    except FileNotFoundError:
        return None, set()


# ---------------------------------------------------------------- pairs


def _make_pair(endpoint: Endpoint, netns: Path, hairpin: bool) -> None:
    """The host's end up and on the bridge, the other in `netns`; not up, which the pair must be whole for."""
    with open(netns, "rb") as namespace, Netlink() as netlink:
        peer = [
            ("IFLA_IFNAME", endpoint.inside),
            ("IFLA_ADDRESS", endpoint.mac),
            ("IFLA_MTU", endpoint.mtu),
            ("IFLA_NET_NS_FD", namespace.fileno()),
        ]
        master = socket.if_nametoindex(endpoint.bridge)
        attrs = [("IFLA_MTU", endpoint.mtu), ("IFLA_MASTER", master)]
        netlink.change((links.pair(endpoint.host, peer, attrs), f"veth {endpoint.host}"))
        index = socket.if_nametoindex(endpoint.host)
        straight.tie(netlink, index, endpoint.mac, master, endpoint.bridge_mac)
        if hairpin or endpoint.isolated:
            settings = links.port_settings(index, hairpin=hairpin, isolated=endpoint.isolated)
            netlink.change((settings, endpoint.host))


# ---------------------------------------------------------------- macvlan


def _make_macvlan(endpoint: Endpoint, netns: Path) -> None:
    data = [("IFLA_MACVLAN_MODE", endpoint.macvlan)]
    kind = [("IFLA_INFO_KIND", "macvlan"), ("IFLA_INFO_DATA", {"attrs": data})]
    parent = index_of(endpoint.bridge)
    if not parent:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), f"the host's interface {endpoint.bridge}")
    with open(netns, "rb") as namespace, Netlink() as netlink:
        attrs: list[tuple[str, Any]] = [
            ("IFLA_IFNAME", endpoint.inside),
            ("IFLA_LINK", parent),
            ("IFLA_MTU", endpoint.mtu),
            ("IFLA_NET_NS_FD", namespace.fileno()),
            ("IFLA_LINKINFO", {"attrs": kind}),
        ]
        if endpoint.own_mac:
            attrs.append(("IFLA_ADDRESS", endpoint.mac))
        message = links.new_link(attrs)
        netlink.change((message, f"macvlan {endpoint.inside} on {endpoint.bridge}"))


# ---------------------------------------------------------------- neighbours


def _announce(endpoint: Endpoint) -> None:
    """Neighbours that remember another MAC for these addresses learn the one it has now, which they would ask
    for half a minute later: the host forgets what it knew, containers are told (RFC 5227, section 3; of IPv6
    the kernel tells them, ndisc_notify).

    Told only where that may be so, for closing a packet socket takes the kernel 10 ms (synchronize_net).
    """
    first = ip_interface(endpoint.addresses[0]).ip
    known = _forget(endpoint, first.packed)
    if endpoint.ipv6:
        for address in endpoint.addresses[1:]:
            _forget(endpoint, ip_interface(address).ip.packed)
    if known not in ("", endpoint.mac) or endpoint.mac != mac_of(first):
        _tell(endpoint.bridge, first.packed, packed_mac(endpoint.mac))


def _forget(endpoint: Endpoint, address: bytes) -> str:
    """The MAC that the host knew for an address; another than the endpoint's is forgotten."""
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    body = struct.pack("=BBHiHBB", family, 0, 0, index_of(endpoint.bridge), 0, 0, 0)
    body += struct.pack("=HH", 4 + len(address), _NDA_DST) + address
    with Netlink() as netlink:
        try:
            known = attributes(netlink.ask(RTM_GETNEIGH, body)[0], 12).get(_NDA_LLADDR, b"").hex(":")
        except OSError:  # the host does not know it, or its kernel (before 5.0) does not say
            return ""
        if known and known != endpoint.mac:
            with suppress(FileNotFoundError):
                netlink.ask(RTM_DELNEIGH, body, NLM_F_ACK)
    return known


def _tell(bridge: str, address: bytes, mac: bytes) -> None:
    frame = b"\xff" * 6 + mac + struct.pack("!HHHBBH", _ETH_ARP, 1, _ETH_IP, 6, 4, _ARP_REQUEST)
    frame += mac + address + bytes(6) + address
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC) as wire:
        wire.bind((bridge, 0))
        try:
            wire.send(frame)
        except OSError as error:  # a bridge that is down has no neighbours; its repair is another's
            if error.errno != errno.ENETDOWN:
                raise
