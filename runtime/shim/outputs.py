"""Effects: a shim gives a second hold on its container's output, see runtime.shim.holder."""

from __future__ import annotations

import _socket  # without the enums of `socket`, which are memory
import array
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SOCKET = "outputs.sock"
_DATAGRAMS = _socket.SOCK_DGRAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC


def hold(run: str, id: str, ends: Sequence[int]) -> None:
    """Let the holder of this run directory have these reading ends, too. Where there is none, the container
    runs without."""
    try:
        send(run, b"hold " + id.encode(), ends)
    except OSError:
        pass


def send(run: str, data: bytes, fds: Sequence[int]) -> None:
    """A datagram to the holder. OSError where there is none."""
    directory = os.open(run, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sender = _socket.socket(
        _socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
    )
    try:
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sender.sendmsg([data], rights, 0, f"/proc/self/fd/{directory}/{SOCKET}")
    finally:
        sender.close()
        os.close(directory)
