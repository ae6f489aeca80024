"""Decisions, and one look at the kernel: which published ports stand in each other's way, and who listens.

sock_diag(7), Documentation/networking/proc_net_tcp.rst.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.net.netlink import NLM_F_DUMP, Netlink
from specs.values import PortBinding

ANY = ("", "0.0.0.0", "::")
NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_TCP_LISTEN, _UDP_UNCONNECTED = 10, 7


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket of the host that receives on an address and port. `address` is text, `::` and 0.0.0.0: any."""

    protocol: str
    address: str
    port: int
    inode: int = 0


def overlap(one: PortBinding, other: PortBinding) -> bool:
    """Whether both would take the same packets: any address of the host overlaps every one of them."""
    return (
        one.protocol == other.protocol
        and one.host_port == other.host_port
        and (one.host_ip in ANY or other.host_ip in ANY or one.host_ip == other.host_ip)
    )


def conflict(binding: PortBinding, listeners: Iterable[Listener]) -> Listener | None:
    """The listener whose packets the binding would take away. IPv6 addresses but [::] are free of us."""
    for listener in listeners:
        if listener.protocol != binding.protocol or listener.port != binding.host_port:
            continue
        if ":" in listener.address and listener.address != "::":
            continue
        if listener.address in ANY or binding.host_ip in ANY or listener.address == binding.host_ip:
            return listener
    return None


def is_local(address: str) -> bool:
    """Whether an IPv4 address is the host's, 127.0.0.0/8 included: only such can be bound to (ip(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            return error.errno != errno.EADDRNOTAVAIL
    return True


def listeners() -> list[Listener]:
    """TCP sockets that listen and UDP sockets without a peer, in this thread's network namespace."""
    try:
        with Netlink(NETLINK_SOCK_DIAG) as netlink:
            return [
                found
                for protocol, number, state in (("tcp", 6, _TCP_LISTEN), ("udp", 17, _UDP_UNCONNECTED))
                for family in (socket.AF_INET, socket.AF_INET6)
                for found in _diagnosed(netlink, protocol, family, number, 1 << state)
            ]
    except OSError:  # a kernel without tcp_diag or udp_diag
        return _listed()


def _diagnosed(netlink: Netlink, protocol: str, family: int, number: int, states: int) -> Iterator[Listener]:
    """struct inet_diag_req_v2 and inet_diag_msg of sock_diag(7): 0.1 ms, where /proc walks every bucket."""
    body = struct.pack("=BBBBI", family, number, 0, 0, states) + bytes(48)
    for data in netlink.ask(_SOCK_DIAG_BY_FAMILY, body, NLM_F_DUMP):
        (port,) = struct.unpack_from("!H", data, 4)
        (inode,) = struct.unpack_from("=I", data, 68)
        packed = data[8:12] if family == socket.AF_INET else data[8:24]
        yield Listener(protocol, _readable(packed), port, inode)


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
