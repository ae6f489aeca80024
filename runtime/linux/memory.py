"""Syscalls: this process's own memory: madvise(2)."""

from __future__ import annotations

import ctypes

from runtime.linux import libc

_MADV_POPULATE_WRITE = 23


def own_all() -> None:
    """Every page that is shared with the process that this one was forked from, until one of them writes, is
    copied now. Nothing on kernels before 5.14."""
    with open("/proc/self/maps", "rb") as file:
        lines = file.read().splitlines()
    for line in lines:
        place, rights = line.split(None, 2)[:2]
        if rights == b"rw-p":
            first, last = (int(number, 16) for number in place.split(b"-"))
            try:
                libc.call(
                    "madvise", ctypes.c_void_p(first), ctypes.c_size_t(last - first), _MADV_POPULATE_WRITE
                )
            except OSError:
                pass
