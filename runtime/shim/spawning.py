"""Effects: the zygote's work once it has imported everything: a request becomes a process, that a shim."""

from __future__ import annotations

import _socket  # without the enums of `socket`, which are memory
import array
import ctypes
import os
import sys
from os import close, dup2, fork, setsid

from runtime.linux import cgroups, libc, signals
from runtime.shim import birth, hierarchies, keeper, launch, messages

SHIMS = "stead.slice/shims"
#: Bytes of a request.
MAX_REQUEST = 65536

_NAME = ctypes.create_string_buffer(b"stead-zygote")
_INT = array.array("i").itemsize


def prepare() -> cgroups.Cgroups:
    """What shims are born with: a cgroup of their own, signals that wake them. Returns the host's cgroups."""
    libc.prctl(birth.PR_SET_NAME, ctypes.addressof(_NAME))
    signals.ignore(signals.SIGHUP, signals.SIGPIPE, signals.SIGINT)
    signals.handle(signals.SIGTERM, _wake)  # shims are woken by it; the zygote ends with its client
    signals.ignore(signals.SIGCHLD)  # shims that end need no one to wait for them
    launch.oom_score(birth.OOM_SCORE)
    host = cgroups.detect()
    hierarchies.host_hierarchies()
    host.create(SHIMS)
    host.add(SHIMS, 0)
    return host


def rehearse() -> None:
    """What the fork of a keeper will look up: see there."""
    others = [(birth.run, thing) for thing in (messages, keeper, libc)]
    keeper.rehearse(*others, (_spawn, birth), (_spawn, os))


def serve(control: _socket.socket, host: cgroups.Cgroups) -> None:
    """Until the client is gone. A packet without a descriptor is passed over.

    Nothing is done here but to fork, and with few objects: what the zygote writes to its memory after a fork
    is memory that the child has for itself from then on, and so is what the child writes.
    """
    space, flags = _socket.CMSG_SPACE(_INT), _socket.MSG_CMSG_CLOEXEC
    receive = _socket.socket(fileno=control.detach()).recvmsg
    number, order = int.from_bytes, sys.byteorder
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    while True:
        data, ancillary, _, _ = receive(MAX_REQUEST, space, flags)
        if not data:
            return
        if ancillary:
            _spawn(data, number(ancillary[0][2][:_INT], order), null, host)


def _spawn(data: bytes, report: int, null: int, host: cgroups.Cgroups) -> None:
    """Fork one shim; only the zygote returns."""
    try:
        pid = fork()
    except OSError as error:
        birth.refuse(report, error)
        pid = -1
    if pid:
        close(report)
        return
    try:
        dup2(null, 0, False)  # 0 is the socket to the agent
        dup2(null, 2, False)
        setsid()
        birth.run(data, report, host, _wake)
    except BaseException as error:
        birth.refuse(report, error)
    finally:
        os._exit(0)


def _wake(*_: object) -> None:
    """A handler, so that a signal is written to the wakeup descriptor of a shim."""
