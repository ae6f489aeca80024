"""Effects: the servers of the host, as its /etc/resolv.conf has them at each moment. resolv.conf(5).

We ask from the host, so a stub on its loopback (systemd-resolved, dnsmasq) is asked as the host's programs
ask it, and knows what they know of VPNs and of names in the local network.
"""

from __future__ import annotations

import os
from ipaddress import ip_address

HOST = "/etc/resolv.conf"
#: Servers that are used (resolv.conf(5) has MAXNS 3), bytes that are read of the file.
MAX_SERVERS, MAX_SIZE = 3, 65536
#: Without any nameserver line the resolver asks the host itself.
DEFAULT = ("127.0.0.1",)


class Upstreams:
    def __init__(self, path: str = HOST) -> None:
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self._servers: tuple[str, ...] = DEFAULT

    def get(self) -> tuple[str, ...]:
        """One look at the file's status a call; it is read when that differs."""
        try:
            status = os.stat(self._path)
            seen: tuple[int, ...] | None = (status.st_ino, status.st_size, status.st_mtime_ns)
        except OSError:
            seen = None
        if seen != self._seen or seen is None:
            self._seen, self._servers = seen, self._read()
        return self._servers

    def _read(self) -> tuple[str, ...]:
        try:
            with open(self._path, "rb") as file:
                text = file.read(MAX_SIZE).decode("utf-8", "replace")
        except OSError:
            return DEFAULT
        return parse(text) or DEFAULT


def parse(text: str) -> tuple[str, ...]:
    """The addresses of its nameserver lines that are well-formed."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and _is_address(words[1]):
            found.append(words[1])
    return tuple(dict.fromkeys(found))[:MAX_SERVERS]


def _is_address(text: str) -> bool:
    try:
        ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True
