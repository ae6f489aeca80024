"""Decisions: which subnet a network gets, which address a container gets, and the names and MACs that follow.

Pure: what is taken is an argument. Addresses are text at the edges, `ipaddress` inside; what holds for both
families is written once.
"""

from __future__ import annotations

import hashlib
from base64 import b32encode
from collections.abc import Collection, Container, Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeVar

#: Size of the subnets that are cut from the pools.
SUBNET_PREFIX = 24
SUBNET_PREFIX6 = 64
#: A network smaller than this has no room for a gateway and a container.
MAX_PREFIX = 30
MAX_PREFIX6 = 126

Net = TypeVar("Net", IPv4Network, IPv6Network)
AnyAddress = IPv4Address | IPv6Address
AnyNetwork = IPv4Network | IPv6Network


def parse_subnet(text: str) -> IPv4Network:
    """A network in CIDR form without host bits. ValueError with a text for people."""
    return _subnet(IPv4Network, text, MAX_PREFIX)


def parse_subnet6(text: str) -> IPv6Network:
    """The same of IPv6. ValueError with a text for people."""
    subnet = _subnet(IPv6Network, text, MAX_PREFIX6)
    if subnet.is_link_local or subnet.is_multicast or subnet.is_loopback:
        raise ValueError(f"subnet {subnet} cannot be routed: take one of fd00::/8, or a global one")
    return subnet


def _subnet(kind: type[Net], text: str, most: int) -> Net:
    try:
        found = ip_network(text)
    except ValueError as error:
        raise ValueError(str(error).lower()) from None
    if not isinstance(found, kind):
        raise ValueError(f"subnet {text} is of IPv{found.version}, not IPv{10 - found.version}")
    if found.prefixlen > most:
        raise ValueError(f"subnet {found} is too small: the prefix is {most} at most")
    return found


def parse_range(text: str, subnet: Net) -> Net | None:
    """The part of `subnet` that addresses are taken from; None for empty. ValueError."""
    if not text:
        return None
    try:
        found = ip_network(text)
    except ValueError as error:
        raise ValueError(str(error).lower()) from None
    if not isinstance(found, type(subnet)) or not found.subnet_of(subnet):
        raise ValueError(f"ip_range {text} is not within {subnet}")
    return found


def parse_gateway(text: str, subnet: AnyNetwork) -> AnyAddress:
    """The gateway asked for, else the first address. ValueError when it is no host address of `subnet`."""
    return parse_host(text, subnet, "gateway") if text else subnet.network_address + 1


def parse_host(text: str, subnet: AnyNetwork, what: str = "address") -> AnyAddress:
    """An address that a host of `subnet` may have. ValueError."""
    try:
        found = ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is no IPv{subnet.version} address") from None
    low, high = _bounds(subnet)
    if found.version != subnet.version or not low <= int(found) <= high:
        raise ValueError(f"{what} {found} is not a host address of {subnet}")
    return found


def _bounds(subnet: AnyNetwork) -> tuple[int, int]:
    """The first and the last host address. IPv6 has no broadcast, its first address is the routers'."""
    last = int(subnet.broadcast_address) - (1 if subnet.version == 4 else 0)
    return int(subnet.network_address) + 1, last


def free_subnet(pool: Net, taken: Collection[Net]) -> Net | None:
    """The lowest subnet of the pool that overlaps nothing in `taken`; None when there is none."""
    prefix = max(SUBNET_PREFIX if pool.version == 4 else SUBNET_PREFIX6, pool.prefixlen)
    step = 1 << (pool.max_prefixlen - prefix)
    candidate = int(pool.network_address)
    end = int(pool.broadcast_address)
    spans = sorted((int(net.network_address), int(net.broadcast_address)) for net in taken)
    for first, last in spans:
        if last < candidate:
            continue
        if first > candidate + step - 1:
            break
        candidate = (last // step + 1) * step
    if candidate + step - 1 > end:
        return None
    return type(pool)((candidate, prefix))


def ula_pool(seed: str) -> IPv6Network:
    """The /48 of fd00::/8 that networks of this seed are cut from: a pseudo-random global id, RFC 4193,
    section 3.2.2."""
    return IPv6Network((b"\xfd" + hashlib.sha256(seed.encode()).digest()[:5] + bytes(10), 48))


def overlapping(subnet: Net, taken: Iterable[Net]) -> Net | None:
    """The first of `taken` that shares an address with `subnet`."""
    return next((other for other in taken if subnet.overlaps(other)), None)


def next_address(
    subnet: AnyNetwork,
    gateway: AnyAddress,
    taken: Container[AnyAddress],
    last: AnyAddress | None,
    within: AnyNetwork | None = None,
) -> AnyAddress | None:
    """The next free host address after `last`, round the subnet: a released one is reused as late as can be.

    None when the subnet, or the part `within` of it, is full.
    """
    kind: type[AnyAddress] = type(gateway)
    low, high = _bounds(subnet)
    if within is not None:
        low, high = max(low, int(within.network_address)), min(high, int(within.broadcast_address))
    start = int(last) + 1 if last is not None and low <= int(last) < high else low
    for span in (range(start, high + 1), range(low, min(start, high + 1))):
        for candidate in span:
            address = kind(candidate)
            if address != gateway and address not in taken:
                return address
    return None


def mac_of(address: str | AnyAddress) -> str:
    """A locally administered unicast MAC that follows from the address: neighbours' caches stay right."""
    octets = IPv4Address(address).packed
    return "02:5d:" + ":".join(f"{octet:02x}" for octet in octets)


def shard_mac(name: str) -> str:
    """Of a bridge without an address, from its name; no address leads to such a one (02:5e)."""
    return "02:5e:" + hashlib.sha256(name.encode()).digest()[:4].hex(":")


# ---------------------------------------------------------------- names of kernel objects (IFNAMSIZ: 15)


#: names that are kept: a look wants several for each container
KNOWN = 16384
#: what the nftables table of every state directory begins with
TABLE = "stead_"


def _hash(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]


@lru_cache(maxsize=KNOWN)
def _short(text: str, length: int) -> str:
    """5 bits a character, where characters are few: 25 bits keep roots apart, 35 the links of one root."""
    return b32encode(hashlib.sha256(text.encode()).digest()).decode().lower()[:length]


def bridge_prefix(root: str) -> str:
    """What every bridge of this state directory begins with."""
    return "stb" + _short(root, 5)


def link_prefix(root: str) -> str:
    """What every host end of a veth pair of this state directory begins with."""
    return "stv" + _short(root, 5)


def bridge_name(root: str, network: str) -> str:
    return bridge_prefix(root) + _short(network, 7)


def shard_name(root: str, network: str, shard: int) -> str:
    """The bridge for members beyond what one bridge takes; 0 is the network's own."""
    return bridge_name(root, f"{network} {shard}" if shard else network)


def uplink_names(root: str, network: str, shard: int) -> tuple[str, str]:
    """The pair that ties a further bridge to the network's own: the end there, and the end on itself."""
    return link_name(root, f"uplink {shard}", network), link_name(root, f"downlink {shard}", network)


def packed_mac(mac: str) -> bytes:
    """As a frame has it."""
    return bytes.fromhex(mac.replace(":", ""))


@lru_cache(maxsize=KNOWN)
def link_name(root: str, container: str, network: str) -> str:
    """The host end of the pair that ties a container to a network."""
    return link_prefix(root) + _short(f"{container} {network}", 7)


def table_name(root: str) -> str:
    """The nftables table of this state directory."""
    return TABLE + _hash(root, 12)
