"""Effects: filters of system calls compiled to BPF with libseccomp; in the agent, never in a shim.

The default filter is data (seccomp.json beside this file): names that are always allowed, names by
capability, names by machine, and rules on arguments. clone3 answers ENOSYS, since its flags lie in memory
that a filter cannot read: the C library then falls back to clone (seccomp(2), seccomp_rule_add(3),
seccomp_export_bpf(3)).
Any other filter is `linux.seccomp` of an OCI configuration (config-linux.md, Seccomp).

A C library newer than this machine's libseccomp tries calls that the latter cannot name (Debian 12's ends
with Linux 5.17, musl and glibc use fchmodat2 of 6.6). EPERM would be final. So instructions before those
of libseccomp answer the recent ones of a filter by number, and say ENOSYS to what is newer still where the
filter refuses what it does not name.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from runtime.linux import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_TRACE = 0x7FF00000
#: Actions of OCI's names (seccomp.h). Two of them take a number.
ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": _ERRNO,
    "SCMP_ACT_TRACE": _TRACE,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": _ALLOW,
}
_NOTIFY = "SCMP_ACT_NOTIFY"
_NUMBERED = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
#: With one of these as default, a call that is too new to be named is unknown (ENOSYS), not forbidden.
_REFUSING = ("SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS")
#: seccomp(2); WAIT_KILLABLE_RECV is of listeners only.
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
}
_COMPARE = {"NE": 1, "LT": 2, "LE": 3, "EQ": 4, "GE": 5, "GT": 6, "MASKED_EQ": 7}
_ARCHES = {"x86_64": ("x86", "x32"), "aarch64": ("arm",)}
_MAX_FILTER = 1 << 20
#: The file with the default filter.
DEFAULT = os.path.join(os.path.dirname(__file__), "seccomp.json")
#: seccomp_attr_set(3): the numbers of calls are looked up in a tree instead of one after the other.
_CTL_OPTIMIZE, _BINARY_TREE = 8, 2
#: Calls since libseccomp 2.5.1 (Debian 11), by numbers that are the same on every machine.
_RECENT = {
    "process_madvise": 440,
    "epoll_pwait2": 441,
    "mount_setattr": 442,
    "quotactl_fd": 443,
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
    "open_tree_attr": 467,
    "file_getattr": 468,
    "file_setattr": 469,
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


def compile_default(capabilities: Sequence[str], *, tree: bool = True) -> bytes:
    """The BPF program of the default filter for a container with these capabilities. Without `tree` the
    numbers of calls are compared one after the other.

    OSError ENOSYS when libseccomp is not installed.
    """
    import json

    document = json.loads(read_default())
    held = set(capabilities)
    with _Filter(_ERRNO | errno.EPERM, tree=tree) as made:
        for arch in _ARCHES.get(libc.MACHINE, ()):
            made.arch(arch)
        for rule in document["rules"]:
            if _applies(rule, held):
                action = _ALLOW if "errno" not in rule else _ERRNO | int(rule["errno"])
                for name in rule["names"]:
                    made.add(action, name, [_default_compare(item) for item in rule.get("arguments") or ()])
        return made.program(unknown=True)


def read_default() -> bytes:
    """The default filter as data."""
    with open(DEFAULT, "rb") as file:
        return file.read()


def compile_oci(document: Mapping[str, Any], *, tree: bool = True) -> tuple[bytes, int]:
    """The BPF program of an OCI `linux.seccomp`, and the SECCOMP_FILTER_FLAG_* to install it with. `tree` as
    above.

    Names that no system call of this machine has are left out, as runc does: a profile is written for many
    kernels. ValueError for what is no profile and for a listener, which nobody here would be; OSError ENOSYS
    when libseccomp is not installed.
    """
    if document.get("listenerPath"):
        raise ValueError("listenerPath: nobody would serve the listener")
    flags = 0
    for word in document.get("flags") or ():
        if word not in FLAGS:
            raise ValueError(f"flag {word!r} is not known")
        flags |= FLAGS[word]
    name = str(document.get("defaultAction") or "")
    with _Filter(_action(name, document.get("defaultErrnoRet")), tree=tree) as made:
        for arch in document.get("architectures") or ():
            made.arch(str(arch).removeprefix("SCMP_ARCH_").lower())
        for rule in document.get("syscalls") or ():
            action = _action(str(rule.get("action") or ""), rule.get("errnoRet"))
            compares = [_oci_compare(item) for item in rule.get("args") or ()]
            for call in rule.get("names") or ():
                for together in _alternatives(compares):
                    made.add(action, str(call), together)
        return made.program(unknown=name in _REFUSING), flags


def _alternatives(compares: list[_Compare]) -> list[list[_Compare]]:
    """Conditions on different arguments hold together; several on one argument are alternatives, each of them
    (libseccomp takes one condition an argument; runc has it so)."""
    if len({item.arg for item in compares}) == len(compares):
        return [compares]
    return [[item] for item in compares]


def _action(name: str, number: Any) -> int:
    if name == _NOTIFY:
        raise ValueError(f"{_NOTIFY}: nobody would answer the calls")
    if name not in ACTIONS:
        raise ValueError(f"unknown action {name!r}")
    if name not in _NUMBERED:
        return ACTIONS[name]
    value = errno.EPERM if number is None else int(number)
    if not 0 <= value <= 0xFFFF:
        raise ValueError(f"errnoRet {value} is out of range")
    return ACTIONS[name] | value


def _oci_compare(item: Mapping[str, Any]) -> _Compare:
    index, operator = int(item["index"]), str(item["op"]).removeprefix("SCMP_CMP_")
    if operator not in _COMPARE or not 0 <= index <= 5:
        raise ValueError(f"unknown comparison {item['op']!r} of argument {index}")
    first, second = int(item.get("value") or 0), int(item.get("valueTwo") or 0)
    return _Compare(index, _COMPARE[operator], first, second)


def _default_compare(item: Mapping[str, Any]) -> _Compare:
    return _Compare(item["index"], _COMPARE[item["op"]], item["value"], item.get("second", 0))


def _applies(rule: Mapping[str, Any], held: set[str]) -> bool:
    return (
        set(rule.get("capabilities") or ()) <= held
        and not set(rule.get("without") or ()) & held
        and libc.MACHINE in rule.get("machines", (libc.MACHINE,))
    )


class _Filter:
    """A filter under construction. `default` is the action for what no rule names."""

    def __init__(self, default: int, *, tree: bool) -> None:
        self._library = _load_library()
        self._default = default
        self._unnamed: dict[int, int] = {}  # number -> action
        self._context = ctypes.c_void_p(self._library.seccomp_init(default))
        if tree:
            # Not known before libseccomp 2.5, and no more than faster: the kernel tries each number of a call
            # at the start (seccomp_cache_prepare in kernel/seccomp.c).
            self._library.seccomp_attr_set(self._context, _CTL_OPTIMIZE, _BINARY_TREE)

    def __enter__(self) -> _Filter:
        return self

    def __exit__(self, *_: object) -> None:
        self._library.seccomp_release(self._context)

    def arch(self, name: str) -> None:
        """Filter the calls of this architecture, too. ValueError for one that libseccomp does not know."""
        token = self._library.seccomp_arch_resolve_name(name.encode())
        if not token:
            raise ValueError(f"unknown architecture {name!r}")
        self._must(self._library.seccomp_arch_add(self._context, ctypes.c_uint32(token)), name)

    def add(self, action: int, name: str, compares: Sequence[_Compare]) -> None:
        """Nothing where the name is unknown, or where the rule says what is the default anyway."""
        if action == self._default:
            return
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        if number == -1:  # __NR_SCMP_ERROR
            if name in _RECENT and not compares:
                self._unnamed.setdefault(_RECENT[name], action)
            return
        array = (_Compare * len(compares))(*compares)
        add = self._library.seccomp_rule_add_array
        self._must(add(self._context, action, number, len(compares), array), name)

    def program(self, *, unknown: bool) -> bytes:
        """`unknown`: calls that are newer than all that is known here are answered by ENOSYS."""
        fd = os.memfd_create("filter")
        try:
            self._must(self._library.seccomp_export_bpf(self._context, fd), "export")
            body = os.pread(fd, _MAX_FILTER, 0)
        finally:
            os.close(fd)
        return _prefix(sorted(self._unnamed.items()), unknown=unknown) + body

    def _must(self, result: int, subject: str) -> None:
        """libseccomp answers with a negative errno; a rule that is there already is none."""
        if result < 0 and result != -errno.EEXIST:
            raise libc.fail("libseccomp", subject, -result)


def _prefix(answers: Sequence[tuple[int, int]], *, unknown: bool) -> bytes:
    """Instructions before libseccomp's (struct sock_filter; seccomp(2)): these numbers are answered so, those
    above _LAST are unknown; with every other one it goes on."""
    if not answers and not unknown:
        return b""
    load, equal, above, not_below, answer = 0x20, 0x15, 0x25, 0x35, 0x06
    rest = 2 * len(answers)
    head: list[tuple[int, int, int, int]] = [(load, 0, 0, 0)]  # seccomp_data.nr
    if unknown:
        head += [
            (not_below, rest + 2, 0, _SPECIAL),
            (above, 0, 1, _LAST),
            (answer, 0, 0, _ERRNO | errno.ENOSYS),
        ]
    pairs = (pair for number, action in answers for pair in ((equal, 0, 1, number), (answer, 0, 0, action)))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in [*head, *pairs])


def _load_library() -> Any:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        raise OSError(errno.ENOSYS, "libseccomp is not installed (apt-get install libseccomp2)") from error
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_void_p,
    ]
    return library
