"""Effects: the way back of the host's own connections to [::1]:PORT that lead to a container.

Such a connection leaves by a bridge with the bridge's address; its answers are turned back to ::1 when they
come in. For IPv4 route_localnet lets them in; IPv6 has no such setting, but it lets in what a local route of
that interface covers (net/ipv6/route.c: a loopback address is looked for where its packet came in). So each
bridge gets `local ::1 dev BRIDGE metric 1024` in the table of local routes: connections to ::1 go by lo all
the same, whose route has metric 0, and a packet for ::1 that a container sends is dropped before any routing
(net/ipv6/ip6_input.c).

Where bridge netfilter is on for IPv6 (net.bridge.bridge-nf-call-ip6tables) an answer is turned back before it
has left the bridge, and that same check would drop it. There the rules mark it (rules.py, chain returning),
and a chain at the bridge's ingress hands what is marked to lo, on which ::1 may come in. A container cannot
mark a packet, and what it sends to ::1 itself meets the chain guard before.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection, Iterable, Mapping

from runtime.net import nft
from runtime.net.links import index_of, read_sysctl
from runtime.net.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, Netlink, attributes, number
from runtime.net.rules import RETURNING

_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_RTA_DST, _RTA_OIF, _RTA_PRIORITY, _RTA_TABLE = 1, 4, 6, 15
_RT_TABLE_LOCAL, _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RTN_LOCAL = 255, 4, 0, 2
_LOOPBACK = socket.inet_pton(socket.AF_INET6, "::1")
METRIC = 1024


def ensure(table: str, bridges: Iterable[str]) -> None:
    """The route, and where it is needed the chain, of each bridge that is there; no other chain. Repeatable.
    `table` is the name of ours. Raises OSError; Fault firewall-failed."""
    indexes = {name: index for name in bridges if (index := index_of(name))}
    with Netlink() as netlink:
        for index in indexes.values():
            body = _head(128, _RTN_LOCAL)
            body += _attribute(_RTA_DST, _LOOPBACK) + _attribute(_RTA_OIF, struct.pack("=I", index))
            body += _attribute(_RTA_PRIORITY, struct.pack("=I", METRIC))
            try:
                netlink.ask(_RTM_NEWROUTE, body, NLM_F_ACK | NLM_F_CREATE)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENETDOWN, errno.ENODEV, errno.EOPNOTSUPP):
                    raise
    text = ingress_text(table, nft.chains("netdev", table), indexes if _is_filtered() else ())
    if not indexes and ("netdev", table) in nft.tables():
        text = f"add table netdev {table}\ndelete table netdev {table}\n"  # right if it has gone meanwhile
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
        held = nft.chains("netdev", table)
        for name in sorted(indexes.values()):
            if not held.get(name):
                state = "is empty" if name in held else "is gone"
                texts.append(f"the chain at {name}, by which answers to ::1 come in, {state}")
    with Netlink() as netlink:
        netlink.strict()
        for data in netlink.ask(_RTM_GETROUTE, _head(0, 0), NLM_F_DUMP):
            given = attributes(data, 12)
            if given.get(_RTA_DST) == _LOOPBACK:
                indexes.pop(number(given.get(_RTA_OIF)), None)
    return texts + [f"the route to ::1 at {name} is gone" for name in sorted(indexes.values())]


def ingress_text(table: str, held: Mapping[str, int], bridges: Collection[str]) -> str:
    """nft text from the chains that there are, with how many rules each has, to one of each bridge."""
    lines = [f"delete chain netdev {table} {name}" for name in sorted(held.keys() - set(bridges))]
    for name in sorted(bridges):
        if not held.get(name):
            hook = f'{{ type filter hook ingress device "{name}" priority 0; policy accept; }}'
            rule = f'meta mark {RETURNING:#x} ether daddr set 00:00:00:00:00:00 fwd to "lo"'
            lines += [f"add table netdev {table}", f"add chain netdev {table} {name} {hook}"]
            lines.append(f"add rule netdev {table} {name} {rule}")
    return "".join(f"{line}\n" for line in lines)


def _is_filtered() -> bool:
    """Whether bridge netfilter may be on for IPv6: whoever switches it on finds the chain there."""
    return bool(read_sysctl("bridge/bridge-nf-call-ip6tables"))


def _head(length: int, kind: int) -> bytes:
    protocol, scope = (_RTPROT_STATIC, _RT_SCOPE_UNIVERSE) if kind else (0, 0)
    return struct.pack("=BBBBBBBBI", socket.AF_INET6, length, 0, 0, _RT_TABLE_LOCAL, protocol, scope, kind, 0)


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", len(data) + 4, kind) + data
