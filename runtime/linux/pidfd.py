"""Effects: processes held by descriptor, so that a recycled pid is never signalled. pidfd_open(2)."""

from __future__ import annotations

import errno
import os
import select
from _signal import pidfd_send_signal  # type: ignore[import-not-found]  # see runtime.linux.signals

from runtime.linux import signals

P_PIDFD = 3


def open_pidfd(pid: int) -> int:
    """A close-on-exec descriptor of the process. ProcessLookupError when there is none."""
    return os.pidfd_open(pid)


def send_signal(fd: int, sig: int) -> None:
    """ProcessLookupError when it has ended and was reaped."""
    pidfd_send_signal(fd, int(sig))


def wait(fd: int, timeout: float | None = None) -> bool:
    """Wait until the process has ended, reaped or not; False when `timeout` seconds passed before."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if timeout is None else max(0, int(timeout * 1000))))


def reap(fd: int) -> int | None:
    """The exit code of a child of ours that has ended (128 + signal for a killed one), None when it runs."""
    result = os.waitid(P_PIDFD, fd, os.WEXITED | os.WNOHANG)
    if result is None:
        return None
    return result.si_status if result.si_code == os.CLD_EXITED else 128 + result.si_status


def start_time(pid: int) -> int:
    """Clock ticks since boot at which `pid` started (proc_pid_stat(5), field 22); 0 when it is gone.

    Together with the pid this names a process for as long as the machine runs.
    """
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in (b"X", b"x") else 0


def is_alive(pid: int, start: int) -> bool:
    """Whether the process that started at `start` still runs (a zombie does not)."""
    fields = _stat(pid)
    return bool(fields) and fields[0] not in (b"Z", b"X", b"x") and int(fields[19]) == start


def _stat(pid: int) -> list[bytes]:
    """Fields of proc_pid_stat(5) from the state to the start time; empty when it is gone."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return []
    try:
        stat = os.read(fd, 4096)
    except ProcessLookupError:
        return []
    finally:
        os.close(fd)
    return stat[stat.rindex(b")") + 2 :].split(b" ", 20)[:20]


def kill(pid: int, start: int, sig: int = signals.SIGKILL) -> bool:
    """Signal exactly the process that started at `start`; False when it is gone."""
    try:
        fd = open_pidfd(pid)
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.EINVAL):
            return False
        raise
    try:
        if start_time(pid) != start:
            return False
        send_signal(fd, sig)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True
