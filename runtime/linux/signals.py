"""Effects: signals by number. The module `signal` turns every number into an enum member, which makes each
shim copy memory that it would share with the others; what is below it does the same without them.

signal(2), signal(7). The numbers are those of Linux on every machine but alpha, mips, parisc and sparc.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed has no stub of it

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SIGHUP, SIGINT, SIGKILL, SIGPIPE, SIGTERM, SIGCHLD, SIGSTOP = 1, 2, 9, 13, 15, 17, 19


def handle(number: int, call: Callable[[int, object], None]) -> None:
    """`call` runs in this process between two steps of the interpreter."""
    _signal.signal(number, call)


def ignore(*numbers: int) -> None:
    for number in numbers:
        _signal.signal(number, _signal.SIG_IGN)


def default(*numbers: int) -> None:
    for number in numbers:
        _signal.signal(number, _signal.SIG_DFL)


def default_all() -> None:
    """Every signal acts as after boot, and none is blocked: both outlive execve(2) otherwise."""
    for number in _signal.valid_signals():
        if _signal.getsignal(number) is _signal.SIG_DFL:
            continue
        try:
            _signal.signal(number, _signal.SIG_DFL)
        except (OSError, ValueError):  # SIGKILL, SIGSTOP, those of the C library
            pass
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def wake(fd: int) -> None:
    """Write the number of each handled signal to `fd` as a byte; -1: to none."""
    _signal.set_wakeup_fd(fd)


def is_seen(pid: int, number: int) -> bool:
    """Whether a process catches the signal, or blocks it to take it by sigwait(3) or signalfd(2): to the
    first process of a pid namespace nothing else comes but SIGKILL and SIGSTOP. True when the process cannot
    be looked at. pid_namespaces(7), proc_pid_status(5)."""
    if number in (SIGKILL, SIGSTOP):
        return True
    try:
        with open(f"/proc/{pid}/status", "rb", buffering=0) as file:
            status = file.read()
        masks = [
            int(line.split()[1], 16) for line in status.split(b"\n") if line[:7] in (b"SigBlk:", b"SigCgt:")
        ]
    except (OSError, ValueError, IndexError):
        return True
    return len(masks) != 2 or bool((masks[0] | masks[1]) >> (number - 1) & 1)


def number_of(name: str | int, default: int = SIGTERM) -> int:
    """ "SIGTERM", "term", "15", "SIGRTMIN+3", "SIGRTMAX-2". ValueError when there is no such signal."""
    text = str(name or "").upper()
    if not text:
        return int(default)
    if text.isdigit():
        number = int(text)
    else:
        base, sign, offset = text.removeprefix("SIG").partition("-" if "-" in text else "+")
        found = getattr(_signal, f"SIG{base}", None)
        if found is None or base.startswith("_"):
            raise ValueError(f"cannot send signal {name}: unknown")
        number = int(found) + int(f"{sign}{offset}" or 0)
    if not 1 <= number <= 64:
        raise ValueError(f"cannot send signal {name}: unknown")
    return number
