"""Values: the names of signals that STOPSIGNAL takes (man signal.7, Linux)."""

from __future__ import annotations

from signal import Signals

_RTMIN, _RTMAX = 34, 64
_MOST = 64

#: Without SIG. Real-time signals count up from RTMIN and down from RTMAX.
NAMES = frozenset(
    [signal.name.removeprefix("SIG") for signal in Signals]
    + [f"RTMIN+{n}" for n in range(1, 16)]
    + [f"RTMAX-{n}" for n in range(1, 15)]
)


def is_signal(text: str) -> bool:
    """Whether it is a number, `SIGTERM` or `term`."""
    if text.isascii() and text.isdecimal():
        return 1 <= int(text[:4]) <= _MOST
    return text.upper().removeprefix("SIG") in NAMES
