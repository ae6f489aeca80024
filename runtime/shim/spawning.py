"""Effects: the zygote's work once it has imported everything: a request becomes a process, that a shim."""

from __future__ import annotations

import array
import ctypes
import os
import socket

from runtime.linux import cgroups, libc, signals
from runtime.shim import birth, launch, root

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
    root.host_hierarchies()
    host.create(SHIMS)
    host.add(SHIMS, 0)
    return host


def serve(control: socket.socket, host: cgroups.Cgroups) -> None:
    """Until the client is gone. A packet without a descriptor is passed over.

    Nothing else is done here than to fork: what the zygote writes to its memory after a fork is memory that
    the child has for itself from then on.
    """
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    space = socket.CMSG_SPACE(_INT)
    fds = array.array("i")
    while True:
        data, ancillary, _, _ = control.recvmsg(MAX_REQUEST, space, socket.MSG_CMSG_CLOEXEC)
        if not data:
            return
        if ancillary:
            del fds[:]
            fds.frombytes(ancillary[0][2][:_INT])
            _spawn(data, fds[0], null, host)


def _spawn(data: bytes, report: int, null: int, host: cgroups.Cgroups) -> None:
    """Fork one shim; only the zygote returns."""
    try:
        pid = os.fork()
    except OSError as error:
        birth.refuse(report, error)
        pid = -1
    if pid:
        os.close(report)
        return
    try:
        for fd in (0, 1, 2):  # 0 is the socket to the agent
            os.dup2(null, fd, False)
        signals.handle(signals.SIGCHLD, _wake)
        os.setsid()
        birth.run(data, report, host)
    except BaseException as error:
        birth.refuse(report, error)
    finally:
        os._exit(0)


def _wake(*_: object) -> None:
    """A handler, so that a signal is written to the wakeup descriptor of a shim."""
