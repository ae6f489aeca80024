"""Effects: the process that forks shims. Started by the agent as `python -I -S zygote.py`, standard library
only.

It has imported what a shim needs, once, and is single-threaded, so that a fork is cheap and safe; the agent
is neither. Requests come on the SEQPACKET socket that is its standard input, one packet a shim:
{"v":1,"op":"spawn","bundle":DIR,"live":DIR} with one descriptor, a pipe on which that shim itself answers:
how its first start went. Any number may be under way. It ends when its client does (end of file on the
socket); the shims, forked twice, belong to init and live on.

A shim copies each page that it writes to, and CPython writes a reference count wherever it looks. So what
shims look at is kept close together: the holes that importing leaves in the heap are filled before and after
our own modules are imported, and no collection ever walks over all of it. This is worth 0.4 MiB a shim.
"""

from __future__ import annotations

import array
import contextlib  # noqa: F401  imported here so that it lies apart from our own modules
import ctypes  # noqa: F401
import dataclasses  # noqa: F401
import errno  # noqa: F401
import fcntl  # noqa: F401
import functools  # noqa: F401
import gc
import json  # noqa: F401
import os
import pathlib  # noqa: F401
import select  # noqa: F401
import signal
import socket
import struct  # noqa: F401
import sys
import termios  # noqa: F401
import time  # noqa: F401

#: Bytes put into each size class of the small-object allocator: more than its holes.
FILLING = 65536
SMALL = 512  # obmalloc.c: SMALL_REQUEST_THRESHOLD, in steps of ALIGNMENT = 16


def main() -> int:
    """Serve until the client is gone."""
    control = socket.socket(fileno=0)
    os.closerange(3, 1024)  # the interpreter's own file, see client.py
    os.chdir("/")
    os.umask(0o077)
    for number in (signal.SIGHUP, signal.SIGPIPE, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGCHLD):  # shims are woken by them; we end with our client
        signal.signal(number, _wake)
    gc.collect()
    kept = [_fill_holes()]
    from runtime.linux import cgroups
    from runtime.shim import birth, launch, messages

    host = cgroups.detect()
    gc.collect()
    kept.append(_fill_holes())
    gc.disable()
    gc.freeze()
    size = array.array("i").itemsize
    while True:
        data, ancillary, _, _ = control.recvmsg(
            messages.MAX_PACKET, socket.CMSG_SPACE(size), socket.MSG_CMSG_CLOEXEC
        )
        if not data:
            return 0
        fds = array.array("i")
        for _level, kind, content in ancillary:
            if kind == socket.SCM_RIGHTS:
                fds.frombytes(content[:size])
        if not fds:
            continue
        try:
            pid = os.fork()
        except OSError as error:
            birth.send_report(fds[0], launch.Failure("fork", f"cannot start supervisor: {error}"), 0)
            pid = -1
        if pid:  # the first child is reaped here, the second is the shim
            if pid > 0:
                os.waitpid(pid, 0)
            os.close(fds[0])
            continue
        try:
            os.setsid()
            if os.fork():
                os._exit(0)
            request = messages.decode(data)
            birth.run(str(request["bundle"]), str(request["live"]), fds[0], host)
        except BaseException as error:
            birth.send_report(fds[0], launch.Failure("shim", f"cannot start supervisor: {error}"), 0)
        finally:
            os._exit(0)


def _wake(*_: object) -> None:
    """A handler, so that a signal is written to the wakeup descriptor of a shim."""


def _fill_holes() -> list[list[bytes]]:
    """Objects of every small size, in number enough that the next ones begin new pages. To be kept."""
    header = sys.getsizeof(b"")
    return [[bytes(size - header) for _ in range(FILLING // size)] for size in range(48, SMALL + 1, 16)]


if __name__ == "__main__":
    # -I leaves out the directory that our packages are in
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    sys.exit(main())
