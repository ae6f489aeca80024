"""Effects: the filter of system calls of this process: seccomp(2).

What filters say, and how they are compiled: runtime.linux.seccomp_compile, in the agent only.
"""

from __future__ import annotations

import ctypes

from runtime.linux import libc

_SECCOMP_SET_MODE_FILTER = 1


class _Program(ctypes.Structure):
    """struct sock_fprog of seccomp(2)."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def install(program: bytes, flags: int = 0) -> None:
    """Put the filter on this process for good. Needs no_new_privs or CAP_SYS_ADMIN. `flags`:
    SECCOMP_FILTER_FLAG_*."""
    buffer = ctypes.create_string_buffer(program, len(program))
    header = _Program(len(program) // 8, ctypes.addressof(buffer))
    libc.syscall("seccomp", _SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(header), subject="filter")
