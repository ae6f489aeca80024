"""Effects: system call filters. The agent compiles them with libseccomp, a container's init only installs the
bytes. seccomp(2), seccomp_rule_add(3), seccomp_export_bpf(3).
"""

from __future__ import annotations

import ctypes
import errno
import os

from runtime.linux import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_EPERM = 1
_ENOSYS = 38
_NE, _LT, _EQ, _GT, _MASKED_EQ = 1, 2, 4, 6, 7
_NATIVE = 0
_X86, _X32, _ARM = 0x40000003, 0x4000003E, 0x40000028
_CLONE_NAMESPACES = 0x7E020000  # NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_AF_ALG, _AF_VSOCK = 38, 40
_PERSONALITIES = (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)

_SET_MODE_FILTER = 1
_PR_SET_NO_NEW_PRIVS = 38


class _Argument(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def compile_default(capabilities: Sequence[str]) -> bytes:
    """The default filter for a container with `capabilities` ("CAP_..."): a list of allowed calls, all others
    answer EPERM, clone3 without CAP_SYS_ADMIN ENOSYS, so that the C library falls back to clone, whose flags
    can be checked. OSError when libseccomp is missing or refuses."""
    from runtime.linux import seccomp_calls

    library = _load()
    context = library.seccomp_init(_ERRNO | _EPERM)
    if not context:
        raise OSError(errno.ENOMEM, "seccomp_init")
    try:
        for arch in {"x86_64": (_X86, _X32), "aarch64": (_ARM,)}.get(libc.MACHINE, ()):
            result = library.seccomp_arch_add(context, arch)
            if result not in (0, -errno.EEXIST):
                raise OSError(-result, "seccomp_arch_add", hex(arch))
        held = set(capabilities)
        names = set(seccomp_calls.ALWAYS) | set(seccomp_calls.BY_MACHINE.get(libc.MACHINE, ()))
        for capability, more in seccomp_calls.BY_CAPABILITY.items():
            if capability in held:
                names.update(more)
        for name in sorted(names):
            _rule(library, context, _ALLOW, name)
        _conditional(library, context, held)
        return _export(library, context)
    finally:
        library.seccomp_release(context)


def _conditional(library: ctypes.CDLL, context: int, held: set[str]) -> None:
    """What is allowed with some arguments only: no AF_ALG and AF_VSOCK sockets, no odd personalities, no new
    namespaces."""
    _rule(library, context, _ALLOW, "socket", _Argument(0, _LT, _AF_ALG, 0))
    _rule(library, context, _ALLOW, "socket", _Argument(0, _EQ, _AF_ALG + 1, 0))
    _rule(library, context, _ALLOW, "socket", _Argument(0, _GT, _AF_VSOCK, 0))
    for value in _PERSONALITIES:
        _rule(library, context, _ALLOW, "personality", _Argument(0, _EQ, value, 0))
    if "CAP_SYS_ADMIN" not in held:
        _rule(library, context, _ALLOW, "clone", _Argument(0, _MASKED_EQ, _CLONE_NAMESPACES, 0))
        _rule(library, context, _ERRNO | _ENOSYS, "clone3")


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        raise OSError(errno.ENOENT, "load libseccomp: install libseccomp2", "libseccomp.so.2") from error
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_release.restype = None
    library.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Argument),
    ]
    return library


def _rule(library: ctypes.CDLL, context: int, action: int, name: str, *arguments: _Argument) -> None:
    """A call that this libseccomp does not know is left out: then it is refused, which is safe."""
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number == -1:
        return
    array = (_Argument * len(arguments))(*arguments) if arguments else None
    result = library.seccomp_rule_add_array(context, action, number, len(arguments), array)
    if result != 0:
        raise OSError(-result, "seccomp_rule_add", name)


def _export(library: ctypes.CDLL, context: int) -> bytes:
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    with os.fdopen(fd, "r+b") as file:
        result = library.seccomp_export_bpf(context, file.fileno())
        if result != 0:
            raise OSError(-result, "seccomp_export_bpf")
        file.seek(0)
        return file.read()


def no_new_privileges() -> None:
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, subject="no_new_privs")


def install(bpf: bytes) -> None:
    """Filter this thread and all it starts. Needs no_new_privs or CAP_SYS_ADMIN."""
    if not bpf or len(bpf) % 8:
        raise OSError(errno.EINVAL, "install seccomp filter: not a program")
    buffer = ctypes.create_string_buffer(bpf, len(bpf))
    program = _Program(len(bpf) // 8, ctypes.addressof(buffer))
    libc.syscall("seccomp", _SET_MODE_FILTER, 0, ctypes.byref(program), subject="filter")
