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
_CTA_IP_V4_SRC, _CTA_IP_V4_DST = 1, 2
_CTA_PROTO_NUM, _CTA_PROTO_DST_PORT = 1, 3
_NLA_F_NESTED = 0x8000
_UDP = 17


def forget_udp(backends: Mapping[int, frozenset[str]]) -> int:
    """Forget UDP flows to these ports of the host that do not go to one of the port's backends. Returns how
    many. Flows to the same port elsewhere (name servers of others) are none of ours.

    Nothing is done, and nothing raised, where the kernel has no ctnetlink.
    """
    header = struct.pack("=BBH", socket.AF_INET, 0, 0)
    forgotten, is_local = 0, cache(listening.is_local)
    try:
        with Netlink(NETLINK_NETFILTER) as netlink:
            for data in netlink.ask(_NFNL_SUBSYS_CTNETLINK << 8 | _GET, header, NLM_F_DUMP):
                flow = attributes(data, 4)
                original = flow.get(_CTA_TUPLE_ORIG, b"")
                port, source = _udp_port(original), _address(flow.get(_CTA_TUPLE_REPLY, b""), _CTA_IP_V4_SRC)
                if port not in backends or source in backends[port]:
                    continue
                if is_local(_address(original, _CTA_IP_V4_DST)):
                    nested = struct.pack("=HH", len(original) + 4, _CTA_TUPLE_ORIG | _NLA_F_NESTED)
                    forgotten += _delete(netlink, header + nested + original)
    except OSError:
        return forgotten
    return forgotten


def _udp_port(original: bytes) -> int:
    """The port that a flow was sent to; 0 when it is not UDP."""
    protocol = attributes(attributes(original).get(_CTA_TUPLE_PROTO, b""))
    if protocol.get(_CTA_PROTO_NUM) != bytes([_UDP]):
        return 0
    return int.from_bytes(protocol.get(_CTA_PROTO_DST_PORT, b""), "big")


def _address(direction: bytes, which: int) -> str:
    """Who sends, or is sent to, in this direction of a flow."""
    packed = attributes(attributes(direction).get(_CTA_TUPLE_IP, b"")).get(which, b"")
    return socket.inet_ntoa(packed) if len(packed) == 4 else ""


def _delete(netlink: Netlink, body: bytes) -> int:
    try:
        netlink.ask(_NFNL_SUBSYS_CTNETLINK << 8 | _DELETE, body, NLM_F_ACK)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return 0
    return 1
