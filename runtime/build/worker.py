"""Effects: the process that runs RUN steps. Started as `python -I -S -OO worker.py`, standard library only.

It is single-threaded, so that it can fork (the build is not). Requests come on the SEQPACKET socket that is
its standard input, one packet a step: {"job": FILE} with two descriptors, a pipe for the program's output
and a pipe on which that step's runner answers: {"started": pid}, then {"exit": code} or {"failed": text,
"exit": code}. The runner has a mount namespace of its own, in which the step's overlay is mounted: with the
last process of the step its mounts are gone, whoever was killed. When the build dies, the far end of the
answers is closed, and the runner ends the step; when the runner dies, the build does."""

from __future__ import annotations

import array
import ctypes  # noqa: F401  imported here, once for all runners
import dataclasses  # noqa: F401
import gc
import json
import os
import select
import socket
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_PACKET = 65536
MAX_JOB = 16 << 20
_INT = array.array("i").itemsize


def main() -> int:
    """Serve until the build is gone; runners that are under way see that themselves."""
    control = socket.socket(fileno=0)
    os.closerange(3, 1024)
    os.chdir("/")
    os.umask(0o022)
    from runtime.build import runner
    from runtime.linux import cgroups, signals

    signals.ignore(signals.SIGHUP, signals.SIGPIPE, signals.SIGINT)
    signals.ignore(signals.SIGCHLD)  # runners that end need no one to wait for them
    host = cgroups.detect()
    gc.collect()
    gc.disable()
    gc.freeze()
    while True:
        data, ancillary, _, _ = control.recvmsg(
            MAX_PACKET, socket.CMSG_SPACE(2 * _INT), socket.MSG_CMSG_CLOEXEC
        )
        if not data:
            return 0
        fds = array.array("i")
        for _level, kind, content in ancillary:
            if kind == socket.SCM_RIGHTS:
                fds.frombytes(content[: len(content) - len(content) % _INT])
        if len(fds) != 2:
            continue
        if os.fork() == 0:
            try:
                control.close()
                signals.default(signals.SIGCHLD)
                runner.run(_job(data), fds[0], fds[1], host)
            finally:
                os._exit(1)
        for fd in fds:
            os.close(fd)


def _job(data: bytes) -> dict[str, Any]:
    fd = os.open(json.loads(data)["job"], os.O_RDONLY | os.O_CLOEXEC)
    try:
        job: dict[str, Any] = json.loads(os.read(fd, min(os.fstat(fd).st_size, MAX_JOB)))
        return job
    finally:
        os.close(fd)


if __name__ == "__main__":
    # -I leaves out the directory that our packages are in
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    select.poll()  # what the first runner would do first
    sys.exit(main())
