"""Effects: the filter of system calls: compiled once in the agent with libseccomp, installed in a container's
init.

What is allowed is data (seccomp.json beside this file): names that are always allowed, names by capability,
names by machine, and rules on arguments. clone3 answers ENOSYS, since its flags lie in memory that a filter
cannot read: the C library then falls back to clone (seccomp(2), seccomp_rule_add(3), seccomp_export_bpf(3)).

A C library newer than this machine's libseccomp tries calls that the latter cannot name (Debian 12's ends
with Linux 5.17, musl and glibc use fchmodat2 of 6.6). EPERM would be final. So instructions before those
of libseccomp allow the recent ones of seccomp.json by number, and answer ENOSYS to what is newer still.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from runtime.linux import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_COMPARE = {"NE": 1, "LT": 2, "LE": 3, "EQ": 4, "GE": 5, "GT": 6, "MASKED_EQ": 7}
_ARCHES = {"x86_64": ("x86", "x32"), "aarch64": ("arm",)}
_SECCOMP_SET_MODE_FILTER = 1
#: Calls since libseccomp 2.5.1 (Debian 11), by numbers that are the same on every machine.
_RECENT = {
    "process_madvise": 440,
    "epoll_pwait2": 441,
    "mount_setattr": 442,
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
    "memfd_secret": 447,
    "process_mrelease": 448,
    "futex_waitv": 449,
    "set_mempolicy_home_node": 450,
    "cachestat": 451,
    "fchmodat2": 452,
    "map_shadow_stack": 453,
    "futex_wake": 454,
    "futex_wait": 455,
    "futex_requeue": 456,
    "statmount": 457,
    "listmount": 458,
    "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460,
    "lsm_list_modules": 461,
    "mseal": 462,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
}
#: The last call that was looked at for seccomp.json (file_setattr, Linux 6.17).
_LAST = 469
#: Above are the private calls of ARM and, with a bit of their own, those of x32.
_SPECIAL = 0x0F0000


class _Compare(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


class _Program(ctypes.Structure):
    """struct sock_fprog of seccomp(2)."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def install(program: bytes) -> None:
    """Put the filter on this process for good. Needs no_new_privs or CAP_SYS_ADMIN."""
    buffer = ctypes.create_string_buffer(program, len(program))
    header = _Program(len(program) // 8, ctypes.addressof(buffer))
    libc.syscall("seccomp", _SECCOMP_SET_MODE_FILTER, 0, ctypes.byref(header), subject="filter")


def compile_default(capabilities: Sequence[str]) -> bytes:
    """The BPF program of the default filter for a container with these capabilities.

    OSError ENOSYS when libseccomp is not installed.
    """
    import json

    with open(os.path.join(os.path.dirname(__file__), "seccomp.json"), "rb") as file:
        document = json.load(file)
    held = set(capabilities)
    library = _library()
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(_ERRNO | errno.EPERM))
    try:
        for arch in _ARCHES.get(libc.MACHINE, ()):
            _must(library.seccomp_arch_add(context, library.seccomp_arch_resolve_name(arch.encode())), arch)
        unnamed = set()
        for rule in document["rules"]:
            if _applies(rule, held):
                action = _ALLOW if "errno" not in rule else _ERRNO | int(rule["errno"])
                for name in rule["names"]:
                    known = _add(library, context, action, name, rule.get("arguments") or ())
                    if not known and name in _RECENT and action == _ALLOW:
                        unnamed.add(_RECENT[name])
        return _recent(sorted(unnamed)) + _export(library, context)
    finally:
        library.seccomp_release(context)


def _applies(rule: dict[str, Any], held: set[str]) -> bool:
    return (
        set(rule.get("capabilities") or ()) <= held
        and not set(rule.get("without") or ()) & held
        and libc.MACHINE in rule.get("machines", (libc.MACHINE,))
    )


def _add(library: Any, context: Any, action: int, name: str, arguments: Sequence[dict[str, Any]]) -> bool:
    """False: this libseccomp does not know the name."""
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number == -1:  # __NR_SCMP_ERROR
        return False
    compares = (_Compare * len(arguments))(
        *(
            _Compare(item["index"], _COMPARE[item["op"]], item["value"], item.get("second", 0))
            for item in arguments
        )
    )
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_void_p,
    ]
    _must(library.seccomp_rule_add_array(context, action, number, len(arguments), compares), name)
    return True


def _recent(allowed: Sequence[int]) -> bytes:
    """Instructions before libseccomp's (struct sock_filter; seccomp(2)): these numbers are allowed, those
    above _LAST unknown; with every other one it goes on."""
    load, equal, above, not_below, jump, answer = 0x20, 0x15, 0x25, 0x35, 0x05, 0x06
    rest = len(allowed)
    code = [
        (load, 0, 0, 0),  # seccomp_data.nr
        (not_below, rest + 1, 0, _SPECIAL),
        (above, rest + 1, 0, _LAST),
        *((equal, rest - index + 1, 0, number) for index, number in enumerate(allowed)),
        (jump, 0, 0, 2),
        (answer, 0, 0, _ERRNO | errno.ENOSYS),
        (answer, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _export(library: Any, context: Any) -> bytes:
    fd = os.memfd_create("filter")
    try:
        _must(library.seccomp_export_bpf(context, fd), "export")
        return os.pread(fd, 1 << 20, 0)
    finally:
        os.close(fd)


def _must(result: int, subject: str) -> None:
    """libseccomp answers with a negative errno; a rule that is there already is none."""
    if result < 0 and result != -errno.EEXIST:
        raise libc.fail("libseccomp", subject, -result)


def _library() -> Any:
    try:
        return ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        raise OSError(errno.ENOSYS, "libseccomp is not installed (apt-get install libseccomp2)") from error
