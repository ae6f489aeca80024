"""Effects: the C library and raw system calls. Prototypes are set once, here; every failure is an OSError
that names the call and the object.

Imported by the zygote, so it costs: nothing but os and ctypes. Numbers of calls made before Linux 5.1 differ
between machines, later ones (>= 424) are the same everywhere (arch/*/entry/syscalls/syscall*.tbl).
"""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
AT_SYMLINK_NOFOLLOW = 0x100

_X86_64 = {
    "pivot_root": 155,
    "mount": 165,
    "umount2": 166,
    "capget": 125,
    "capset": 126,
    "add_key": 248,
    "keyctl": 250,
    "statx": 332,
    "seccomp": 317,
    "bpf": 321,
    "prlimit64": 302,
    "setresuid": 117,
    "setresgid": 119,
    "setgroups": 116,
    "setfsuid": 122,
    "setfsgid": 123,
    "personality": 135,
    "ioprio_set": 251,
    "sched_setattr": 314,
}
_AARCH64 = {
    "pivot_root": 41,
    "mount": 40,
    "umount2": 39,
    "capget": 90,
    "capset": 91,
    "add_key": 217,
    "keyctl": 219,
    "statx": 291,
    "seccomp": 277,
    "bpf": 280,
    "prlimit64": 261,
    "setresuid": 147,
    "setresgid": 149,
    "setgroups": 159,
    "setfsuid": 151,
    "setfsgid": 152,
    "personality": 92,
    "ioprio_set": 30,
    "sched_setattr": 274,
}
_EVERYWHERE = {
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "mount_setattr": 442,
    "quotactl_fd": 443,
}

MACHINE = os.uname().machine
_NUMBERS = {**(_AARCH64 if MACHINE == "aarch64" else _X86_64), **_EVERYWHERE}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mount.argtypes = [
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.setns.argtypes = [ctypes.c_int, ctypes.c_int]
_libc.unshare.argtypes = [ctypes.c_int]
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_libc.sethostname.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
_libc.setdomainname.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
_libc.sched_getcpu.argtypes = []


def fail(call: str, subject: str, number: int | None = None) -> OSError:
    """The OSError of a call that just failed: `call: text` and the object as its file name."""
    code = ctypes.get_errno() if number is None else number
    return OSError(code, f"{call}: {os.strerror(code)}", subject or None)


def number(name: str) -> int:
    """The number of a system call on this machine."""
    return _NUMBERS[name]


def call(name: str, *args: Any, subject: str = "") -> int:
    """A function of the C library that returns -1 on failure. Retries EINTR."""
    function = getattr(_libc, name)
    while True:
        result = int(function(*args))
        if result != -1:
            return result
        if ctypes.get_errno() != 4:
            raise fail(name, subject)


def syscall(name: str, *args: Any, subject: str = "") -> int:
    """A raw system call: ints become longs, bytes pointers; ctypes buffers and byref() pass as they are."""
    words: list[Any] = [ctypes.c_long(_NUMBERS[name])]
    for argument in args:
        words.append(ctypes.c_long(argument) if isinstance(argument, int) else argument)
    while True:
        result = int(_libc.syscall(*words))
        if result != -1:
            return result
        if ctypes.get_errno() != 4:
            raise fail(name, subject)


def prctl(option: int, second: int = 0, third: int = 0, *, subject: str = "") -> int:
    """prctl(2); the arguments after the third are 0, as newer options demand."""
    return call("prctl", option, second, third, 0, 0, subject=subject or f"option {option}")


def close_on_exec(first: int) -> None:
    """Mark every descriptor from `first` on close-on-exec: close_range(2), CLOSE_RANGE_CLOEXEC = 4."""
    syscall("close_range", first, 0xFFFFFFFF, 4)


def close_range(first: int, last: int = 0xFFFFFFFF) -> None:
    """Close the descriptors from `first` to `last`, of which some may not be open: close_range(2)."""
    if first <= last:
        syscall("close_range", first, last, 0)


def path_bytes(path: str | bytes | os.PathLike[str]) -> bytes:
    return os.fsencode(path)
