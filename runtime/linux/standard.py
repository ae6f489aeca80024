"""Effects: the standard descriptors of a process that was started without some of them."""

from __future__ import annotations

import os
import sys


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
