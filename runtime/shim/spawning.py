"""Effects: the zygote's work once it has imported everything: a request becomes a process, that a shim."""

from __future__ import annotations

import array
import ctypes
import os
import socket

from runtime.linux import cgroups, libc, signals
from runtime.shim import birth, launch, messages, root

SHIMS = "stead.slice/shims"

_NAME = ctypes.create_string_buffer(b"stead-zygote")
_INT = array.array("i").itemsize


def prepare() -> cgroups.Cgroups:
    """What shims are born with: a cgroup of their own, signals that wake them. Returns the host's cgroups."""
    libc.prctl(birth.PR_SET_NAME, ctypes.addressof(_NAME))
    signals.ignore(signals.SIGHUP, signals.SIGPIPE, signals.SIGINT)
    signals.handle(signals.SIGTERM, _wake)  # shims are woken by it; the zygote ends with its client
    signals.ignore(signals.SIGCHLD)  # shims that end need no one to wait for them
    host = cgroups.detect()
    root.host_hierarchies()
    host.create(SHIMS)
    host.add(SHIMS, 0)
    return host


def serve(control: socket.socket, host: cgroups.Cgroups) -> None:
    """Until the client is gone. A packet without a descriptor is passed over."""
    while True:
        data, ancillary, _, _ = control.recvmsg(
            messages.MAX_PACKET, socket.CMSG_SPACE(_INT), socket.MSG_CMSG_CLOEXEC
        )
        if not data:
            return
        fds = array.array("i")
        for _level, kind, content in ancillary:
            if kind == socket.SCM_RIGHTS:
                fds.frombytes(content[:_INT])
        if fds:
            _spawn(data, fds[0], host)


def _spawn(data: bytes, report: int, host: cgroups.Cgroups) -> None:
    """Fork one shim; only the zygote returns."""
    try:  # what is read before the fork is memory that the shim shares
        bundle = birth.read(messages.decode(data))
        pid = os.fork()
    except (OSError, ValueError, KeyError) as error:
        birth.send_report(report, launch.Failure("fork", f"cannot start supervisor: {error}"), 0)
        pid = -1
    if pid:
        os.close(report)
        return
    try:
        signals.handle(signals.SIGCHLD, _wake)
        os.setsid()
        birth.run(bundle, report, host)
    except BaseException as error:
        birth.send_report(report, launch.Failure("shim", f"cannot start supervisor: {error}"), 0)
    finally:
        os._exit(0)


def _wake(*_: object) -> None:
    """A handler, so that a signal is written to the wakeup descriptor of a shim."""
