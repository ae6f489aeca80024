"""Effects: the standard descriptors of a process that was started without some of them, or with such that do
not wait."""

from __future__ import annotations

import os
import stat
import sys

#: of a terminal's other end: to open that is to make another terminal
_PTMX = os.makedev(5, 2)


def fill() -> None:
    """Those of 0, 1 and 2 that are closed become /dev/null, as in programs of Go: what is opened later would
    have their numbers, and be read, written to and handed on for them. Repeatable."""
    while (fd := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(fd, True)
    os.close(fd)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False, encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:  # print() would take standard output for it
        sys.stderr = open(2, "w", closefd=False, encoding="utf-8")  # noqa: SIM115


def wait() -> None:
    """Reading and writing of 0, 1 and 2 waits from here on. O_NONBLOCK is of the open file, which others have
    as well (ssh, programs of Node.js): pipes and terminals are opened anew for us, and left to them as they
    are; anything else waits for all who have it. Repeatable."""
    for fd in range(3):
        if not os.get_blocking(fd) and not _opened_anew(fd):
            os.set_blocking(fd, True)


def unreadable() -> str:
    """Why 0 cannot be read, or nothing: who says `0>file`, and nohup, which leaves it so on purpose."""
    import fcntl

    try:
        flags = fcntl.fcntl(0, fcntl.F_GETFL)
    except OSError as error:
        return str(error.strerror).lower()
    if flags & os.O_ACCMODE == os.O_WRONLY or flags & os.O_PATH:
        return "it is not open for reading"
    return ""


def _opened_anew(fd: int) -> bool:
    """False where that cannot be, or would be another thing: a regular file would begin at its beginning."""
    import fcntl  # not for everybody

    found = os.fstat(fd)
    if not stat.S_ISFIFO(found.st_mode) and not (os.isatty(fd) and found.st_rdev != _PTMX):
        return False
    flags = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    flags |= os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC  # without the first, to open a FIFO may wait
    try:
        made = os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:
        return False
    os.set_blocking(made, True)
    os.dup2(made, fd)
    os.close(made)
    return True
