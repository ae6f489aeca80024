"""Values: the names of signals that STOPSIGNAL takes (man signal.7, Linux)."""

from __future__ import annotations

_MOST = 64  # the greatest number

#: Without SIG. Real-time signals count up from RTMIN and down from RTMAX.
NAMES = frozenset(
    (
        "HUP INT QUIT ILL TRAP ABRT IOT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CLD CONT STOP"
        " TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO POLL PWR SYS RTMIN RTMAX"
    ).split()
    + [f"RTMIN+{n}" for n in range(1, 16)]
    + [f"RTMAX-{n}" for n in range(1, 15)]
)


def is_signal(text: str) -> bool:
    """Whether it is a number, `SIGTERM` or `term`."""
    if text.isascii() and text.isdecimal():
        return 1 <= int(text[:4]) <= _MOST
    return text.upper().removeprefix("SIG") in NAMES
