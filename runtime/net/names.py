"""Decisions: what a container's /etc/hosts says; and writing such files in place.

They are bind-mounted into the container, so their inodes must stay.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

#: How older releases marked the lines of peers in it; names of peers come from the name server now.
OLD_BLOCK = "# peers on the same networks, kept by stead"
#: A hosts file larger than this is not read back.
MAX_SIZE = 4 * 1024 * 1024


def hosts_text(
    hostname: str,
    domainname: str,
    own: Sequence[str],
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
    return "\n".join(lines) + "\n"


def host_hosts(text: str, extra: Sequence[tuple[str, str]]) -> str:
    """The hosts file of a container on the host's network: the host's own and what is asked for."""
    lines = [_line("127.0.0.1" if address == "host-gateway" else address, [name]) for name, address in extra]
    head = text if not text or text.endswith("\n") else text + "\n"
    return head + "".join(f"{line}\n" for line in lines)


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
