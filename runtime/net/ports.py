"""Decisions, and one look at the kernel: which published ports stand in each other's way, and who listens.

proc_net_tcp (Documentation/networking/proc_net_tcp.rst), udp(7).
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from specs.values import PortBinding

ANY = ("", "0.0.0.0", "::")
_TCP_LISTEN, _UDP_UNCONNECTED = "0A", "07"


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


def listeners() -> list[Listener]:
    """TCP sockets that listen and UDP sockets without a peer, in this thread's network namespace."""
    found: list[Listener] = []
    for protocol, state in (("tcp", _TCP_LISTEN), ("udp", _UDP_UNCONNECTED)):
        for version in ("", "6"):
            try:
                text = Path(f"/proc/thread-self/net/{protocol}{version}").read_text()
            except OSError:
                continue
            found += parse_table(protocol, state, text)
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
    packed = b"".join(struct.pack("=I", int(text[at : at + 8], 16)) for at in range(0, len(text), 8))
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
