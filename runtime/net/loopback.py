"""Effects: the way back of the host's own connections to [::1]:PORT that lead to a container.

Such a connection leaves by a bridge with the bridge's address; its answers are turned back to ::1 when they
come in. For IPv4 route_localnet lets them in; IPv6 has no such setting, but it lets in what a local route of
that interface covers (net/ipv6/route.c: a loopback address is looked for where its packet came in).
So each bridge gets `local ::1 dev BRIDGE metric 1024` in the table of local routes: connections to ::1 go by
lo all the same, whose route has metric 0, and a packet for ::1 that a container sends is dropped before any
routing (net/ipv6/ip6_input.c).

Where bridge netfilter is on for IPv6 (net.bridge.bridge-nf-call-ip6tables) an answer is turned back before it
has left the bridge, and that same check drops it: there [::1] does not lead to containers.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable

from runtime.net.links import index_of
from runtime.net.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, Netlink, attributes, number

_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_RTA_DST, _RTA_OIF, _RTA_PRIORITY, _RTA_TABLE = 1, 4, 6, 15
_RT_TABLE_LOCAL, _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RTN_LOCAL = 255, 4, 0, 2
_LOOPBACK = socket.inet_pton(socket.AF_INET6, "::1")
METRIC = 1024


def ensure(bridges: Iterable[str]) -> None:
    """The route on each bridge that is there. Repeatable."""
    indexes = [index for index in map(index_of, bridges) if index]
    if not indexes:
        return
    with Netlink() as netlink:
        for index in indexes:
            body = _head(128, _RTN_LOCAL)
            body += _attribute(_RTA_DST, _LOOPBACK) + _attribute(_RTA_OIF, struct.pack("=I", index))
            body += _attribute(_RTA_PRIORITY, struct.pack("=I", METRIC))
            try:
                netlink.ask(_RTM_NEWROUTE, body, NLM_F_ACK | NLM_F_CREATE)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENETDOWN, errno.ENODEV, errno.EOPNOTSUPP):
                    raise


def missing(bridges: Iterable[str]) -> list[str]:
    """Those of the bridges that are there without the route."""
    indexes = {index: name for name in bridges if (index := index_of(name))}
    if not indexes:
        return []
    with Netlink() as netlink:
        netlink.strict()
        body = _head(0, 0)
        for data in netlink.ask(_RTM_GETROUTE, body, NLM_F_DUMP):
            given = attributes(data, 12)
            if given.get(_RTA_DST) == _LOOPBACK:
                indexes.pop(number(given.get(_RTA_OIF)), None)
    return sorted(indexes.values())


def _head(length: int, kind: int) -> bytes:
    protocol, scope = (_RTPROT_STATIC, _RT_SCOPE_UNIVERSE) if kind else (0, 0)
    return struct.pack("=BBBBBBBBI", socket.AF_INET6, length, 0, 0, _RT_TABLE_LOCAL, protocol, scope, kind, 0)


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", len(data) + 4, kind) + data
