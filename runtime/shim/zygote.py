"""Effects: the process that forks shims. Started by the agent as `python -I -S -OO zygote.py`, standard
library only.

It has imported what a shim needs, once, and is single-threaded, so that a fork is cheap and safe; the agent
is neither. Requests come on the SEQPACKET socket that is its standard input, one packet a shim:
{"v":1,"op":"spawn","bundle":DIR,"live":DIR} with one descriptor, a pipe on which that shim itself answers:
how its first start went. Any number may be under way. It ends when its client does (end of file on the
socket); the shims belong to init then and live on. They are born in its cgroup, which is for shims alone.

A shim copies each page that it writes to, and CPython writes a reference count wherever it looks. So what
shims look at is kept close together: the holes that importing leaves in the heap are filled before and after
our own modules are imported, and no collection ever walks over all of it. This is worth 0.4 MiB a shim.
"""

from __future__ import annotations

import array
import contextlib  # noqa: F401  imported here so that it lies apart from our own modules
import ctypes
import dataclasses  # noqa: F401
import errno  # noqa: F401
import fcntl  # noqa: F401
import functools  # noqa: F401
import gc
import json  # noqa: F401
import os
import pathlib  # noqa: F401
import select  # noqa: F401
import signal  # noqa: F401
import socket
import struct  # noqa: F401
import sys
import termios  # noqa: F401
import time  # noqa: F401

SHIMS = "stead.slice/shims"
#: Bytes put into each size class of the small-object allocator: more than its holes.
FILLING = 65536
SMALL = 512  # obmalloc.c: SMALL_REQUEST_THRESHOLD, in steps of ALIGNMENT = 16


def main() -> int:
    """Serve until the client is gone."""
    control = socket.socket(fileno=0)
    os.closerange(3, 1024)  # the interpreter's own file, see client.py
    os.chdir("/")
    os.umask(0o077)
    gc.collect()
    kept = [_fill_holes()]
    from runtime.linux import cgroups, libc, signals
    from runtime.shim import birth, launch, messages

    name = ctypes.create_string_buffer(b"stead-zygote")
    libc.prctl(birth.PR_SET_NAME, ctypes.addressof(name))

    signals.ignore(signals.SIGHUP, signals.SIGPIPE, signals.SIGINT)
    signals.handle(signals.SIGTERM, _wake)  # shims are woken by it; we end with our client
    signals.ignore(signals.SIGCHLD)  # shims that end need no one to wait for them

    host = cgroups.detect()
    host.create(SHIMS)
    host.add(SHIMS, 0)
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
        try:  # what is read before the fork is memory that the shim shares
            bundle = birth.read(messages.decode(data))
            pid = os.fork()
        except (OSError, ValueError, KeyError) as error:
            birth.send_report(fds[0], launch.Failure("fork", f"cannot start supervisor: {error}"), 0)
            pid = -1
        if pid:
            os.close(fds[0])
            continue
        try:
            signals.handle(signals.SIGCHLD, _wake)
            os.setsid()
            birth.run(bundle, fds[0], host)
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
