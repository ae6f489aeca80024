"""Effects: capability sets of this thread. capabilities(7), capset(2), prctl(2)."""

from __future__ import annotations

import ctypes
import errno

from runtime.linux import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

NAMES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
    "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT "
    "SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE "
    "AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ "
    "PERFMON BPF CHECKPOINT_RESTORE"
).split()
NUMBERS = {f"CAP_{name}": number for number, name in enumerate(NAMES)}

_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_AMBIENT_RAISE = 2
_AMBIENT_CLEAR = 4
_VERSION_3 = 0x20080522


def bounding() -> tuple[str, ...]:
    """What this process, and so any container, may have at most, in the kernel's order."""
    return tuple(name for name, number in NUMBERS.items() if _in_bounding(number))


def _in_bounding(number: int) -> bool:
    try:
        return libc.prctl(_PR_CAPBSET_READ, number) == 1
    except OSError as error:
        if error.errno == errno.EINVAL:  # not known to this kernel
            return False
        raise


def mask(names: Iterable[str]) -> int:
    """The bits of `names`; ValueError for a name that is none."""
    result = 0
    for name in names:
        if name not in NUMBERS:
            raise ValueError(f"unknown capability {name}")
        result |= 1 << NUMBERS[name]
    return result


def limit_bounding(names: Iterable[str]) -> None:
    """Drop all others from the bounding set; what was not in it is not gained. Needs CAP_SETPCAP."""
    keep = mask(names)
    for number in range(64):
        if keep >> number & 1:
            continue
        try:
            libc.prctl(_PR_CAPBSET_DROP, number, subject=f"capability {number}")
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return  # past the kernel's last one


def keep_over_setuid() -> None:
    libc.prctl(_PR_SET_KEEPCAPS, 1)


def set_all(effective: int, permitted: int, inheritable: int, ambient: int) -> None:
    """Bit masks; what this process may not have is left out: permitted is cut to what it holds."""
    held = _permitted()
    permitted &= held
    data = (ctypes.c_uint32 * 6)()
    for half in (0, 1):
        shift = 32 * half
        for index, bits in enumerate((effective & permitted, permitted, inheritable & held)):
            data[3 * half + index] = bits >> shift & 0xFFFFFFFF
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    libc.syscall("capset", header, data)
    libc.call("prctl", _PR_CAP_AMBIENT, _AMBIENT_CLEAR, 0, 0, 0, subject="clear ambient")
    for number in range(64):
        if ambient & permitted & inheritable & held & 1 << number:
            libc.call("prctl", _PR_CAP_AMBIENT, _AMBIENT_RAISE, number, 0, 0, subject=f"ambient {number}")


def _permitted() -> int:
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    libc.syscall("capget", header, data)
    return int(data[1]) | int(data[4]) << 32


def holds(name: str) -> bool:
    """Whether this thread has `name` in its permitted set."""
    return bool(_permitted() >> NUMBERS[name] & 1)
