"""Effects: the terminal of a container or of a session in one. pty(7), ioctl_tty(2), devpts of the
container itself.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios

from runtime.linux import openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441
_TTY_GROUP = 5


def open_terminal(rootfd: int, console_socket: int) -> int:
    """Make a terminal in the container's devpts, hand its master to the shim, return the slave."""
    master = openat2.open_in_root(rootfd, "/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
    try:
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        with socket.socket(fileno=os.dup(console_socket)) as channel:
            socket.send_fds(channel, [b"console"], [master])
    finally:
        os.close(master)
    return slave


def take(slave: int, user: dict[str, Any]) -> None:
    """Make it this session's controlling terminal, owned by the program's user (group tty, mode 0620)."""
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    os.fchown(slave, int(user.get("uid") or 0), _TTY_GROUP)
    os.fchmod(slave, 0o620)
