"""Effects: who listens on the host, which addresses it has, and from which ports it chooses.

sock_diag(7), Documentation/networking/proc_net_tcp.rst, ip-sysctl.rst.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from runtime.net.netlink import NLM_F_DUMP, Netlink, attributes
from runtime.net.ports import Listener

NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_TCP_ESTABLISHED, _TCP_SYN_RECV, _TCP_NEW_SYN_RECV = 1, 3, 12
_TCP_LISTEN, _UDP_UNCONNECTED = 10, 7
_INET_DIAG_MSG, _INET_DIAG_SKV6ONLY = 72, 11
#: What Linux chooses from where nobody changed ip_local_port_range.
EPHEMERAL = (32768, 60999)


def is_local(address: str) -> bool:
    """Whether an address is the host's, 127.0.0.0/8 included: only such can be bound to (ip(7), ipv6(7)).

    Link-local addresses of IPv6 are not: they say nothing without their interface.
    """
    try:
        probe = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    except OSError:  # a kernel without IPv6
        return False
    with probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            return error.errno not in (errno.EADDRNOTAVAIL, errno.EINVAL)
    return True


def listeners() -> list[Listener]:
    """TCP sockets that listen, UDP sockets without a peer and endpoints of SCTP, in this thread's network
    namespace."""
    try:
        with Netlink(NETLINK_SOCK_DIAG) as netlink:
            found = [
                one
                for protocol, number, state in (("tcp", 6, _TCP_LISTEN), ("udp", 17, _UDP_UNCONNECTED))
                for family in (socket.AF_INET, socket.AF_INET6)
                for one in _diagnosed(netlink, protocol, family, number, 1 << state)
            ]
    except OSError:  # a kernel without tcp_diag or udp_diag
        found = _listed()
    return found + _sctp()


def _diagnosed(netlink: Netlink, protocol: str, family: int, number: int, states: int) -> Iterator[Listener]:
    """struct inet_diag_req_v2 and inet_diag_msg of sock_diag(7): 0.1 ms, where /proc walks every bucket."""
    body = struct.pack("=BBBBI", family, number, 0, 0, states) + bytes(48)
    for data in netlink.ask(_SOCK_DIAG_BY_FAMILY, body, NLM_F_DUMP):
        (port,) = struct.unpack_from("!H", data, 4)
        (inode,) = struct.unpack_from("=I", data, 68)
        packed = data[8:12] if family == socket.AF_INET else data[8:24]
        only6 = attributes(data, _INET_DIAG_MSG).get(_INET_DIAG_SKV6ONLY, b"\0") != b"\0"
        yield Listener(protocol, _readable(packed), port, inode, only6)


def connected() -> set[int]:
    """Local ports of the TCP connections that are established, or about to be, in this thread's network
    namespace. Empty where the kernel cannot tell (module tcp_diag)."""
    states = 1 << _TCP_ESTABLISHED | 1 << _TCP_SYN_RECV | 1 << _TCP_NEW_SYN_RECV
    try:
        with Netlink(NETLINK_SOCK_DIAG) as netlink:
            return {
                found.port
                for family in (socket.AF_INET, socket.AF_INET6)
                for found in _diagnosed(netlink, "tcp", family, 6, states)
            }
    except OSError:
        return set()


def _sctp() -> list[Listener]:
    try:
        return list(parse_endpoints(Path("/proc/thread-self/net/sctp/eps").read_text()))
    except OSError:  # no module, no endpoints
        return []


def parse_endpoints(text: str) -> Iterator[Listener]:
    """The lines of /proc/net/sctp/eps: ... STY SST HBKT LPORT UID INODE LADDRS (net/sctp/proc.c)."""
    for line in text.splitlines()[1:]:
        words = line.split()
        for address in words[8:]:
            yield Listener("sctp", address, int(words[5]), int(words[7]))


def _listed() -> list[Listener]:
    found: list[Listener] = []
    for protocol, state in (("tcp", _TCP_LISTEN), ("udp", _UDP_UNCONNECTED)):
        for version in ("", "6"):
            try:
                text = Path(f"/proc/thread-self/net/{protocol}{version}").read_text()
            except OSError:
                continue
            found += parse_table(protocol, f"{state:02X}", text)
    return found


def parse_table(protocol: str, state: str, text: str) -> Iterator[Listener]:
    """The lines of a /proc/net table in this state."""
    for line in text.splitlines()[1:]:
        words = line.split(None, 10)
        if len(words) > 9 and words[3] == state:
            address, _, port = words[1].partition(":")
            yield Listener(protocol, _address(address), int(port, 16), int(words[9]))


def _address(text: str) -> str:
    """Words of 32 bits in the machine's order, in hexadecimal; a mapped IPv4 address is given as IPv4."""
    return _readable(b"".join(struct.pack("=I", int(text[at : at + 8], 16)) for at in range(0, len(text), 8)))


def _readable(packed: bytes) -> str:
    if len(packed) == 4:
        return socket.inet_ntoa(packed)
    if packed[:12] == b"\0" * 10 + b"\xff\xff":
        return socket.inet_ntoa(packed[12:])
    return socket.inet_ntop(socket.AF_INET6, packed)


def owner(inode: int) -> str:
    """`name (pid 123)` of a process that holds the socket; empty when it is not to be found."""
    target = f"socket:[{inode}]"
    for pid in os.listdir("/proc"):
        if not pid.isdigit():
            continue
        try:
            with os.scandir(f"/proc/{pid}/fd") as entries:
                if any(os.readlink(entry.path) == target for entry in entries):
                    return f"{Path(f'/proc/{pid}/comm').read_text().strip()} (pid {pid})"
        except OSError:
            continue
    return ""


def ephemeral() -> tuple[int, int]:
    """The ports from which the kernel chooses for clients, both ends included: random published ports are
    of them, too, as those that services are given by hand are mostly below."""
    try:
        low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    except (OSError, ValueError):
        return EPHEMERAL
    return (low, high) if low <= high else EPHEMERAL
