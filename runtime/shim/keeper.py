"""Effects: a shim that has nothing to do, and little memory.

What a start of a container touches (records, sockets, the fork of init) would stay with the shim as memory of
its own for as long as the container runs: CPython counts references in the objects themselves. So the process
that is to stay, the keeper, forks another one at once, the starter. That one is a whole shim
(runtime.shim.monitor) which says everywhere that it is the keeper. When its program runs it hands all that it
holds to the keeper and ends; the container is the keeper's child then, since the keeper is its subreaper
(prctl(2)). The keeper moves output to the log, and with the first other thing that happens it becomes a whole
shim itself.

A starter whose program ended, or that a client has called meanwhile, hands nothing over: it stays the shim,
and the keeper passes signals on and ends with it. Neither outlives the other.
"""

from __future__ import annotations

import array
import os
import struct

# functions by their own names and numbers that are no members of enums: each look-up is memory
from _socket import (
    AF_UNIX,
    CMSG_SPACE,
    MSG_CMSG_CLOEXEC,
    SCM_RIGHTS,
    SOCK_CLOEXEC,
    SOCK_SEQPACKET,
    SOL_SOCKET,
    socketpair,
)
from os import close, fork, getpid, kill, pipe2, read, waitpid
from select import POLLIN
from select import poll as new_poll

from runtime.linux.libc import prctl
from runtime.linux.signals import SIGCHLD, SIGKILL, SIGTERM, handle, wake
from runtime.shim.logs import LogWriter
from runtime.shim.messages import STDERR, STDOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    Handler = Callable[[int, object], None]
    Starter = Callable[[int, _socket.socket], None]

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
#: Bytes of a handover's packet, which has a path of up to PATH_MAX in it.
MAX_HANDOVER = 4096 + 64
#: Signals read at once.
MAX_SIGNALS = 512
#: Descriptors of a handover: document, init's pidfd, listener, lock, stdout, stderr; a network namespace, if
#: there is one.
LEAST, MOST = 6, 7

_LEAST, _MOST = struct.Struct(f"{LEAST}i"), struct.Struct(f"{MOST}i")
_RIGHTS = CMSG_SPACE(_MOST.size)
_CLOEXEC = MSG_CMSG_CLOEXEC
_LINE = SOCK_SEQPACKET | SOCK_CLOEXEC
_PIPE = os.O_CLOEXEC | os.O_NONBLOCK


class Taken:
    """What a keeper has when it becomes a whole shim: a file with the starter's `document`, descriptors
    of the container, `outputs` with their streams, `own_net` (-1: none), its log if there was output; `told`:
    SIGTERM has come."""

    __slots__ = ("document", "listener", "log", "outputs", "own_net", "pidfd", "told", "wakes")

    def __init__(
        self, fds: Sequence[int], outputs: dict[int, int], log: LogWriter | None, wakes: int, told: bool
    ) -> None:
        self.document, self.pidfd, self.listener = fds[:3]
        self.own_net = fds[6] if len(fds) > LEAST else -1
        self.outputs, self.log, self.wakes, self.told = outputs, log, wakes, told


def run(report: int, noted: Handler, start: Starter) -> Taken | None:
    """Fork; wait for what the starter hands over; take output until anything else happens. None: the starter
    ended, and there is nothing to keep. In the starter `start` is called with the keeper's pid and the line
    to it. `noted` is a handler that does nothing: signals shall wake.

    All is in one piece and in plain variables: each function and object is memory of every idle shim.
    """
    handle(SIGCHLD, noted)
    wakes, writer = pipe2(_PIPE)
    wake(writer)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    line, theirs = socketpair(AF_UNIX, _LINE)
    keeper = getpid()
    pid = fork()
    if not pid:
        line.close()
        close(wakes)
        prctl(PR_SET_PDEATHSIG, SIGKILL)
        if os.getppid() == keeper:  # it was not killed before that
            start(keeper, theirs)
        os._exit(0)
    close(report)
    theirs.close()
    poll, told = new_poll(), False
    poll.register(line, POLLIN)
    poll.register(wakes, POLLIN)
    ready = None
    while ready is None or line.fileno() not in ready:
        ready = dict(poll.poll())
        if wakes in ready and SIGTERM in read(wakes, MAX_SIGNALS):
            told = True
            kill(pid, SIGTERM)  # not waited for yet: the pid is still its own
    head, ancillary, _, _ = line.recvmsg(MAX_HANDOVER, _RIGHTS, _CLOEXEC)
    poll.unregister(line)
    line.close()
    waitpid(pid, 0)
    if not head:
        return None
    rights = ancillary[0][2]
    fds = (_MOST if len(rights) == _MOST.size else _LEAST).unpack(rights)
    outputs, log = {fds[4]: STDOUT, fds[5]: STDERR}, None
    for fd in fds[1], fds[2], fds[4], fds[5]:
        poll.register(fd, POLLIN)
    while not told:
        for fd, _ in poll.poll():
            if fd in outputs:
                if log is None:
                    log = open_log(head)
                if not log.splice(fd, outputs[fd]):
                    del outputs[fd]
                    poll.unregister(fd)
                    close(fd)
            elif fd != wakes:
                return Taken(fds, outputs, log, wakes, told)
            elif SIGTERM in read(wakes, MAX_SIGNALS):
                told = True
    return Taken(fds, outputs, log, wakes, told)


def rehearse(*others: tuple[Callable[..., object], object]) -> None:
    """Look up what `run` will: the interpreter remembers by name and type where it found something, and
    counts the names that it remembers. `others`: functions on the way to `run`, and whose attributes they
    look up."""
    line, theirs = socketpair(AF_UNIX, _LINE)
    things: tuple[object, ...] = (line, new_poll(), _MOST, os, b"", {})
    for name in run.__code__.co_names:
        for thing in things:
            getattr(thing, name, None)
    for function, other in others:
        for name in function.__code__.co_names:
            getattr(other, name, None)
    line.close()
    theirs.close()


def give(line: _socket.socket, head: bytes, document: bytes, fds: Sequence[int]) -> bool:
    """Hand over. False when the kernel does not take it: then nothing has changed."""
    try:
        file = os.memfd_create("handover", os.MFD_CLOEXEC)
        try:
            with open(file, "wb", closefd=False) as writer:
                writer.write(document)
            line.sendmsg([head], [(SOL_SOCKET, SCM_RIGHTS, array.array("i", [file, *fds]))])
        finally:
            close(file)
    except OSError:
        return False
    return True


def log_head(bundle: str, supervise: Mapping[str, Any]) -> bytes:
    """What it takes to open the log: words cost less memory than JSON."""
    return f"{supervise['log_max_size']} {supervise['log_max_files']} {bundle}".encode()


def open_log(head: bytes) -> LogWriter:
    size, files, bundle = head.decode().split(" ", 2)
    return LogWriter(f"{bundle}/log", int(size), int(files))
