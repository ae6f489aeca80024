"""Decisions: what a container's /etc/hosts says; and writing such files in place.

They are bind-mounted into the container, so their inodes must stay. Standard library only, and little of it:
the name server rewrites them as well.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

#: Around the lines of peers, which only files of containers have whose network has no name server. Older
#: releases had them in all files, at the end and without the second mark.
BEGIN, END = "# peers on the same networks, kept by stead", "# end of peers"
#: How often a file is written when somebody else writes it at the same moment.
ATTEMPTS = 5
#: Bytes that are read back of a file. A hosts file that a program made larger is its own from then on.
MAX_SIZE = 4 * 1024 * 1024


def hosts_text(
    hostname: str,
    domainname: str,
    own: Sequence[str],
    extra: Sequence[tuple[str, str]],
    gateways: Sequence[str],
) -> str:
    """A new hosts file. `own` are the container's addresses on its first network, one a family.

    `extra` may name host-gateway as an address; it becomes each of `gateways`, and is left out where there
    is none. Empty addresses count as none.
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
    lines += [_line(address, names) for address in own if address] or [_line("127.0.1.1", names)]
    for name, address in extra:
        found = gateways if address == "host-gateway" else [address]
        lines += [_line(item, [name]) for item in found if item]
    return "\n".join(lines) + "\n"


def host_hosts(text: str, extra: Sequence[tuple[str, str]]) -> str:
    """The hosts file of a container on the host's network: the host's own and what is asked for."""
    lines = [_line("127.0.0.1" if address == "host-gateway" else address, [name]) for name, address in extra]
    head = text if not text or text.endswith("\n") else text + "\n"
    return head + "".join(f"{line}\n" for line in lines)


def peers_of(text: str) -> str:
    """The lines of peers with the marks around them; empty where there are none."""
    return "".join(_divided(text)[1])


def with_peers(text: str, peers: Mapping[str, Sequence[str]]) -> str:
    """The file with these peers, names by address, and none that it had. Other lines stay as they are."""
    head, _, tail = _divided(text)
    block = [BEGIN, *(_line(address, names) for address, names in peers.items()), END] if peers else []
    if block and head and not head[-1].endswith("\n"):
        head[-1] += "\n"
    return "".join(head) + "".join(f"{line}\n" for line in block) + "".join(tail)


def _divided(text: str) -> tuple[list[str], list[str], list[str]]:
    """Lines before the block of peers, those of the block, those after it."""
    lines = text.splitlines(keepends=True)
    bare = [line.rstrip("\n") for line in lines]
    if BEGIN not in bare:
        return lines, [], []
    first = bare.index(BEGIN)
    last = bare.index(END, first) + 1 if END in bare[first:] else len(lines)
    return lines[:first], lines[first:last], lines[last:]


def _line(address: str, names: Sequence[str]) -> str:
    return f"{address}\t{' '.join(names)}"


def write_in_place(path: Path | str, text: str) -> bool:
    """Make the file hold `text` without changing its inode; 0644: every user reads it. True if changed.

    The agent and the name server may write at one moment; who finds a mixture writes again.
    """
    data = text.encode("utf-8", "surrogateescape")
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(path, flags, 0o644)
    try:
        for attempt in range(ATTEMPTS):
            if os.pread(fd, len(data) + 1, 0) == data:
                return attempt > 0
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
        return os.read(fd, size).decode("utf-8", "surrogateescape")
    except OSError:  # a directory
        return None
    finally:
        os.close(fd)
