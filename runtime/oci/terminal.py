"""Effects: a terminal of a container shown on ours, which is raw meanwhile. termios(3), pty(7)."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import termios

from runtime.oci.failure import OciFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.shim import launch

_CHUNK = 65536


def _own() -> int:
    """Ours, wherever it is: a stream, else /dev/tty, as runc has it. OciFailure where there is none."""
    for fd in (0, 1, 2):
        if os.isatty(fd):
            return fd
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        raise OciFailure("cannot show a terminal: there is none here; see --console-socket") from None


class Terminal:
    """Its master comes over a socket pair, from the process that made it."""

    def __init__(self) -> None:
        self._own = _own()
        self._ours, self._theirs = socket.socketpair()
        self._master = -1
        self._before: list[Any] | None = None

    def fileno(self) -> int:
        return self._theirs.fileno()

    def take(self) -> None:
        """The process was made: its master has come."""
        self._theirs.close()
        _, descriptors, _, _ = socket.recv_fds(self._ours, 4096, 1)
        self._master = descriptors[0]
        os.set_inheritable(self._master, False)
        self.resize()
        signal.signal(signal.SIGWINCH, lambda *_: self.resize())
        self._before = termios.tcgetattr(self._own)
        _make_raw(self._own)

    def resize(self) -> None:
        if self._master >= 0:
            size = fcntl.ioctl(self._own, termios.TIOCGWINSZ, b"\0" * 8)
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def relay(self, child: launch.Child) -> None:
        """Until the process has ended and all that it wrote is shown."""
        poll = select.poll()
        for fd in (0, self._master, child.pidfd):
            poll.register(fd, select.POLLIN)
        ended = False
        while True:
            for fd, _ in poll.poll(0 if ended else None):
                if fd == child.pidfd:
                    ended = True
                    poll.unregister(fd)
                elif fd == 0 and not _copy(0, self._master):
                    poll.unregister(0)
                elif fd == self._master and not _copy(self._master, 1):
                    return
            if ended and not select.select([self._master], [], [], 0)[0]:
                return

    def close(self) -> None:
        if self._before is not None:
            termios.tcsetattr(self._own, termios.TCSADRAIN, self._before)
        if self._master >= 0:
            os.close(self._master)
        self._ours.close()
        self._theirs.close()


def _make_raw(fd: int) -> None:
    """cfmakeraw(3)."""
    mode = termios.tcgetattr(fd)
    mode[0] &= ~(termios.BRKINT | termios.ICRNL | termios.INPCK | termios.ISTRIP | termios.IXON)
    mode[1] &= ~termios.OPOST
    mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    mode[3] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN | termios.ISIG)
    mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
    termios.tcsetattr(fd, termios.TCSANOW, mode)


def _copy(source: int, target: int) -> bool:
    """Whether there may be more."""
    try:
        data = os.read(source, _CHUNK)
        rest = data
        while rest:
            rest = rest[os.write(target, rest) :]
    except OSError:  # EIO: the other end of a terminal is closed
        return False
    return bool(data)
