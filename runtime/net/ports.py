"""Decisions: which published ports stand in each other's way, and which port of the host one gets."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from runtime.faults import Fault
from runtime.wishes import ContainerRequest
from specs.values import PortBinding, addresses_meet, parse_port_range, parse_protocol

ANY = ("", "0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket of the host that receives on an address and port. `address` is text, `::` and 0.0.0.0: any;
    :: takes IPv4, too, unless the socket is for IPv6 only."""

    protocol: str
    address: str
    port: int
    inode: int = 0
    only6: bool = False


def overlap(one: PortBinding, other: PortBinding) -> bool:
    """Whether both would take the same packets: any address of the host overlaps every one of them."""
    return (
        one.protocol == other.protocol
        and one.host_port == other.host_port
        and addresses_meet(one.host_ip, other.host_ip)
    )


def conflict(binding: PortBinding, listeners: Iterable[Listener]) -> Listener | None:
    """The listener whose packets the binding would take away."""
    for listener in listeners:
        if listener.protocol != binding.protocol or listener.port != binding.host_port:
            continue
        address = "" if listener.address == "::" and not listener.only6 else listener.address
        if addresses_meet(address, binding.host_ip):
            return listener
    return None


def choose(
    asked: PortBinding, span: tuple[int, int], seed: str, is_taken: Callable[[PortBinding], bool]
) -> PortBinding | None:
    """The fixed binding for one that is not; None when every port is taken.

    Of a range the first free one; else one of `span` (both ends included), sought from a place that follows
    from `seed`: who asks with the same seed again gets the same port where it is free.
    """
    first, last = (asked.host_port, asked.host_end) if asked.host_end else span
    size = last - first + 1
    start = 0
    if not asked.host_end:
        digest = hashlib.sha256(f"{seed} {asked}".encode()).digest()
        start = int.from_bytes(digest[:8], "big") % size
    for step in range(size):
        port = first + (start + step) % size
        found = PortBinding(asked.host_ip, port, asked.container_port, asked.protocol)
        if not is_taken(found):
            return found
    return None


def published_ports(request: ContainerRequest, config: Mapping[str, Any]) -> tuple[PortBinding, ...]:
    """Those that are asked for, and with `publish_all` every other exposed one, of the image or the request,
    on a random port of the host. Fault request-invalid for what is no port."""
    if not request.publish_all:
        return request.ports
    given = {(port.container_port, port.protocol) for port in request.ports}
    texts = (*((config.get("config") or {}).get("ExposedPorts") or ()), *request.expose)
    try:
        exposed = {
            (number, parse_protocol(protocol or "tcp"))
            for text in texts
            for span, _, protocol in (str(text).partition("/"),)
            for number in parse_port_range(span)
        }
    except ValueError as error:  # of a stranger's image
        raise Fault("request-invalid", "publish ports of", request.name, str(error)) from error
    more = [PortBinding("", 0, number, protocol) for number, protocol in sorted(exposed - given)]
    return (*request.ports, *more)
