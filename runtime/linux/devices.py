"""Effects: which devices a container sees in /dev, and which its cgroup lets it use.

OCI runtime-spec config-linux.md (Default Devices); Documentation/admin-guide/cgroup-v1/devices.rst;
cgroup v2 has no files for it: a program of type BPF_PROG_TYPE_CGROUP_DEVICE, attached by bpf(2), decides.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct

from runtime.linux import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    Rule = tuple[str, int, int, str]  # a | b | c, major, minor (-1: any), access of "rwm"

#: name: (major, minor)
NODES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}
LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
#: Nodes of any device may be made (mknod), the default ones and terminals used.
DEFAULT_RULES: list[Rule] = [
    ("c", -1, -1, "m"),
    ("b", -1, -1, "m"),
    *(("c", major, minor, "rwm") for major, minor in NODES.values()),
    ("c", 5, 1, "rwm"),  # console
    ("c", 5, 2, "rwm"),  # ptmx
    ("c", 136, -1, "rwm"),  # pts
]

_BPF_PROG_LOAD = 5
_BPF_PROG_ATTACH = 8
_BPF_PROG_QUERY = 16
_BPF_PROG_DETACH = 9
_BPF_PROG_GET_FD_BY_ID = 13
_TYPE_CGROUP_DEVICE = 15
_ATTACH_CGROUP_DEVICE = 6
_ALLOW_MULTI = 2


def cgroup_rules(rules: Sequence[Mapping[str, Any]]) -> list[Rule]:
    """OCI rules on top of the default set. A `path` is looked up on the host; of a directory (/dev/snd) every
    device below. FileNotFoundError names a device that is not there."""
    result: list[Rule] = []
    for rule in rules:
        if not rule.get("allow"):
            continue
        access = str(rule.get("access") or "rwm")
        if rule.get("path"):
            result += [(kind, major, minor, access) for _, kind, major, minor in host_devices(rule["path"])]
        elif rule.get("type", "a") == "a":
            return [("a", -1, -1, "rwm")]
        else:
            result.append((rule["type"], int(rule.get("major", -1)), int(rule.get("minor", -1)), access))
    return [*DEFAULT_RULES, *result]


def host_devices(path: str) -> list[tuple[str, str, int, int]]:
    """(path, b | c, major, minor) of a device node, or of each node below a directory."""
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        found = []
        for name in sorted(os.listdir(path)):
            below = os.stat(f"{path}/{name}", follow_symlinks=False).st_mode
            if stat.S_ISDIR(below) or stat.S_ISCHR(below) or stat.S_ISBLK(below):
                found += host_devices(f"{path}/{name}")
        return found
    if stat.S_ISCHR(status.st_mode):
        kind = "c"
    elif stat.S_ISBLK(status.st_mode):
        kind = "b"
    else:
        raise OSError(errno.ENODEV, "find device: not a device node", path)
    return [(path, kind, os.major(status.st_rdev), os.minor(status.st_rdev))]


def populate(directory: int) -> None:
    """The default nodes and links in the container's /dev, given by descriptor. What is there stays."""
    for name, (major, minor) in NODES.items():
        make_node(directory, name, "c", major, minor)
    for name, target in LINKS.items():
        try:
            os.symlink(target, name, dir_fd=directory)
        except FileExistsError:
            pass


def make_node(directory: int, name: str, kind: str, major: int, minor: int, mode: int = 0o666) -> None:
    kinds = stat.S_IFBLK if kind == "b" else stat.S_IFCHR
    try:
        os.mknod(name, kinds | mode, os.makedev(major, minor), dir_fd=directory)
        os.chmod(name, mode, dir_fd=directory)
    except FileExistsError:
        pass


# ---------------------------------------------------------------- cgroup v2


def _instruction(code: int, dst: int = 0, src: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("<BBhi", code, src << 4 | dst, offset, value)


def program(rules: Sequence[Rule]) -> bytes:
    """eBPF: 1 in r0 when a rule covers all that is asked, else 0.

    struct bpf_cgroup_dev_ctx {u32 access_type (access << 16 | type), major, minor}; access mknod 1, read 2,
    write 4; type block 1, char 2.
    """
    load, mov_x, mov_k, and_k, rsh_k, jne, exit_ = 0x61, 0xBC, 0xB4, 0x54, 0x74, 0x55, 0x95
    code = [
        _instruction(load, 2, 1, 0),
        _instruction(and_k, 2, value=0xFFFF),  # r2: type
        _instruction(load, 3, 1, 0),
        _instruction(rsh_k, 3, value=16),  # r3: access
        _instruction(load, 4, 1, 4),  # r4: major
        _instruction(load, 5, 1, 8),  # r5: minor
    ]
    bits = {"m": 1, "r": 2, "w": 4}
    for kind, major, minor, access in rules:
        denied = 7 & ~sum(bits[letter] for letter in set(access))
        body: list[tuple[int, int]] = []  # (register, value it must equal)
        if kind != "a":
            body.append((2, 1 if kind == "b" else 2))
        if major >= 0:
            body.append((4, major))
        if minor >= 0:
            body.append((5, minor))
        checks = len(body) + (3 if denied else 0)
        block = []
        for register, value in body:
            checks -= 1
            block.append(_instruction(jne, register, offset=checks + 2, value=value))
        if denied:
            block.append(_instruction(mov_x, 0, 3))
            block.append(_instruction(and_k, 0, value=denied))
            block.append(_instruction(jne, 0, offset=2, value=0))
        block += [_instruction(mov_k, 0, value=1), _instruction(exit_)]
        code += block
    code += [_instruction(mov_k, 0, value=0), _instruction(exit_)]
    return b"".join(code)


def attach_program(cgroup: int, rules: Sequence[Rule]) -> None:
    """Put the filter on the cgroup (a descriptor of its directory), then take the ones before it off."""
    before = _attached(cgroup)
    code = program(rules)
    text = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"GPL")
    load = struct.pack(
        "<IIQQIIQII16s",
        _TYPE_CGROUP_DEVICE,
        len(code) // 8,
        ctypes.addressof(text),
        ctypes.addressof(licence),
        0,
        0,
        0,
        0,
        0,
        b"stead_devices",
    )
    fd = _bpf(_BPF_PROG_LOAD, load)
    try:
        _bpf(_BPF_PROG_ATTACH, struct.pack("<IIII", cgroup, fd, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI))
    finally:
        os.close(fd)
    for number in before:
        old = _bpf(_BPF_PROG_GET_FD_BY_ID, struct.pack("<III", number, 0, 0))
        try:
            _bpf(_BPF_PROG_DETACH, struct.pack("<IIII", cgroup, old, _ATTACH_CGROUP_DEVICE, 0))
        finally:
            os.close(old)


def _attached(cgroup: int) -> list[int]:
    """Ids of the device programs on this very cgroup."""
    ids = (ctypes.c_uint32 * 64)()
    query = struct.pack("<IIIIQII", cgroup, _ATTACH_CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), len(ids), 0)
    buffer = ctypes.create_string_buffer(query, len(query))
    libc.syscall("bpf", _BPF_PROG_QUERY, buffer, len(query), subject="device programs")
    return list(ids[: struct.unpack_from("<I", buffer, 24)[0]])


def _bpf(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    return libc.syscall("bpf", command, buffer, len(attributes), subject="device filter")
