"""Effects: what a killed shim had not read of its container's output, for whoever clears up after it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from runtime.shim import lean, outputs
from runtime.shim.messages import STDERR, STDOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.shim.logs import LogWriter

#: s that the holder is given to answer, and to begin
ANSWER, BEGIN = 10.0, 10.0
#: turns at one pipe: a program that lives may write for ever
TURNS = 64


def ensure(run: str) -> subprocess.Popen[bytes] | None:
    """Start a holder of this run directory where there is none; who has begun one waits for it: `begun`."""
    try:
        outputs.send(run, b"", ())
        return None
    except OSError:
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "holder.py")
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-OO", program, run],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={},
        )


def begun(starting: subprocess.Popen[bytes] | None) -> None:
    """Returns when the holder takes what it is sent. That it could not be started is no error: containers run
    without."""
    if starting is not None:
        lean.end(starting, BEGIN)


def into(log: LogWriter, run: str, id: str) -> int:
    """What is left of the container's output goes into its log. Returns the bytes. Repeatable; where there is
    no holder, nothing is left."""
    before = log.taken
    for fd, stream in zip(take(run, id), (STDOUT, STDERR), strict=False):
        try:
            os.set_blocking(fd, False)
            turns, last = TURNS, -1
            while turns and log.taken != last and log.splice(fd, stream):
                turns, last = turns - 1, log.taken
        finally:
            os.close(fd)
    return log.taken - before


def take(run: str, id: str) -> list[int]:
    """The reading ends that are held of a container, stdout and stderr, and are not any more; the caller
    closes them."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        try:
            with theirs:
                outputs.send(run, b"take " + id.encode(), [theirs.fileno()])
            ours.settimeout(ANSWER)
            _, fds, _, _ = socket.recv_fds(ours, 16, 4)
        except OSError:
            return []
    return fds
