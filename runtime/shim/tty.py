"""Effects: the terminal or the streams of a container, or of a session in one. pty(7), ioctl_tty(2), devpts
of the container itself.
"""

from __future__ import annotations

import _socket  # without the enums of `socket`
import errno
import fcntl
import os
import stat
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
        channel = _socket.socket(fileno=os.dup(console_socket))
        try:
            rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", master))
            channel.sendmsg([b"console"], [rights])
        finally:
            channel.close()
    finally:
        os.close(master)
    return slave


def take(slave: int, process: dict[str, Any]) -> None:
    """Make it this session's controlling terminal, owned by the program's user (group tty, mode 0620), with
    the size that the process is to find."""
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    uid = int(process["user"].get("uid") or 0)
    try:
        os.fchown(slave, uid, _TTY_GROUP)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        os.fchown(slave, uid, -1)  # a user namespace without that group
    os.fchmod(slave, 0o620)
    size = process.get("consoleSize")
    if size:
        packed = struct.pack("HHHH", int(size.get("height") or 0), int(size.get("width") or 0), 0, 0)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, packed)


def give(stdio: tuple[int, int, int], uid: int, report_fd: int) -> None:
    """A pipe belongs to its maker, and a program of another user opens /dev/stdout by name: it becomes the
    user's. Pipes without a name only, which are on the same filesystem as ours. `uid` as the host has it; -1:
    nobody's."""
    pipes = os.fstat(report_fd).st_dev
    for fd in stdio if uid >= 0 else ():
        found = os.fstat(fd)
        if found.st_dev == pipes and stat.S_ISFIFO(found.st_mode) and found.st_uid != uid:
            os.fchown(fd, uid, -1)
