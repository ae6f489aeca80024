"""Effects: the way back of the host's own connections to [::1]:PORT that lead to a container.

Such a connection leaves by a bridge with the bridge's address; its answers are turned back to ::1 when they
come in. For IPv4 route_localnet lets them in; IPv6 has no such setting, but it lets in what a local route of
that interface covers (net/ipv6/route.c: a loopback address is looked for where its packet came in). So each
bridge gets `local ::1 dev BRIDGE metric 1024` in the table of local routes: connections to ::1 go by lo all
the same, whose route has metric 0, and a packet for ::1 that a container sends is dropped before any routing
(net/ipv6/ip6_input.c).

Where bridge netfilter is on for IPv6 (net.bridge.bridge-nf-call-ip6tables) an answer that comes through the
bridge, of a member without a straight way (straight.py), is turned back before it has left it, and that same
check would drop it. There a chain of its own table (ip6, returning) marks it, and one at the bridge's ingress
(netdev) hands what is marked to lo, on which ::1 may come in. A container cannot mark a packet, and what it
sends to ::1 itself meets the chain guard (rules.py) before. Both are tables that are there only then, since
every packet has to pass them.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection, Iterable, Mapping

from runtime.net import nft
from runtime.net.links import index_of, read_sysctl
from runtime.net.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, Netlink, attribute, attributes, number

_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_RTA_DST, _RTA_OIF, _RTA_PRIORITY, _RTA_TABLE = 1, 4, 6, 15
_RT_TABLE_LOCAL, _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RTN_LOCAL = 255, 4, 0, 2
_LOOPBACK = socket.inet_pton(socket.AF_INET6, "::1")
METRIC = 1024
#: What packets are marked with that are turned back to ::1: "WEAD".
_MARK = 0x57454144
_FAMILIES = ("ip6", "netdev")
_RETURNING = "returning"


def ensure(table: str, prefix: str, bridges: Iterable[str]) -> None:
    """The route, and where they are needed the chains, of each bridge that is there; no other chain.
    Repeatable. `table` is the name of ours, every bridge begins with `prefix`. Raises OSError; Fault
    firewall-failed.
    """
    indexes = {name: index for name in bridges if (index := index_of(name))}
    with Netlink() as netlink:
        for index in indexes.values():
            body = _head(128, _RTN_LOCAL)
            body += attribute(_RTA_DST, _LOOPBACK) + attribute(_RTA_OIF, struct.pack("=I", index))
            body += attribute(_RTA_PRIORITY, struct.pack("=I", METRIC))
            try:
                netlink.ask(_RTM_NEWROUTE, body, NLM_F_ACK | NLM_F_CREATE)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENETDOWN, errno.ENODEV, errno.EOPNOTSUPP):
                    raise
    text = chains_text(table, prefix, _held(table), indexes if _is_filtered() else ())
    done = nft.run(["-f", "-"], text) if text else None
    if done is not None and done.returncode:
        raise nft.refused("change", done)


def missing(table: str, bridges: Iterable[str]) -> list[str]:
    """What is not there of the bridges that are, in words."""
    indexes = {index: name for name in bridges if (index := index_of(name))}
    if not indexes:
        return []
    texts = []
    if _is_filtered():
        held = _held(table)
        at = held.get("netdev", {})
        for name in sorted(indexes.values()):
            if not at.get(name):
                state = "is empty" if name in at else "is gone"
                texts.append(f"the chain at {name}, by which answers to ::1 come in, {state}")
        if not held.get("ip6", {}).get(_RETURNING):
            texts.append("the chain that marks answers to ::1 is empty, or gone")
    with Netlink() as netlink:
        netlink.strict()
        for data in netlink.ask(_RTM_GETROUTE, _head(0, 0), NLM_F_DUMP):
            given = attributes(data, 12)
            if given.get(_RTA_DST) == _LOOPBACK:
                indexes.pop(number(given.get(_RTA_OIF)), None)
    return texts + [f"the route to ::1 at {name} is gone" for name in sorted(indexes.values())]


def _held(table: str) -> dict[str, Mapping[str, int]]:
    """By family of those tables that there are, the chains, and how many rules each has."""
    there = nft.tables()
    return {family: nft.chains(family, table) for family in _FAMILIES if (family, table) in there}


def chains_text(
    table: str, prefix: str, held: Mapping[str, Mapping[str, int]], bridges: Collection[str]
) -> str:
    """nft text from the chains that there are, by family with how many rules each has, to those that these
    bridges need; without a bridge, to no table."""
    if not bridges:  # right if they have gone meanwhile
        return "".join(f"add table {family} {table}\ndelete table {family} {table}\n" for family in held)
    at = held.get("netdev", {})
    lines = [f"delete chain netdev {table} {name}" for name in sorted(at.keys() - set(bridges))]
    for name in sorted(bridges):
        if not at.get(name):
            hook = f'{{ type filter hook ingress device "{name}" priority 0; policy accept; }}'
            rule = f'meta mark {_MARK:#x} ether daddr set 00:00:00:00:00:00 fwd to "lo"'
            lines += _chain("netdev", table, name, hook, rule)
    if not held.get("ip6", {}).get(_RETURNING):
        hook = "{ type filter hook prerouting priority -90; policy accept; }"
        which = f'ip6 daddr ::1 iifname "{prefix}*" ct direction reply ct status snat'
        lines += _chain("ip6", table, _RETURNING, hook, f"{which} meta mark set {_MARK:#x}")
    return "".join(f"{line}\n" for line in lines)


def _chain(family: str, table: str, name: str, hook: str, rule: str) -> list[str]:
    place = f"{family} {table}"
    return [f"add table {place}", f"add chain {place} {name} {hook}", f"add rule {place} {name} {rule}"]


def _is_filtered() -> bool:
    """Whether bridge netfilter may be on for IPv6: whoever switches it on finds the chain there."""
    return bool(read_sysctl("bridge/bridge-nf-call-ip6tables"))


def _head(length: int, kind: int) -> bytes:
    protocol, scope = (_RTPROT_STATIC, _RT_SCOPE_UNIVERSE) if kind else (0, 0)
    return struct.pack("=BBBBBBBBI", socket.AF_INET6, length, 0, 0, _RT_TABLE_LOCAL, protocol, scope, kind, 0)
