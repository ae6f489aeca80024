"""Effects: bridges, addresses and settings of links, each call an "ensure"; and one dump of what is there.

Everything names links, never remembers indexes. What is made in containers stands in runtime.net.endpoints.
veth(4), rtnetlink(7), Documentation/networking/ip-sysctl.rst.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_interface
from pathlib import Path
from typing import Any

from runtime.net import straight
from runtime.net.addresses import KNOWN
from runtime.net.messages import encoders
from runtime.net.netlink import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Netlink,
    attributes,
    number,
    text,
)

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_GETROUTE = 24, 26

_KINDS = {
    RTM_NEWLINK: "ifinfmsg",
    RTM_DELLINK: "ifinfmsg",
    RTM_NEWADDR: "ifaddrmsg",
    RTM_DELADDR: "ifaddrmsg",
}

#: Seconds between two looks whether a link has gone.
_GOING = 0.0005

IFF_UP = 0x1
RT_TABLE_MAIN = 254
_RTPROT_BOOT, _RT_SCOPE_UNIVERSE, _RTN_UNICAST = 3, 0, 1
_SKIP_STATS = 1 << 3  # RTEXT_FILTER_SKIP_STATS

_IFF_LOWER_UP = 0x10000
_IFLA_LINK, _IFLA_LINK_NETNSID = 5, 37
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 4, 10, 18
_IFLA_STATS64, _IFLA_EXT_MASK = 23, 29
_IFLA_INFO_KIND, _IFLA_INFO_SLAVE_DATA = 1, 5
_IFLA_BRPORT_MODE, _IFLA_BRPORT_ISOLATED = 4, 33
_IFA_F_NODAD, _RT_SCOPE_LINK = 0x02, 253
_IFA_ADDRESS, _IFA_LOCAL, _IFA_TARGET_NETNSID = 1, 2, 10
_RTA_DST, _RTA_OIF, _RTA_TABLE = 1, 4, 15

DEFAULT_MTU = 1500
#: Members on one bridge. Linux gives it 1,023 ports (BR_MAX_PORTS); those left tie further bridges to it.
MEMBERS = 1000
MOST_SHARDS = 24

#: whether bridged packets pass the hooks of iptables and nftables
BRIDGED_HOOKS = "bridge/bridge-nf-call-iptables"


@dataclass(frozen=True, slots=True)
class Link:
    """One interface as the kernel shows it. `master` is an index, 0: none.

    `stats`: packets received and sent, bytes received and sent, then errors and drops likewise.
    """

    index: int
    name: str
    up: bool
    kind: str
    mtu: int
    master: int
    mac: str
    hairpin: bool
    isolated: bool = False
    carrier: bool = True
    peer: int = 0  # the other end's index in the namespace that `nsid` names here; -1: in this one
    nsid: int = -1
    stats: tuple[
        int, ...
    ] = ()  # rx_packets, tx_packets, rx_bytes, tx_bytes, rx_err, tx_err, rx_drop, tx_drop


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge as it should be. `addresses` are the gateways with their prefix lengths: none where it only
    carries more members of a network."""

    name: str
    addresses: frozenset[str]
    mac: str
    mtu: int

    @property
    def ipv6(self) -> bool:
        return any(":" in address for address in self.addresses)


# ---------------------------------------------------------------- look


def links(*, stats: bool = False) -> dict[str, Link]:
    """Every interface of this thread's network namespace by name, in one dump."""
    body = struct.pack("=BBHiII", socket.AF_UNSPEC, 0, 0, 0, 0, 0)
    body += struct.pack("=HHI", 8, _IFLA_EXT_MASK, 0 if stats else _SKIP_STATS)
    with Netlink() as netlink:
        answers = netlink.ask(RTM_GETLINK, body, NLM_F_DUMP)
    read = _link if stats else _known_link
    return {link.name: link for link in map(read, answers)}


@lru_cache(maxsize=KNOWN)
def _known_link(data: bytes) -> Link:
    """Without counters most links are told in the bytes of the last look: to be read once."""
    return _link(data)


def _link(data: bytes) -> Link:
    index, flags = struct.unpack_from("=iI", data, 4)
    found = attributes(data, 16)
    info = attributes(found.get(_IFLA_LINKINFO, b""))
    slave = attributes(info.get(_IFLA_INFO_SLAVE_DATA, b""))
    stats = found.get(_IFLA_STATS64)
    return Link(
        index=index,
        name=text(found.get(_IFLA_IFNAME)),
        up=bool(flags & IFF_UP),
        kind=text(info.get(_IFLA_INFO_KIND)),
        mtu=number(found.get(_IFLA_MTU)),
        master=number(found.get(_IFLA_MASTER)),
        mac=found.get(_IFLA_ADDRESS, b"").hex(":"),
        hairpin=bool(number(slave.get(_IFLA_BRPORT_MODE))),
        isolated=bool(number(slave.get(_IFLA_BRPORT_ISOLATED))),
        carrier=bool(flags & _IFF_LOWER_UP),
        peer=number(found.get(_IFLA_LINK)),
        nsid=number(found[_IFLA_LINK_NETNSID]) if _IFLA_LINK_NETNSID in found else -1,
        stats=struct.unpack_from("=8Q", stats) if stats else (),
    )


def addresses() -> dict[int, set[str]]:
    """Addresses (CIDR) of both families by interface index, in one dump."""
    found: dict[int, set[str]] = {}
    with Netlink() as netlink:
        body = struct.pack("=BBBBi", socket.AF_UNSPEC, 0, 0, 0, 0)
        for data in netlink.ask(RTM_GETADDR, body, NLM_F_DUMP):
            index, address = _address(data)
            if address:
                found.setdefault(index, set()).add(address)
    return found


class Inside:
    """Looks at the other ends of veth pairs from outside: rtnetlink answers for a namespace by its number.

    IFA_TARGET_NETNSID, Linux 4.20. A context manager; not thread-safe.
    """

    def __init__(self) -> None:
        self._netlink = Netlink()
        self._netlink.strict()

    def __enter__(self) -> Inside:
        return self

    def __exit__(self, *_: object) -> None:
        self._netlink.close()

    def addresses(self, link: Link) -> set[str] | None:
        """Addresses (CIDR) of the other end; None when the kernel does not tell."""
        body = struct.pack("=BBBBi", socket.AF_UNSPEC, 0, 0, 0, link.peer)
        body += struct.pack("=HHi", 8, _IFA_TARGET_NETNSID, link.nsid)
        try:
            return {_address(data)[1] for data in self._netlink.ask(RTM_GETADDR, body, NLM_F_DUMP)}
        except OSError:
            return None


@lru_cache(maxsize=KNOWN)
def _address(data: bytes) -> tuple[int, str]:
    family, prefix, _, _, index = struct.unpack_from("=BBBBi", data)
    given = attributes(data, 8)
    local = given.get(_IFA_LOCAL) or given.get(_IFA_ADDRESS)
    return index, f"{socket.inet_ntop(family, local)}/{prefix}" if local else ""


def is_automatic(address: str) -> bool:
    """Whether the kernel gives such an address (CIDR) by itself: link-local ones of IPv6."""
    return address.startswith("fe80:")


def routes() -> list[tuple[IPv4Network, int]]:
    """Destinations of the main routing table but the default route, with the interface's index."""
    return [(IPv4Network(where), index) for where, index in _routes(socket.AF_INET)]


def routes6() -> list[tuple[IPv6Network, int]]:
    """The same of IPv6, without link-local ones, which every interface has."""
    found = [(IPv6Network(where), index) for where, index in _routes(socket.AF_INET6)]
    return [(net, index) for net, index in found if not net.is_link_local and not net.is_multicast]


def _routes(family: int) -> list[tuple[tuple[bytes, int], int]]:
    """((destination, prefix length), interface)"""
    found = []
    with Netlink() as netlink:
        body = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 0, 0)
        for data in netlink.ask(RTM_GETROUTE, body, NLM_F_DUMP):
            _, prefix, _, _, table = struct.unpack_from("=BBBBB", data)
            given = attributes(data, 12)
            destination = given.get(_RTA_DST)
            if (number(given.get(_RTA_TABLE)) or table) != RT_TABLE_MAIN or not destination:
                continue
            found.append(((destination, prefix), number(given.get(_RTA_OIF))))
    return found


def default_mtu() -> int:
    """The MTU of the interface with the default route where that is below 1500, as in tunnels and clouds."""
    interface = ""
    try:
        for line in Path("/proc/thread-self/net/route").read_text().splitlines()[1:]:
            words = line.split()
            if words[1] == "00000000" and words[7] == "00000000":
                interface = words[0]
                break
    except OSError:
        return DEFAULT_MTU
    link = links().get(interface)
    return min(DEFAULT_MTU, link.mtu) if link is not None and link.mtu else DEFAULT_MTU


@contextmanager
def alone() -> Iterator[None]:
    """No other thread or process of this network namespace is in such a block: flock(2) on the namespace."""
    fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def peer_of(host: str) -> int:
    """The index of the other end of a veth, in its own namespace."""
    with Netlink() as netlink:
        body = struct.pack("=BBHiII", socket.AF_UNSPEC, 0, 0, index_of(host), 0, 0)
        (data,) = netlink.ask(RTM_GETLINK, body)[:1]
    return number(attributes(data, 16).get(_IFLA_LINK))


def index_of(name: str) -> int:
    """The interface's index, 0 when there is none of this name."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


# ---------------------------------------------------------------- messages


def _message(kind: int, how: int = 0, **values: Any) -> Any:
    message = encoders()[_KINDS.get(kind, "rtmsg")]()
    message["header"]["type"] = kind
    message["header"]["flags"] = how
    for key, value in values.items():
        message[key] = value
    return message


def set_link(index: int, *, attrs: Sequence[tuple[str, Any]] = (), up: bool = True) -> Any:
    state = {"flags": IFF_UP, "change": IFF_UP} if up else {}
    return _message(RTM_NEWLINK, index=index, attrs=list(attrs), **state)


def new_link(attrs: Sequence[tuple[str, Any]], *, up: bool = False) -> Any:
    state = {"flags": IFF_UP, "change": IFF_UP} if up else {}
    return _message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, attrs=list(attrs), **state)


def delete_link(name: str) -> Any:
    return _message(RTM_DELLINK, attrs=[("IFLA_IFNAME", name)])


def add_address(index: int, address: str) -> Any:
    """Without a search for duplicates: the addresses are ours to give, and are to be there at once."""
    given = ip_interface(address)
    attrs = [("IFA_LOCAL", str(given.ip)), ("IFA_ADDRESS", str(given.ip))]
    values: dict[str, Any] = {"family": socket.AF_INET6, "flags": _IFA_F_NODAD}
    if given.version == 4:
        attrs.append(("IFA_BROADCAST", str(given.network.broadcast_address)))
        values = {"family": socket.AF_INET}
    if given.is_link_local:
        values["scope"] = _RT_SCOPE_LINK
    return _message(
        RTM_NEWADDR,
        NLM_F_CREATE | NLM_F_REPLACE,
        prefixlen=given.network.prefixlen,
        index=index,
        attrs=attrs,
        **values,
    )


def delete_address(index: int, address: str) -> Any:
    given = ip_interface(address)
    return _message(
        RTM_DELADDR,
        family=socket.AF_INET if given.version == 4 else socket.AF_INET6,
        prefixlen=given.network.prefixlen,
        index=index,
        attrs=[("IFA_LOCAL", str(given.ip))],
    )


def default_route(index: int, gateway: str) -> Any:
    return _message(
        RTM_NEWROUTE,
        NLM_F_CREATE | NLM_F_REPLACE,
        family=socket.AF_INET6 if ":" in gateway else socket.AF_INET,
        dst_len=0,
        table=RT_TABLE_MAIN,
        proto=_RTPROT_BOOT,
        scope=_RT_SCOPE_UNIVERSE,
        type=_RTN_UNICAST,
        attrs=[("RTA_GATEWAY", gateway), ("RTA_OIF", index)],
    )


def port_settings(index: int, *, hairpin: bool, isolated: bool = False) -> Any:
    """Of a link that is a port of a bridge; `isolated` ones do not reach each other (Linux 4.18)."""
    data: list[tuple[str, Any]] = [
        ("IFLA_BRPORT_MODE", int(hairpin)),
        ("IFLA_BRPORT_ISOLATED", int(isolated)),
    ]
    slave: list[tuple[str, Any]] = [("IFLA_INFO_SLAVE_KIND", "bridge")]
    slave.append(("IFLA_INFO_SLAVE_DATA", {"attrs": data}))
    return _message(RTM_NEWLINK, index=index, attrs=[("IFLA_LINKINFO", {"attrs": slave})])


def pair(name: str, peer: Sequence[tuple[str, Any]], attrs: Sequence[tuple[str, Any]]) -> Any:
    """A veth pair, up on this side."""
    data = {"attrs": [("VETH_INFO_PEER", {"attrs": list(peer)})]}
    kind = {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", data)]}
    return new_link([("IFLA_IFNAME", name), *attrs, ("IFLA_LINKINFO", kind)], up=True)


# ---------------------------------------------------------------- bridges


def ensure_bridge(bridge: Bridge) -> int:
    """Make or mend a bridge: up, its MAC, MTU and exactly its addresses; no IPv6 where none is of it.
    Returns its index.

    Raises OSError; EOPNOTSUPP where the kernel has no bridges (module `bridge`).
    """
    with Netlink() as netlink:
        index = index_of(bridge.name)
        if not index:
            kind = {"attrs": [("IFLA_INFO_KIND", "bridge")]}
            made = new_link(
                [("IFLA_IFNAME", bridge.name), ("IFLA_ADDRESS", bridge.mac), ("IFLA_LINKINFO", kind)]
            )
            ((code, _),) = netlink.try_all((made, bridge.name))
            if code not in (0, errno.EEXIST):
                raise OSError(code, os.strerror(code), bridge.name)
            index = socket.if_nametoindex(bridge.name)
        set_ipv6(bridge.name, bridge.ipv6)
        attrs = [("IFLA_ADDRESS", bridge.mac), ("IFLA_MTU", bridge.mtu)]
        wrong = {item for item in addresses().get(index, set()) - bridge.addresses if not is_automatic(item)}
        netlink.change(
            *((delete_address(index, address), bridge.name) for address in sorted(wrong)),
            (set_link(index, attrs=attrs), bridge.name),
            *((add_address(index, address), bridge.name) for address in sorted(bridge.addresses)),
        )
    if bridge.addresses:
        write_sysctl(f"ipv4/conf/{bridge.name}/route_localnet", "1")
    else:  # or it would answer for the host's addresses (ip-sysctl: any interface does)
        write_sysctl(f"ipv4/conf/{bridge.name}/arp_ignore", "8")
    return index


def ensure_uplink(bridge: str, further: str, names: tuple[str, str], mtu: int, *, isolated: bool) -> None:
    """Tie a bridge that carries more members to the network's own, by a pair of these names. OSError."""
    masters = [socket.if_nametoindex(bridge), socket.if_nametoindex(further)]
    with Netlink() as netlink:
        if not all(map(index_of, names)):
            delete_links(names)
            peer = [("IFLA_IFNAME", names[1]), ("IFLA_MTU", mtu)]
            netlink.change((pair(names[0], peer, [("IFLA_MTU", mtu)]), names[0]))
        for name, master, alone_there in zip(names, masters, (isolated, False), strict=True):
            index = socket.if_nametoindex(name)
            set_ipv6(name, False)
            attrs = [("IFLA_MASTER", master), ("IFLA_MTU", mtu)]
            netlink.change(
                (set_link(index, attrs=attrs), name),
                (port_settings(index, hairpin=False, isolated=alone_there), name),
            )


class _Removal(threading.Thread):
    """One link goes, in the network namespace of who starts this."""

    def __init__(self, name: str) -> None:
        super().__init__(name=f"remove {name}")
        self.link = name
        self.failure: OSError | None = None

    def run(self) -> None:
        try:
            with Netlink() as netlink:
                netlink.change((delete_link(self.link), self.link))
        except OSError as error:
            self.failure = error if error.errno != errno.ENODEV else None


def delete_links(names: Iterable[str]) -> None:
    """Links of these names go; what is gone already is fine.

    The kernel answers 16 ms after a link has gone, when no processor may look at it any more (rcu_barrier in
    net/core/dev.c, netdev_run_todo). A thread waits for that, and who calls this for the link only.
    """
    removals = [_Removal(name) for name in names if index_of(name)]
    for removal in removals:
        removal.start()
    for removal in removals:
        while removal.is_alive() and index_of(removal.link):
            removal.join(_GOING)
        if removal.failure is not None:
            raise removal.failure


def enslave(
    bridge: str, ends: Mapping[str, str], *, bridge_mac: str, hairpin: bool, isolated: bool = False
) -> None:
    """Make these links (with the MACs of the members behind them) up and ports of the bridge; those that do
    not exist are passed over. `bridge_mac` as straight.tie has it."""
    master = socket.if_nametoindex(bridge)
    with Netlink() as netlink:
        for name, mac in ends.items():
            index = index_of(name)
            if index:
                settings = port_settings(index, hairpin=hairpin, isolated=isolated)
                netlink.change((set_link(index, attrs=[("IFLA_MASTER", master)]), name), (settings, name))
                straight.tie(netlink, index, mac, master, bridge_mac)


# ---------------------------------------------------------------- sysctls


def read_sysctl(name: str) -> str:
    """The value of /proc/sys/net/<name> in this thread's network namespace; empty when it does not exist, or
    goes with its interface while it is read."""
    try:
        fd = os.open(f"/proc/sys/net/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 256).decode().strip()
        finally:
            os.close(fd)
    except FileNotFoundError:
        return ""


def write_sysctl(name: str, value: str, *, optional: bool = False) -> None:
    """Set it; nothing is written where it has the value. `optional`: a name that does not exist is fine."""
    if read_sysctl(name) == value:
        return
    path = f"/proc/sys/net/{name}"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None
        finally:
            os.close(fd)
    except FileNotFoundError:
        if not optional:
            raise


def forward_ipv6() -> None:
    """Let the host pass IPv6 packets on. It would not listen to routers any more then (accept_ra = 1 means:
    unless it forwards): interfaces that do now are told to go on (accept_ra = 2)."""
    if read_sysctl("ipv6/conf/all/forwarding") == "1":
        return
    for name in sorted(os.listdir("/proc/sys/net/ipv6/conf")):
        if name in ("all", "default", "lo") or name.startswith("st"):
            continue
        if read_sysctl(f"ipv6/conf/{name}/accept_ra") == "1":
            write_sysctl(f"ipv6/conf/{name}/accept_ra", "2", optional=True)
    write_sysctl("ipv6/conf/all/forwarding", "1")


def set_ipv6(name: str, on: bool) -> None:
    """Whether an interface has IPv6; with it, only what it is given: no router of the link is believed, and
    no address is tried out before it is used. Nothing to do on a kernel without IPv6."""
    if on:
        for key, value in (("accept_ra", "0"), ("accept_dad", "0"), ("ndisc_notify", "1")):
            write_sysctl(f"ipv6/conf/{name}/{key}", value, optional=True)
    write_sysctl(f"ipv6/conf/{name}/disable_ipv6", "0" if on else "1", optional=True)


def hairpin_needed() -> bool:
    """Whether bridged packets pass the ip hooks (br_netfilter): then the packets of a container that reaches
    itself through its published port leave by the bridge port they came in by.
    """
    return read_sysctl(BRIDGED_HOOKS) == "1"
