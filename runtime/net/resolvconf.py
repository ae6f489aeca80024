"""Decisions: what a container's /etc/resolv.conf says, from the host's and from what the container asks for.

resolv.conf(5). The first line is our mark with a digest of what the file came from: when the host's file
changes, the digest differs, and the containers that follow it are written anew.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
from collections.abc import Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

HOST: str | Path = "/etc/resolv.conf"
#: Where systemd-resolved writes the servers that its stub on 127.0.0.53 asks.
UPLINK: str | Path = "/run/systemd/resolve/resolv.conf"
MARK = "# made by stead from "
MAX_SIZE = 64 * 1024


def is_loopback(server: str) -> bool:
    """Whether a server is reachable on the host only: 127.0.0.0/8, ::1."""
    try:
        return ipaddress.ip_address(server.partition("%")[0]).is_loopback
    except ValueError:
        return False


def servers(text: str) -> list[str]:
    """The nameservers of a resolv.conf."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            found.append(words[1])
    return found


def choose(host: str, uplink: str) -> str:
    """The text to follow: systemd-resolved's list of servers where the host has its stub only."""
    given = servers(host)
    if given and all(is_loopback(server) for server in given) and servers(uplink):
        return uplink
    return host


def resolv_text(
    base: str,
    dns: Sequence[str],
    search: Sequence[str],
    options: Sequence[str],
    *,
    loopback: bool = False,
    via: str = "",
) -> str:
    """A container's resolv.conf. What is asked for replaces the host's lines of that kind.

    `via` is our own name server, which asks all others for the container; but servers on the container's own
    loopback only the container can ask. Without it, servers on the host's loopback are left out, but with
    `loopback`: on the host's own network. When none is left the file says so, and has none.
    """
    via = asked(via, dns)
    follows = via or not (dns and search and options)
    lines = [MARK + (digest(base, via) if follows else "its spec")]
    given = list(dns) or [server for server in servers(base) if loopback or not is_loopback(server)]
    given = [via] if via else given
    lines += [f"nameserver {server}" for server in given]
    if not given:
        lines.append("# no nameserver: the host has none that containers can reach; set dns in the spec")
    searched = list(search) or _words(base, "search") or _words(base, "domain")[:1]
    if searched and searched != ["."]:
        lines.append(f"search {' '.join(searched)}")
    opted = list(options) or [word for word in _words(base, "options") if word != "trust-ad"]
    if via and not any(word.startswith("ndots:") for word in opted):
        opted.append("ndots:0")  # a peer's name first as it is: no domain of the host's is asked for it
    if opted:
        lines.append(f"options {' '.join(opted)}")
    return "\n".join(lines) + "\n"


def asked(via: str, dns: Sequence[str]) -> str:
    """Our name server, if it is what a container with these servers of its own asks."""
    return "" if any(is_loopback(server) for server in dns) else via


def digest(base: str, via: str = "") -> str:
    return "the host's, " + hashlib.sha256(f"{base}\0{via}".encode()).hexdigest()[:12]


def is_stale(text: str, base: str, via: str = "") -> bool:
    """Whether the file follows the host's, and the host's or the name server has changed. One that a program
    rewrote does not."""
    first = text.partition("\n")[0]
    return first.startswith(MARK + "the host's") and first != MARK + digest(base, via)


def _words(text: str, keyword: str) -> list[str]:
    """The words of the last line with this keyword, which is the one that counts."""
    found: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if words and words[0] == keyword:
            found = words[1:]
    return found


def raw_host_text() -> str:
    """The host's resolv.conf as it is, for containers on the host's network."""
    return _read(HOST)


def host_text() -> str:
    """What containers follow on this host; empty when it has no resolv.conf."""
    return choose(_read(HOST), _read(UPLINK))


def _read(path: str | Path) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        return os.read(fd, MAX_SIZE).decode("utf-8", "replace")
    except OSError:  # a directory
        return ""
    finally:
        os.close(fd)
