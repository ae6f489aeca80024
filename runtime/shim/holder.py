"""Effects: one process a node that holds the reading ends of containers' outputs beside their shims.

What a program had written is in a pipe until its shim has read it, and a pipe is gone with its last holder: a
shim that is killed would take it along. So each shim sends its ends here (`outputs.hold`), and whoever clears
up after a killed one takes them back (`rescue.into`), reads what is left, and puts it into the log.

Started as `python -I -S -OO holder.py RUN` by whoever starts a zygote, standard library only; it survives its
maker, and ends when it has held nothing for IDLE seconds and no start is under way. Datagrams on
RUN/outputs.sock: `hold ID` with descriptors, `take ID` with a socket for the answer, and an empty one of who
is about to start a container. unix(7), pipe(7).
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
import select
import socket
import struct
import sys
import termios
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

LOCK = "outputs.lock"
#: s without anything to hold until it ends; between two looks meanwhile at whether it can be reached, since
#: who removes all of Stead wants it gone; and between two looks at pipes whose writers are gone
IDLE, SOON, LOOK = 2.0, 0.05, 60.0
#: s that a start is given to come to its `hold`: machines are busy
START = 10.0
#: s for which what nobody takes is kept
KEPT = 3600.0
#: bytes of a datagram; descriptors with it
MAX_MESSAGE, MAX_DESCRIPTORS = 256, 4

_INT = array.array("i").itemsize
_PR_SET_NAME = 15
_NAME = ctypes.create_string_buffer(b"stead-outputs")
SHIMS = "stead.slice/shims"


class Holder:
    """What is held, by container."""

    def __init__(self, listener: socket.socket, lock: int) -> None:
        self._listener = listener
        self._lock = lock
        self._starts = [time.monotonic() + START]  # that are waited for, until when: our maker's
        self._poll = select.poll()
        self._poll.register(listener, select.POLLIN)
        self._held: dict[str, list[int]] = {}
        self._owner: dict[int, str] = {}  # of those whose writers live
        self._ended: dict[int, tuple[str, float]] = {}  # writers are gone, and something is left to read

    def run(self) -> None:
        """Until nothing was held for a while."""
        since = time.monotonic()
        while self._is_reachable() and (self._held or self._is_awaited(since)):
            wait = SOON if not self._held else LOOK if self._ended else None
            for fd, _ in self._poll.poll(None if wait is None else 1000 * wait):
                if fd == self._listener.fileno():
                    self._serve()
                    since = time.monotonic()
                elif fd in self._owner:
                    self._hung_up(fd)
                    since = time.monotonic()
            self._look()

    def _is_reachable(self) -> bool:
        """Whether there is a way to us: without our run directory nobody takes anything."""
        return os.fstat(self._lock).st_nlink > 0

    def _is_awaited(self, since: float) -> bool:
        """Whether somebody may still come, when nothing has been held since then."""
        now = time.monotonic()
        self._starts = [until for until in self._starts if until > now]
        return bool(self._starts) or now - since < IDLE

    def _serve(self) -> None:
        space = socket.CMSG_SPACE(MAX_DESCRIPTORS * _INT)
        try:
            data, ancillary, _, _ = self._listener.recvmsg(MAX_MESSAGE, space, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return
        fds = array.array("i")
        for level, kind, rights in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(rights[: len(rights) - len(rights) % _INT])
        verb, _, id = data.decode("ascii", "replace").partition(" ")
        if verb == "hold" and fds:
            self._drop(id)
            self._hold(id, fds)
            del self._starts[:1]
        elif verb == "take" and fds:
            self._give(id, fds[0])
            _close(fds)
        else:
            if not data:
                self._starts.append(time.monotonic() + START)
            _close(fds)

    def _hold(self, id: str, fds: Sequence[int]) -> None:
        self._held[id] = list(fds)
        for fd in fds:
            self._owner[fd] = id
            self._poll.register(fd, 0)  # its end comes unasked: poll(2), POLLHUP

    def _give(self, id: str, line: int) -> None:
        """The ends of a container, which are not held any more; none where there are none."""
        with socket.socket(fileno=os.dup(line)) as answer:
            answer.setblocking(False)
            rights = array.array("i", self._held.get(id, ()))
            try:
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else []
                answer.sendmsg([b"taken"], ancillary)
            except OSError:
                return  # who asked has ended: the next one asks again
        self._drop(id)

    def _drop(self, id: str) -> None:
        for fd in self._held.pop(id, ()):
            self._forget(fd)
            os.close(fd)

    def _forget(self, fd: int) -> None:
        if self._owner.pop(fd, None) is not None:
            self._poll.unregister(fd)
        self._ended.pop(fd, None)

    def _hung_up(self, fd: int) -> None:
        """Nobody writes any more. What is left is its shim's to read, or of who comes after a killed one."""
        id = self._owner[fd]
        self._forget(fd)
        if _left(fd):
            self._ended[fd] = (id, time.monotonic())
        else:
            self._close(id, fd)

    def _look(self) -> None:
        for fd, (id, since) in list(self._ended.items()):
            if not _left(fd) or time.monotonic() - since > KEPT:
                self._forget(fd)
                self._close(id, fd)

    def _close(self, id: str, fd: int) -> None:
        os.close(fd)
        self._held[id].remove(fd)
        if not self._held[id]:
            del self._held[id]


def _left(fd: int) -> int:
    """Bytes that can be read. ioctl_pipe(2), FIONREAD."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))[0])
    except OSError:
        return 0


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def main(run: str) -> int:
    """Be the holder of this run directory; nothing where there is one."""
    directory = os.open(run, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    from runtime.linux import cgroups, libc
    from runtime.shim.outputs import SOCKET

    libc.prctl(_PR_SET_NAME, ctypes.addressof(_NAME))
    host = cgroups.detect()  # systemd counts whom it finds in the cgroup of the agent's service
    host.create(SHIMS)
    host.add(SHIMS, 0)
    os.umask(0o177)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        os.unlink(SOCKET, dir_fd=directory)
    except FileNotFoundError:
        pass
    listener.bind(f"/proc/self/fd/{directory}/{SOCKET}")  # however long the path is
    holder = Holder(listener, lock)
    if os.fork():  # who waits for us knows that datagrams are taken from now on
        os._exit(0)
    os.setsid()
    os.chdir("/")
    os.close(directory)
    holder.run()
    return 0


if __name__ == "__main__":
    # -I leaves out the directory that our packages are in
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    sys.exit(main(sys.argv[1]))
