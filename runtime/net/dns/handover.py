"""Effects: a name server of a newer release takes the sockets of the one that runs, and no question is lost.

The newer one connects to `run/names/takeover` and says what it is. The other stops reading, sends its sockets
(SCM_RIGHTS: unix(7)) and lets go of the lock. Questions that come meanwhile wait in the kernel, in the queues
of those sockets; those that the other has passed on to servers of the world it still answers, then it ends.
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runtime.net.dns import documents
from runtime.net.dns.release import release
from runtime.shim.loop import Loop

NAME = "takeover"
#: Sockets in one message: the kernel takes SCM_MAX_FD, 253.
MOST = 200
#: Seconds for which a newer server waits for each message of the older one.
PATIENCE = 2.0
_SIZE = 65536
_FD = array.array("i").itemsize


@dataclass(frozen=True, slots=True)
class Given:
    """A socket that is bound to `address`."""

    address: str
    kind: socket.SocketKind
    sock: socket.socket


class Door:
    """Where a newer server asks. `give` is called once: it returns the sockets, which are not read any more;
    `after` when they are sent."""

    def __init__(
        self, loop: Loop, run: str, give: Callable[[], Sequence[Given]], after: Callable[[], None]
    ) -> None:
        self._loop, self._give, self._after = loop, give, after
        self._path = f"{run}/{documents.DIRECTORY}"
        self._listening: socket.socket | None = None
        self._asking: socket.socket | None = None
        try:
            self._listening = _listen(self._path)
        except OSError:
            return  # without it a newer release has to end this one
        loop.watch(self._listening.fileno(), self._accept)

    def close(self) -> None:
        for sock in (self._listening, self._asking):
            if sock is not None:
                self._loop.forget(sock.fileno())
                sock.close()
        self._listening = self._asking = None

    def _accept(self) -> None:
        assert self._listening is not None
        try:
            asking, _ = self._listening.accept()
        except OSError:
            return
        asking.setblocking(False)
        if self._asking is not None:
            self._loop.forget(self._asking.fileno())
            self._asking.close()
        self._asking = asking
        self._loop.watch(asking.fileno(), self._hear)

    def _hear(self) -> None:
        asking, self._asking = self._asking, None
        assert asking is not None
        self._loop.forget(asking.fileno())
        with asking:
            try:
                newer = documents.decode_release(asking.recv(_SIZE)) > release()
            except (OSError, ValueError):
                return
            if newer:
                self.close()
                asking.setblocking(True)
                asking.settimeout(PATIENCE)
                try:
                    _send(asking, self._give())
                finally:
                    self._after()


def take(run: str) -> list[Given]:
    """What the server that runs gives us; nothing where it does not run, or does not give way to us."""
    found: list[Given] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asked:
        asked.settimeout(PATIENCE)
        try:
            _at(f"{run}/{documents.DIRECTORY}", asked.connect)
            asked.send(documents.encode_release(release()))
            while data := _receive(asked, found):
                if data == b"end":
                    return found
        except (OSError, ValueError):
            pass
    for item in found:
        item.sock.close()
    return []


def _send(asking: socket.socket, given: Sequence[Given]) -> None:
    for at in range(0, len(given), MOST):
        part = given[at : at + MOST]
        text = json.dumps([[item.address, int(item.kind)] for item in part]).encode()
        fds = array.array("i", [item.sock.fileno() for item in part])
        asking.sendmsg([text], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
    asking.send(b"end")


def _receive(asked: socket.socket, found: list[Given]) -> bytes:
    """One message; its sockets go to `found`. ValueError for what no server sends."""
    data, ancillary, _, _ = asked.recvmsg(_SIZE, socket.CMSG_SPACE(MOST * _FD), socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, type, payload in ancillary:
        if (level, type) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(payload[: len(payload) // _FD * _FD])
    socks = [socket.socket(fileno=fd) for fd in fds]
    for sock in socks:
        sock.setblocking(False)
    if data in (b"", b"end"):
        return data
    named = json.loads(data)
    for (address, kind), sock in zip(named, socks, strict=True):
        found.append(Given(str(address), socket.SocketKind(kind), sock))
    return data


def _listen(directory: str) -> socket.socket:
    try:
        os.unlink(f"{directory}/{NAME}")
    except FileNotFoundError:
        pass
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        _at(directory, sock.bind)
        sock.listen(4)
    except BaseException:
        sock.close()
        raise
    return sock


def _at(directory: str, call: Callable[[str], None]) -> None:
    """sun_path holds 108 bytes, state directories may be deeper: unix(7)."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        call(f"/proc/self/fd/{fd}/{NAME}")
    finally:
        os.close(fd)
