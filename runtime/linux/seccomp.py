"""Effects: the filter of system calls: compiled once in the agent with libseccomp, installed in a
container's init.

What is allowed is data (seccomp.json beside this file): names that are always allowed, names by capability,
names
by machine, and rules on arguments. clone3 answers ENOSYS, since its flags lie in memory that a filter
cannot read:
the C library then falls back to clone (seccomp(2), seccomp_rule_add(3), seccomp_export_bpf(3)).
"""

from __future__ import annotations

import ctypes
import errno
import os

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
        for rule in document["rules"]:
            if _applies(rule, held):
                action = _ALLOW if "errno" not in rule else _ERRNO | int(rule["errno"])
                for name in rule["names"]:
                    _add(library, context, action, name, rule.get("arguments") or ())
        return _export(library, context)
    finally:
        library.seccomp_release(context)


def _applies(rule: dict[str, Any], held: set[str]) -> bool:
    return (
        set(rule.get("capabilities") or ()) <= held
        and not set(rule.get("without") or ()) & held
        and libc.MACHINE in rule.get("machines", (libc.MACHINE,))
    )


def _add(library: Any, context: Any, action: int, name: str, arguments: Sequence[dict[str, Any]]) -> None:
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number == -1:  # __NR_SCMP_ERROR: this libseccomp does not know it
        return
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
