"""Effects: terminals. pty(7), ioctl_tty(2)."""

from __future__ import annotations

import fcntl
import os
import struct

_TIOCSCTTY = 0x540E
_TIOCSWINSZ = 0x5414
_TIOCGPTPEER = 0x5441
_TIOCSPTLCK = 0x40045431


def open_pty(ptmx: str | int = "/dev/pts/ptmx") -> tuple[int, int]:
    """(master, slave), close-on-exec, of the devpts instance that `ptmx` belongs to. The slave is opened
    through the master, never by name."""
    flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
    master = os.open(ptmx if isinstance(ptmx, str) else f"/proc/self/fd/{ptmx}", flags)
    try:
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        return master, fcntl.ioctl(master, _TIOCGPTPEER, flags)
    except OSError:
        os.close(master)
        raise


def set_size(fd: int, rows: int, columns: int) -> None:
    fcntl.ioctl(fd, _TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def control(fd: int) -> None:
    """Make the terminal the controlling one of this session, whose leader we are."""
    fcntl.ioctl(fd, _TIOCSCTTY, 0)
