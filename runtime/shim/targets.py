"""Decisions: what a probe document asks for: a command, or an address in the container's network and a
request."""

from __future__ import annotations

import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

#: Ranges of HTTP statuses that are well where the probe does not say: as Kubernetes has it.
STATUSES = ((200, 399),)
#: The ends of an answer's head: a line may end without a carriage return (RFC 9112, section 2.2); and the
#: status after which the protocol is another one: it is the last.
_ENDS, SWITCHES = (b"\n\r\n", b"\n\n"), 101
_LOCAL = ("", "localhost", "0.0.0.0", "[::]")


def words(probe: Mapping[str, Any]) -> list[str]:
    """The command of an exec or shell probe; empty for others."""
    if probe.get("exec"):
        return [str(word) for word in probe["exec"]]
    if probe.get("shell"):
        return ["/bin/sh", "-c", str(probe["shell"])]
    return []


class Target:
    """Where to connect, and what to send there (nothing for tcp). `tls` is the name to ask for, or empty;
    `verify`: its certificate must be good. `statuses` are ranges of those that are well."""

    __slots__ = ("address", "port", "request", "statuses", "tls", "verify")

    def __init__(
        self,
        address: str,
        port: int,
        request: bytes = b"",
        tls: str = "",
        statuses: Sequence[tuple[int, int]] = STATUSES,
        verify: bool = False,
    ) -> None:
        self.address, self.port, self.request, self.tls = address, port, request, tls
        self.statuses, self.verify = statuses, verify

    def __repr__(self) -> str:
        return f"Target({self.address!r}, {self.port}, {self.request!r}, {self.tls!r})"

    def is_well(self, answer: bytes) -> bool:
        """A redirection is an answer like others: nobody follows it."""
        code = status_code(final(answer))
        return any(low <= code <= high for low, high in self.statuses)


def target(probe: Mapping[str, Any], hosts: Mapping[str, str]) -> Target:
    """Of an http or tcp probe. `hosts` is what the container's /etc/hosts says. ValueError when the probe
    names something that is neither an address nor known there: probes ask no name servers."""
    if not probe.get("http"):
        address, port = _endpoint(str(probe.get("tcp") or ""), 0, hosts)
        return Target(address, port)
    scheme, _, rest = str(probe["http"]).partition("://")
    if scheme not in ("http", "https"):
        raise ValueError(f"cannot probe {probe['http']}: it is neither http:// nor https://")
    authority, _, path = rest.partition("/")
    address, port = _endpoint(authority, 443 if scheme == "https" else 80, hosts)
    name = authority if authority and not authority.startswith(":") else f"{address}:{port}"
    lines = {"host": f"Host: {name}", "user-agent": "User-Agent: stead-probe", "accept": "Accept: */*"}
    for key, value in probe.get("headers") or ():
        lines[str(key).lower()] = f"{key}: {value}"
    lines["connection"] = "Connection: close"
    method = str(probe.get("method") or "GET")
    if method in ("POST", "PUT", "PATCH"):
        lines["content-length"] = "Content-Length: 0"
    request = "\r\n".join((f"{method} /{path} HTTP/1.1", *lines.values(), "", "")).encode()
    tls = _host(name) if scheme == "https" else ""
    return Target(
        address, port, request, tls, statuses(probe.get("expect_status")), bool(probe.get("tls_verify"))
    )


def _host(name: str) -> str:
    """Of "host:port", "[::1]:port" or without a port; addresses have no brackets in TLS."""
    host, colon, port = name.rpartition(":")
    return (host if colon and "]" not in port else name).strip("[]")


def statuses(text: object) -> Sequence[tuple[int, int]]:
    """Of "200-299,401". ValueError when it is something else."""
    if not text:
        return STATUSES
    found = []
    for part in str(text).split(","):
        low, _, high = part.partition("-")
        found.append((int(low), int(high or low)))
    return found


def final(answer: bytes) -> bytes:
    """Without answers that only say that another one follows: RFC 9110, section 15.2."""
    while 100 <= (code := status_code(answer)) < 200 and code != SWITCHES and (end := _end(answer)):
        answer = answer[end:]
    return answer


def is_whole(answer: bytes) -> bool:
    """Whether the head of the last answer has come."""
    return _end(final(answer)) > 0


def _end(answer: bytes) -> int:
    """Where the head ends; 0: later."""
    ends = [at + len(end) for end in _ENDS if (at := answer.find(end)) >= 0]
    return min(ends, default=0)


def status_code(answer: bytes) -> int:
    """Of an HTTP answer's first line; 0 when it is none."""
    words = answer[:64].split(b"\n")[0].split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or len(words[1]) != 3 or not words[1].isdigit():
        return 0
    return int(words[1])


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
    if port and not 0 < int(port) < 65536:
        raise ValueError(f"cannot probe {text}: ports are 1 to 65535")
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
