"""Effects: capability sets of this process. capabilities(7), capset(2), prctl(2); names as in
capability.h.
"""

from __future__ import annotations

import ctypes

from runtime.linux import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

#: By number, from 0 (linux/capability.h).
NAMES = tuple(
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
        "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT "
        "SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE "
        "AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ "
        "PERFMON BPF CHECKPOINT_RESTORE"
    ).split()
)
NUMBERS = {name: number for number, name in enumerate(NAMES)}

_PR_SET_KEEPCAPS, _PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT = 8, 23, 24, 47
_PR_CAP_AMBIENT_RAISE, _PR_CAP_AMBIENT_CLEAR_ALL = 2, 4
_VERSION_3 = 0x20080522


def bounding() -> tuple[str, ...]:
    """What this process may at most give to another, by number; also what ALL means here."""
    found = []
    for number, name in enumerate(NAMES):
        try:
            if libc.prctl(_PR_CAPBSET_READ, number, subject=name):
                found.append(name)
        except OSError:  # a kernel that knows fewer
            break
    return tuple(found)


def given(names: Iterable[str]) -> int:
    """The bits of those of these capabilities that this process may give to another."""
    bits = 0
    for name in set(names):
        try:
            bits |= libc.prctl(_PR_CAPBSET_READ, NUMBERS[name], subject=name) << NUMBERS[name]
        except OSError:  # a kernel that does not know it
            pass
    return bits


def mask(names: Iterable[str]) -> int:
    """The bits of these capabilities; names that this release does not know raise KeyError."""
    bits = 0
    for name in names:
        bits |= 1 << NUMBERS[name]
    return bits


def drop_bounding(keep: int) -> None:
    """Drop from the bounding set what is not in `keep`. Needs CAP_SETPCAP."""
    for number, name in enumerate(NAMES):
        if not keep >> number & 1:
            try:
                libc.prctl(_PR_CAPBSET_DROP, number, subject=name)
            except OSError as error:
                if error.errno == 22:  # EINVAL: the kernel knows fewer
                    break
                raise


def keep_over_setuid(keep: bool) -> None:
    """Whether the permitted set survives the step from uid 0 to another."""
    libc.prctl(_PR_SET_KEEPCAPS, int(keep), subject="PR_SET_KEEPCAPS")


def clear_ambient() -> None:
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, subject="PR_CAP_AMBIENT")


def raise_ambient(bits: int) -> None:
    """Each of them is in the permitted and in the inheritable set."""
    for number, name in enumerate(NAMES):
        if bits >> number & 1:
            libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, subject=name)


def set_sets(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2), version 3: the low and the high halves of three masks."""
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    low = 0xFFFFFFFF
    words = [effective & low, permitted & low, inheritable & low]
    words += [effective >> 32, permitted >> 32, inheritable >> 32]
    data = (ctypes.c_uint32 * 6)(*words)
    libc.syscall("capset", ctypes.byref(header), ctypes.byref(data), subject="self")
