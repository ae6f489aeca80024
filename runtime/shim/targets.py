"""Decisions: what a probe document asks for: a command, or an address in the container's network and a
request."""

from __future__ import annotations

import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_LOCAL = ("", "localhost", "0.0.0.0", "[::]")


def words(probe: Mapping[str, Any]) -> list[str]:
    """The command of an exec or shell probe; empty for others."""
    if probe.get("exec"):
        return [str(word) for word in probe["exec"]]
    if probe.get("shell"):
        return ["/bin/sh", "-c", str(probe["shell"])]
    return []


class Target:
    """Where to connect, and what to send there (nothing for tcp). `tls` is the name to ask for, or empty."""

    __slots__ = ("address", "port", "request", "tls")

    def __init__(self, address: str, port: int, request: bytes = b"", tls: str = "") -> None:
        self.address, self.port, self.request, self.tls = address, port, request, tls

    def __repr__(self) -> str:
        return f"Target({self.address!r}, {self.port}, {self.request!r}, {self.tls!r})"


def target(probe: Mapping[str, Any], hosts: Mapping[str, str]) -> Target:
    """Of an http or tcp probe. `hosts` is what the container's /etc/hosts says. ValueError when the probe
    names something that is neither an address nor known there: probes ask no name servers."""
    if not probe.get("http"):
        address, port = _endpoint(str(probe.get("tcp") or ""), 0, hosts)
        return Target(address, port)
    scheme, _, rest = str(probe["http"]).partition("://")
    if scheme not in ("http", "https"):
        raise ValueError(f"cannot probe {probe['http']}: it is neither http:// nor https://")
    authority, slash, path = rest.partition("/")
    address, port = _endpoint(authority, 443 if scheme == "https" else 80, hosts)
    name = authority if authority and not authority.startswith(":") else f"{address}:{port}"
    headers = f"Host: {name}\r\nUser-Agent: stead-probe\r\nAccept: */*\r\nConnection: close"
    request = f"GET {slash}{path} HTTP/1.1\r\n" if slash else "GET / HTTP/1.1\r\n"
    tls = name.rpartition(":")[0] or name
    return Target(address, port, f"{request}{headers}\r\n\r\n".encode(), tls if scheme == "https" else "")


def status_code(answer: bytes) -> int:
    """Of an HTTP answer's first line; 0 when it is none."""
    word = answer[:64].partition(b" ")[2][:3]
    return int(word) if answer.startswith(b"HTTP/") and word.isdigit() else 0


def healthy(answer: bytes) -> bool:
    """200 to 399, as Kubernetes has it."""
    return 200 <= status_code(answer) <= 399


def read_hosts(text: str) -> dict[str, str]:
    """hosts(5): name -> first address given for it."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        for name in names:
            found.setdefault(name, address)
    return found


def _endpoint(text: str, default_port: int, hosts: Mapping[str, str]) -> tuple[str, int]:
    """(IP address, port) of "host:port", ":port", "[::1]:port" or "host"."""
    host, colon, port = text.rpartition(":")
    if not colon or "]" in port:
        host, port = text, ""
    if not port and not default_port:
        raise ValueError(f"cannot probe {text}: no port")
    address = "127.0.0.1" if host in _LOCAL else hosts.get(host, host.strip("[]"))
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, address)
            return address, int(port) if port else default_port
        except OSError:
            continue
    raise ValueError(
        f"cannot probe {text}: {host} is neither an IP address nor a peer's name nor in /etc/hosts"
    )
