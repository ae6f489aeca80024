"""Effects: flows that the kernel remembers (conntrack) are forgotten where their port goes elsewhere now.

A UDP client that keeps sending keeps its flow alive: without this it would reach the old backend for ever.
nfnetlink_conntrack.h; conntrack(8) does the same.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Mapping
from functools import cache

from runtime.net import listening
from runtime.net.netlink import NETLINK_NETFILTER, NLM_F_ACK, NLM_F_DUMP, Netlink, attributes

_NFNL_SUBSYS_CTNETLINK = 1
_GET, _DELETE = 1, 2
_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY = 1, 2
_CTA_TUPLE_IP, _CTA_TUPLE_PROTO = 1, 2
#: of IPv4 and of IPv6
_SOURCE, _DESTINATION = (1, 3), (2, 4)
_CTA_PROTO_NUM, _CTA_PROTO_DST_PORT = 1, 3
_NLA_F_NESTED = 0x8000
_UDP = 17


def forget_udp(backends: Mapping[int, frozenset[str]]) -> int:
    """Forget UDP flows to these ports of the host that do not go to one of the port's backends. Returns how
    many. Flows to the same port elsewhere (name servers of others) are none of ours.

    Nothing is done, and nothing raised, where the kernel has no ctnetlink.
    """
    forgotten, is_local = 0, cache(listening.is_local)
    for family in (socket.AF_INET, socket.AF_INET6):
        header = struct.pack("=BBH", family, 0, 0)
        try:
            with Netlink(NETLINK_NETFILTER) as netlink:
                for data in netlink.ask(_NFNL_SUBSYS_CTNETLINK << 8 | _GET, header, NLM_F_DUMP):
                    original, port, source = _flow(data)
                    if port not in backends or source in backends[port]:
                        continue
                    if is_local(_address(original, _DESTINATION)):
                        nested = struct.pack("=HH", len(original) + 4, _CTA_TUPLE_ORIG | _NLA_F_NESTED)
                        forgotten += _delete(netlink, header + nested + original)
        except OSError:
            continue
    return forgotten


def _flow(data: bytes) -> tuple[bytes, int, str]:
    """(its original direction, the UDP port that it was sent to, where its answers come from)"""
    flow = attributes(data, 4)
    original = flow.get(_CTA_TUPLE_ORIG, b"")
    return original, _udp_port(original), _address(flow.get(_CTA_TUPLE_REPLY, b""), _SOURCE)


def _udp_port(original: bytes) -> int:
    """The port that a flow was sent to; 0 when it is not UDP."""
    protocol = attributes(attributes(original).get(_CTA_TUPLE_PROTO, b""))
    if protocol.get(_CTA_PROTO_NUM) != bytes([_UDP]):
        return 0
    return int.from_bytes(protocol.get(_CTA_PROTO_DST_PORT, b""), "big")


def _address(direction: bytes, which: tuple[int, int]) -> str:
    """Who sends, or is sent to, in this direction of a flow."""
    found = attributes(attributes(direction).get(_CTA_TUPLE_IP, b""))
    for family, kind in zip((socket.AF_INET, socket.AF_INET6), which, strict=True):
        if kind in found:
            return socket.inet_ntop(family, found[kind])
    return ""


def _delete(netlink: Netlink, body: bytes) -> int:
    try:
        netlink.ask(_NFNL_SUBSYS_CTNETLINK << 8 | _DELETE, body, NLM_F_ACK)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return 0
    return 1
