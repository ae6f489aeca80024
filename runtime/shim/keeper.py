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

import _socket
import array
import os
import select

from runtime.linux import libc, signals
from runtime.shim import messages
from runtime.shim.logs import LogWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

PR_SET_PDEATHSIG = 1
#: Bytes of a handover's document.
MAX_HANDOVER = 200_000
#: Descriptors of a handover: init's pidfd, listener, lock, stdout, stderr, and a network namespace if any.
LEAST, MOST = 5, 6
_INT = array.array("i").itemsize


class Taken:
    """What a keeper was given. `head` is what opens the log, `document` JSON that nobody has read yet,
    `outputs` are those still open with their streams, `own_net` is -1 without a network namespace."""

    __slots__ = ("document", "head", "listener", "log", "outputs", "own_net", "pidfd")

    def __init__(self, packet: bytes, fds: Sequence[int]) -> None:
        end = packet.index(b"\n")
        self.head, self.document = packet[:end], packet[end:]
        self.pidfd, self.listener, _lock, stdout, stderr = fds[:LEAST]
        self.outputs = {stdout: messages.STDOUT, stderr: messages.STDERR}
        self.own_net = fds[LEAST] if len(fds) > LEAST else -1
        self.log: LogWriter | None = None


def part() -> tuple[int, _socket.socket]:
    """Fork. In the keeper: the starter's pid and its end of the line; in the starter 0 and the other end."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    keeper = os.getpid()
    pid = os.fork()
    if pid:
        theirs.close()
        return pid, ours
    ours.close()
    libc.prctl(PR_SET_PDEATHSIG, signals.SIGKILL)
    if os.getppid() != keeper:  # it was killed before that
        os._exit(0)
    return 0, theirs


def give(line: _socket.socket, document: bytes, fds: Sequence[int]) -> bool:
    """Hand over. False when the line does not take it: then nothing has changed."""
    try:
        line.sendmsg([document], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", fds))])
    except OSError:
        return False
    return True


def wait(line: _socket.socket, starter: int, wakes: int) -> tuple[Taken | None, bool]:
    """Until the starter has ended. Returns what it handed over, and whether we were told to end meanwhile."""
    poll, told = select.poll(), False
    poll.register(line.fileno(), select.POLLIN)
    poll.register(wakes, select.POLLIN)
    while True:
        ready = [fd for fd, _ in poll.poll()]
        if wakes in ready and signals.SIGTERM in os.read(wakes, 512):
            told = True
            os.kill(starter, signals.SIGTERM)  # not waited for yet: the pid is still its own
        if line.fileno() in ready:
            break
    space = _socket.CMSG_SPACE(MOST * _INT)
    data, ancillary, _, _ = line.recvmsg(MAX_HANDOVER, space, _socket.MSG_CMSG_CLOEXEC)
    line.close()
    os.waitpid(starter, 0)
    if not data:
        return None, told
    return Taken(data, array.array("i", ancillary[0][2])), told


def keep(taken: Taken, wakes: int) -> bool:
    """Take output until anything else happens. Returns whether that was SIGTERM."""
    poll = select.poll()
    for fd in (*taken.outputs, taken.pidfd, taken.listener, wakes):
        poll.register(fd, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            stream = taken.outputs.get(fd)
            if stream is not None:
                if taken.log is None:
                    taken.log = open_log(taken.head)
                if not taken.log.splice(fd, stream):
                    del taken.outputs[fd]
                    poll.unregister(fd)
                    os.close(fd)
            elif fd != wakes:
                return False
            elif signals.SIGTERM in os.read(wakes, 512):
                return True


def log_head(bundle: str, supervise: Mapping[str, Any]) -> bytes:
    """What it takes to open the log, as the first line of a handover: words cost less memory than JSON."""
    return f"{supervise['log_max_size']} {supervise['log_max_files']} {bundle}\n".encode()


def open_log(head: bytes) -> LogWriter:
    size, files, bundle = head.decode().rstrip("\n").split(" ", 2)
    return LogWriter(f"{bundle}/log", int(size), int(files))
