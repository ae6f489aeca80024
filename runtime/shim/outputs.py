"""Effects: a shim gives a second hold on its container's output, see runtime.shim.holder."""

from __future__ import annotations

import _socket  # without the enums of `socket`, which are memory
import array
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SOCKET = "outputs.sock"
#: s that the holder is given to take a datagram: its queue is short (max_dgram_qlen), and many may start at
#: once on a busy machine
PATIENCE = 5
_SO_SNDTIMEO = 21


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
    sender = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        sender.setsockopt(_socket.SOL_SOCKET, _SO_SNDTIMEO, struct.pack("ll", PATIENCE, 0))
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sender.sendmsg([data], rights, 0, f"/proc/self/fd/{directory}/{SOCKET}")
    finally:
        sender.close()
        os.close(directory)
