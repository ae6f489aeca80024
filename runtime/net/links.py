"""Effects: bridges, veth pairs, addresses and routes, each call an "ensure"; and one dump of what is there.

Everything names links, never remembers indexes. A container's end of a pair is made inside its network
namespace by one message from outside (IFLA_NET_NS_FD), its address and route by a socket opened inside.
veth(4), rtnetlink(7), Documentation/networking/ip-sysctl.rst.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any

from runtime.linux import namespaces
from runtime.net.addresses import mac_of
from runtime.net.messages import encoders
from runtime.net.netlink import (
    NLM_F_ACK,
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
RTM_DELNEIGH, RTM_GETNEIGH = 29, 30

_KINDS = {
    RTM_NEWLINK: "ifinfmsg",
    RTM_DELLINK: "ifinfmsg",
    RTM_NEWADDR: "ifaddrmsg",
    RTM_DELADDR: "ifaddrmsg",
}

IFF_UP = 0x1
RT_TABLE_MAIN = 254
_RTPROT_BOOT, _RT_SCOPE_UNIVERSE, _RTN_UNICAST = 3, 0, 1
_SKIP_STATS = 1 << 3  # RTEXT_FILTER_SKIP_STATS

_IFF_LOWER_UP = 0x10000
_IFLA_LINK, _IFLA_LINK_NETNSID = 5, 37
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 4, 10, 18
_IFLA_STATS64, _IFLA_EXT_MASK = 23, 29
_IFLA_INFO_KIND, _IFLA_INFO_SLAVE_DATA = 1, 5
_IFLA_BRPORT_MODE = 4
_IFA_ADDRESS, _IFA_LOCAL, _IFA_TARGET_NETNSID = 1, 2, 10
_RTA_DST, _RTA_OIF, _RTA_TABLE = 1, 4, 15
_NDA_DST, _NDA_LLADDR = 1, 2
_ETH_IP, _ETH_ARP, _ARP_REQUEST = 0x0800, 0x0806, 1

DEFAULT_MTU = 1500


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
    carrier: bool = True
    peer: int = 0  # the other end's index in the namespace that `nsid` names here; -1: in this one
    nsid: int = -1
    stats: tuple[
        int, ...
    ] = ()  # rx_packets, tx_packets, rx_bytes, tx_bytes, rx_err, tx_err, rx_drop, tx_drop


@dataclass(frozen=True, slots=True)
class Bridge:
    """A network's bridge as it should be. `address` is the gateway with its prefix length."""

    name: str
    address: str
    mac: str
    mtu: int


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A container's tie to one network as it should be. `position` numbers its interface: eth0, eth1, ...

    `gateway` is empty when the default route is not here.
    """

    host: str
    bridge: str
    position: int
    address: str
    mac: str
    mtu: int
    gateway: str = ""

    @property
    def inside(self) -> str:
        return f"eth{self.position}"


# ---------------------------------------------------------------- look


def links(*, stats: bool = False) -> dict[str, Link]:
    """Every interface of this thread's network namespace by name, in one dump."""
    body = struct.pack("=BBHiII", socket.AF_UNSPEC, 0, 0, 0, 0, 0)
    body += struct.pack("=HHI", 8, _IFLA_EXT_MASK, 0 if stats else _SKIP_STATS)
    with Netlink() as netlink:
        answers = netlink.ask(RTM_GETLINK, body, NLM_F_DUMP)
    return {link.name: link for link in map(_link, answers)}


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
        carrier=bool(flags & _IFF_LOWER_UP),
        peer=number(found.get(_IFLA_LINK)),
        nsid=number(found[_IFLA_LINK_NETNSID]) if _IFLA_LINK_NETNSID in found else -1,
        stats=struct.unpack_from("=8Q", stats) if stats else (),
    )


def addresses() -> dict[int, set[str]]:
    """IPv4 addresses (CIDR) by interface index, in one dump."""
    found: dict[int, set[str]] = {}
    with Netlink() as netlink:
        for data in netlink.ask(RTM_GETADDR, struct.pack("=BBBBi", socket.AF_INET, 0, 0, 0, 0), NLM_F_DUMP):
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
        """IPv4 addresses (CIDR) of the other end; None when the kernel does not tell."""
        body = struct.pack("=BBBBi", socket.AF_INET, 0, 0, 0, link.peer)
        body += struct.pack("=HHi", 8, _IFA_TARGET_NETNSID, link.nsid)
        try:
            return {_address(data)[1] for data in self._netlink.ask(RTM_GETADDR, body, NLM_F_DUMP)}
        except OSError:
            return None


def _address(data: bytes) -> tuple[int, str]:
    _, prefix, _, _, index = struct.unpack_from("=BBBBi", data)
    given = attributes(data, 8)
    local = given.get(_IFA_LOCAL) or given.get(_IFA_ADDRESS)
    return index, f"{socket.inet_ntoa(local)}/{prefix}" if local else ""


def routes() -> list[tuple[IPv4Network, int]]:
    """Destinations of the main routing table but the default route, with the interface's index."""
    found = []
    with Netlink() as netlink:
        body = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)
        for data in netlink.ask(RTM_GETROUTE, body, NLM_F_DUMP):
            _, prefix, _, _, table = struct.unpack_from("=BBBBB", data)
            given = attributes(data, 12)
            destination = given.get(_RTA_DST)
            if (number(given.get(_RTA_TABLE)) or table) != RT_TABLE_MAIN or not destination:
                continue
            network = IPv4Network((int.from_bytes(destination, "big"), prefix))
            found.append((network, number(given.get(_RTA_OIF))))
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


def _set_link(index: int, *, attrs: Sequence[tuple[str, Any]] = (), up: bool = True) -> Any:
    state = {"flags": IFF_UP, "change": IFF_UP} if up else {}
    return _message(RTM_NEWLINK, index=index, attrs=list(attrs), **state)


def _delete_link(name: str) -> Any:
    return _message(RTM_DELLINK, attrs=[("IFLA_IFNAME", name)])


def _add_address(index: int, address: str) -> Any:
    given = IPv4Interface(address)
    return _message(
        RTM_NEWADDR,
        NLM_F_CREATE | NLM_F_REPLACE,
        family=socket.AF_INET,
        prefixlen=given.network.prefixlen,
        index=index,
        attrs=[
            ("IFA_LOCAL", str(given.ip)),
            ("IFA_ADDRESS", str(given.ip)),
            ("IFA_BROADCAST", str(given.network.broadcast_address)),
        ],
    )


def _delete_address(index: int, address: str) -> Any:
    given = IPv4Interface(address)
    return _message(
        RTM_DELADDR,
        family=socket.AF_INET,
        prefixlen=given.network.prefixlen,
        index=index,
        attrs=[("IFA_LOCAL", str(given.ip))],
    )


def _default_route(index: int, gateway: str) -> Any:
    return _message(
        RTM_NEWROUTE,
        NLM_F_CREATE | NLM_F_REPLACE,
        family=socket.AF_INET,
        dst_len=0,
        table=RT_TABLE_MAIN,
        proto=_RTPROT_BOOT,
        scope=_RT_SCOPE_UNIVERSE,
        type=_RTN_UNICAST,
        attrs=[("RTA_GATEWAY", gateway), ("RTA_OIF", index)],
    )


def _hairpin(index: int, on: bool) -> Any:
    slave = [("IFLA_INFO_SLAVE_KIND", "bridge")]
    slave.append(("IFLA_INFO_SLAVE_DATA", {"attrs": [("IFLA_BRPORT_MODE", int(on))]}))  # type: ignore[arg-type]
    return _message(RTM_NEWLINK, index=index, attrs=[("IFLA_LINKINFO", {"attrs": slave})])


# ---------------------------------------------------------------- bridges


def ensure_bridge(bridge: Bridge) -> int:
    """Make or mend a bridge: up, its MAC, MTU and exactly its address, no IPv6. Returns its index.

    Raises OSError; EOPNOTSUPP where the kernel has no bridges (module `bridge`).
    """
    with Netlink() as netlink:
        index = index_of(bridge.name)
        if not index:
            made = _message(
                RTM_NEWLINK,
                NLM_F_CREATE | NLM_F_EXCL,
                attrs=[
                    ("IFLA_IFNAME", bridge.name),
                    ("IFLA_ADDRESS", bridge.mac),
                    ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "bridge")]}),
                ],
            )
            ((code, _),) = netlink.try_all((made, bridge.name))
            if code not in (0, errno.EEXIST):
                raise OSError(code, os.strerror(code), bridge.name)
            index = socket.if_nametoindex(bridge.name)
        write_sysctl(f"ipv6/conf/{bridge.name}/disable_ipv6", "1", optional=True)
        attrs = [("IFLA_ADDRESS", bridge.mac), ("IFLA_MTU", bridge.mtu)]
        wrong = addresses().get(index, set()) - {bridge.address}
        netlink.change(
            *((_delete_address(index, address), bridge.name) for address in sorted(wrong)),
            (_set_link(index, attrs=attrs), bridge.name),
            (_add_address(index, bridge.address), bridge.name),
        )
    write_sysctl(f"ipv4/conf/{bridge.name}/route_localnet", "1")
    return index


def delete_links(names: Iterable[str]) -> None:
    """Links of these names go; what is gone already is fine."""
    present = [name for name in names if index_of(name)]
    if not present:
        return
    with Netlink() as netlink:
        for code, name in netlink.try_all(*((_delete_link(name), name) for name in present)):
            if code not in (0, errno.ENODEV):
                raise OSError(code, os.strerror(code), name)


def enslave(bridge: str, names: Iterable[str], *, hairpin: bool) -> None:
    """Make these links up and ports of the bridge; names that do not exist are passed over."""
    master = socket.if_nametoindex(bridge)
    with Netlink() as netlink:
        for name in names:
            index = index_of(name)
            if index:
                attrs = [("IFLA_MASTER", master)]
                netlink.change((_set_link(index, attrs=attrs), name), (_hairpin(index, hairpin), name))


# ---------------------------------------------------------------- containers


def ensure_endpoint(endpoint: Endpoint, netns: Path, *, hairpin: bool) -> None:
    """Make or mend one tie of the container whose network namespace is bound at `netns`. Raises OSError."""
    with namespaces.in_netns(netns):
        inside = Netlink()
        there = index_of(endpoint.inside)
    with inside:
        if there and not (index_of(endpoint.host) and _peers(endpoint.host, there)):
            inside.try_all((_delete_link(endpoint.inside), endpoint.inside))
            there = 0
        if there:
            enslave(endpoint.bridge, [endpoint.host], hairpin=hairpin)
        else:
            delete_links([endpoint.host])
            _make_pair(endpoint, netns, hairpin)
        with namespaces.in_netns(netns):
            index = socket.if_nametoindex(endpoint.inside)
            write_sysctl(f"ipv6/conf/{endpoint.inside}/disable_ipv6", "1", optional=True)
            wrong = addresses().get(index, set()) - {endpoint.address} if there else set()
        work = [(_delete_address(index, address), endpoint.inside) for address in sorted(wrong)]
        attrs = [("IFLA_ADDRESS", endpoint.mac), ("IFLA_MTU", endpoint.mtu)] if there else []
        work.append((_set_link(index, attrs=attrs), endpoint.inside))
        work.append((_add_address(index, endpoint.address), f"{endpoint.inside} {endpoint.address}"))
        if endpoint.gateway:
            work.append((_default_route(index, endpoint.gateway), f"default route by {endpoint.gateway}"))
        inside.change(*work)
    if not there:
        _announce(endpoint)


def _announce(endpoint: Endpoint) -> None:
    """Neighbours that remember another MAC for this address learn the one it has now, which they would ask
    for half a minute later: the host forgets what it knew, containers are told (RFC 5227, section 3).

    Told only where that may be so, for closing a packet socket takes the kernel 10 ms (synchronize_net).
    """
    address = IPv4Interface(endpoint.address).ip
    body = struct.pack("=BBHiHBB", socket.AF_INET, 0, 0, index_of(endpoint.bridge), 0, 0, 0)
    body += struct.pack("=HH", 8, _NDA_DST) + address.packed
    with Netlink() as netlink:
        try:
            known = attributes(netlink.ask(RTM_GETNEIGH, body)[0], 12).get(_NDA_LLADDR, b"").hex(":")
        except OSError:  # the host does not know it, or its kernel (before 5.0) does not say
            known = ""
        if known and known != endpoint.mac:
            with suppress(FileNotFoundError):
                netlink.ask(RTM_DELNEIGH, body, NLM_F_ACK)
    if known not in ("", endpoint.mac) or endpoint.mac != mac_of(address):
        _tell(endpoint.bridge, address.packed, bytes.fromhex(endpoint.mac.replace(":", "")))


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


def _peers(host: str, inside: int) -> bool:
    """Whether the peer of the veth `host` has the index `inside` (iflink, sysfs-class-net)."""
    with Netlink() as netlink:
        body = struct.pack("=BBHiII", socket.AF_UNSPEC, 0, 0, index_of(host), 0, 0)
        (data,) = netlink.ask(RTM_GETLINK, body)[:1]
    return number(attributes(data, 16).get(_IFLA_LINK)) == inside


def _make_pair(endpoint: Endpoint, netns: Path, hairpin: bool) -> None:
    """The host's end up and on the bridge, the other in `netns`; not up, which the pair must be whole for."""
    with open(netns, "rb") as namespace, Netlink() as netlink:
        netlink.change((_pair(endpoint, namespace.fileno()), f"veth {endpoint.host}"))
        if hairpin:
            netlink.change((_hairpin(socket.if_nametoindex(endpoint.host), True), endpoint.host))


def _pair(endpoint: Endpoint, namespace: int) -> Any:
    peer = {
        "attrs": [
            ("IFLA_IFNAME", endpoint.inside),
            ("IFLA_ADDRESS", endpoint.mac),
            ("IFLA_MTU", endpoint.mtu),
            ("IFLA_NET_NS_FD", namespace),
        ],
    }
    kind = [
        ("IFLA_INFO_KIND", "veth"),
        ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", peer)]}),
    ]
    return _message(
        RTM_NEWLINK,
        NLM_F_CREATE | NLM_F_EXCL,
        flags=IFF_UP,
        change=IFF_UP,
        attrs=[
            ("IFLA_IFNAME", endpoint.host),
            ("IFLA_MTU", endpoint.mtu),
            ("IFLA_MASTER", socket.if_nametoindex(endpoint.bridge)),
            ("IFLA_LINKINFO", {"attrs": kind}),
        ],
    )


# ---------------------------------------------------------------- sysctls


def read_sysctl(name: str) -> str:
    """The value of /proc/sys/net/<name> in this thread's network namespace; empty when it does not exist."""
    try:
        fd = os.open(f"/proc/sys/net/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        return os.read(fd, 256).decode().strip()
    finally:
        os.close(fd)


def write_sysctl(name: str, value: str, *, optional: bool = False) -> None:
    """Set it; nothing is written where it has the value. `optional`: a name that does not exist is fine."""
    if read_sysctl(name) == value:
        return
    try:
        fd = os.open(f"/proc/sys/net/{name}", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if optional:
            return
        raise
    try:
        os.write(fd, value.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"/proc/sys/net/{name}") from None
    finally:
        os.close(fd)


def hairpin_needed() -> bool:
    """Whether bridged packets pass the ip hooks (br_netfilter): then the packets of a container that reaches
    itself through its published port leave by the bridge port they came in by.
    """
    return read_sysctl("bridge/bridge-nf-call-iptables") == "1"
