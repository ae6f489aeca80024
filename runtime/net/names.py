"""Decisions: what a container's /etc/hosts and /etc/hostname say; and writing them in place.

The file is bind-mounted into the container, so its inode must stay. What stands outside of our block was
written by the container's own programs and is kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

BEGIN = "# peers on the same networks, kept by stead"
END = "# end of peers"
SHORT_ID = 12
#: A hosts file larger than this is not read back.
MAX_SIZE = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Peer:
    """A lease of a container on a network. `name` is the full name; `aliases` are of that network."""

    id: str
    name: str
    address: str
    aliases: tuple[str, ...] = ()

    def names(self) -> list[str]:
        given = [self.name.rpartition("/")[2], *self.aliases, self.id[:SHORT_ID]]
        return list(dict.fromkeys(name for name in given if name))


def peers_block(peers: Iterable[Peer]) -> str:
    """One line an address, in the order of names: stable."""
    ordered = sorted(peers, key=lambda peer: (peer.name, peer.address))
    return "".join(f"{line}\n" for line in (BEGIN, *(_line(p.address, p.names()) for p in ordered), END))


def hosts_text(
    hostname: str,
    domainname: str,
    own: Sequence[str],
    peers: Iterable[Peer],
    extra: Sequence[tuple[str, str]],
    gateway: str,
) -> str:
    """A new hosts file. `own` are the container's addresses, the first with the default route.

    `extra` may name host-gateway as an address; it becomes `gateway`, and is left out where there is none.
    """
    lines = [
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "fe00::0\tip6-localnet",
        "ff02::1\tip6-allnodes",
        "ff02::2\tip6-allrouters",
    ]
    full = f"{hostname}.{domainname}" if domainname and "." not in hostname else hostname
    names = list(dict.fromkeys((full, hostname)))
    lines += [_line(address, names) for address in own[:1] or ("127.0.1.1",)]
    for name, address in extra:
        address = gateway if address == "host-gateway" else address
        if address:
            lines.append(_line(address, [name]))
    return "\n".join(lines) + "\n" + peers_block(peers)


def host_hosts(text: str, extra: Sequence[tuple[str, str]]) -> str:
    """The hosts file of a container on the host's network: the host's own and what is asked for."""
    lines = [_line("127.0.0.1" if address == "host-gateway" else address, [name]) for name, address in extra]
    head = text if not text or text.endswith("\n") else text + "\n"
    return head + "".join(f"{line}\n" for line in lines)


def replace_block(text: str, block: str) -> str:
    """`text` with its block of peers replaced; appended when a program removed the marks."""
    head, begin, rest = text.partition(BEGIN + "\n")
    if not begin:
        return text + ("" if not text or text.endswith("\n") else "\n") + block
    _, end, tail = rest.partition(END + "\n")
    return head + block + (tail if end else "")


def _line(address: str, names: Sequence[str]) -> str:
    return f"{address}\t{' '.join(names)}"


def write_in_place(path: Path | str, text: str) -> bool:
    """Make the file hold `text` without changing its inode; 0644: every user reads it. True if changed."""
    data = text.encode()
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(path, flags, 0o644)
    try:
        if os.pread(fd, len(data) + 1, 0) == data:
            return False
        os.fchmod(fd, 0o644)
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))
        return True
    finally:
        os.close(fd)


def read_small(path: Path | str) -> str | None:
    """A file's text; None when it does not exist or is no plain file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        size = min(os.fstat(fd).st_size, MAX_SIZE)
        return os.read(fd, size).decode("utf-8", "replace")
    except OSError:  # a directory
        return None
    finally:
        os.close(fd)
