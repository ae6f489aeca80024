"""Effects: starting a program of ours as a lean interpreter: standard library only, nothing of the host's
environment, and no way back to the interpreter's file.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from runtime.linux import mounts

#: Exit code of the dynamic loader: a library beside the interpreter is not found from the sealed one.
NOT_LOADED = 127


def start(program: str, *, sealed: bool) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """`program` with a SEQPACKET socket as its standard input; its other end is returned. OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    interpreter = _sealed_interpreter() if sealed else -1
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-OO", "-X", "no_debug_ranges", program],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            cwd="/",
            env={},
            executable=None if interpreter < 0 else f"/proc/self/fd/{interpreter}",
            pass_fds=() if interpreter < 0 else (interpreter,),
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        if interpreter >= 0:
            os.close(interpreter)
    return process, ours


def end(process: subprocess.Popen[bytes], patience: float) -> None:
    """Returns when it has ended: by itself within so many seconds, or killed."""
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _sealed_interpreter() -> int:
    """This interpreter's file, opened on a read-only mount of nothing else; -1 where there cannot be one.

    A program in a container may run or open /proc/self/exe of a process that is about to become it: on this
    mount it has no way to write to the host's interpreter (CVE-2019-5736).
    """
    try:
        fd = mounts.open_tree(os.path.realpath(sys.executable), recursive=False)
    except OSError:
        return -1
    try:
        mounts.set_attributes(fd, set=mounts.MOUNT_ATTR_RDONLY)
    except OSError:
        os.close(fd)
        return -1
    return fd
