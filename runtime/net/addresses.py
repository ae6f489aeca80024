"""Decisions: which subnet a network gets, which address a container gets, and the names and MACs that follow.

Pure: what is taken is an argument. Addresses are IPv4 (text at the edges, `ipaddress` inside).
"""

from __future__ import annotations

import hashlib
from base64 import b32encode
from collections.abc import Collection, Iterable
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError

#: Size of the subnets that are cut from the pool.
SUBNET_PREFIX = 24
#: A network smaller than this has no room for a gateway and a container.
MAX_PREFIX = 30


def parse_subnet(text: str) -> IPv4Network:
    """A network in CIDR form without host bits. ValueError with a text for people."""
    if ":" in text:
        raise ValueError(f"subnet {text} is IPv6, which is not supported yet")
    try:
        subnet = IPv4Network(text)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise ValueError(str(error).lower()) from None
    if subnet.prefixlen > MAX_PREFIX:
        raise ValueError(f"subnet {subnet} is too small: the prefix is {MAX_PREFIX} at most")
    return subnet


def parse_gateway(text: str, subnet: IPv4Network) -> IPv4Address:
    """The gateway asked for, else the first address. ValueError when it is no host address of `subnet`."""
    if not text:
        return subnet.network_address + 1
    try:
        gateway = IPv4Address(text)
    except AddressValueError as error:
        raise ValueError(str(error).lower()) from None
    if gateway not in subnet or gateway in (subnet.network_address, subnet.broadcast_address):
        raise ValueError(f"gateway {gateway} is not a host address of {subnet}")
    return gateway


def free_subnet(pool: IPv4Network, taken: Collection[IPv4Network]) -> IPv4Network | None:
    """The lowest subnet of the pool that overlaps nothing in `taken`; None when there is none."""
    prefix = max(SUBNET_PREFIX, pool.prefixlen)
    step = 1 << (32 - prefix)
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
    return IPv4Network((candidate, prefix))


def overlapping(subnet: IPv4Network, taken: Iterable[IPv4Network]) -> IPv4Network | None:
    """The first of `taken` that shares an address with `subnet`."""
    return next((other for other in taken if subnet.overlaps(other)), None)


def next_address(
    subnet: IPv4Network, gateway: IPv4Address, taken: Collection[IPv4Address], last: IPv4Address | None
) -> IPv4Address | None:
    """The next free host address after `last`, round the subnet: a released one is reused as late as can be.

    None when the subnet is full.
    """
    low, high = int(subnet.network_address) + 1, int(subnet.broadcast_address) - 1
    busy = {int(address) for address in taken}
    busy.add(int(gateway))
    start = int(last) + 1 if last is not None and low <= int(last) < high else low
    for candidate in range(start, high + 1):
        if candidate not in busy:
            return IPv4Address(candidate)
    for candidate in range(low, min(start, high + 1)):
        if candidate not in busy:
            return IPv4Address(candidate)
    return None


def mac_of(address: str | IPv4Address) -> str:
    """A locally administered unicast MAC that follows from the address: neighbours' caches stay right."""
    octets = IPv4Address(address).packed
    return "02:5d:" + ":".join(f"{octet:02x}" for octet in octets)


# ---------------------------------------------------------------- names of kernel objects (IFNAMSIZ: 15)


#: what the nftables table of every state directory begins with
TABLE = "stead_"


def _hash(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]


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


def link_name(root: str, container: str, network: str) -> str:
    """The host end of the pair that ties a container to a network."""
    return link_prefix(root) + _short(f"{container} {network}", 7)


def table_name(root: str) -> str:
    """The nftables table of this state directory."""
    return TABLE + _hash(root, 12)
