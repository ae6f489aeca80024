"""Effects: eBPF programs and maps by bpf(2): loaded, attached to a cgroup of v2, and found again.

linux/bpf.h (union bpf_attr) and Documentation/bpf/standardization/instruction-set.rst. A program lives while
it is attached or somebody has a descriptor of it, a map while a program uses it, too. Every failure is an
OSError. For machines of the little-endian kind only.
"""

from __future__ import annotations

import ctypes
import struct

from runtime.linux import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SCHED_CLS_PROGRAM, CGROUP_DEVICE_PROGRAM, SOCK_ADDR_PROGRAM = 3, 15, 18
#: Where programs are attached to.
DEVICE, CONNECT4, CONNECT6, GETPEERNAME4, GETPEERNAME6 = 6, 10, 11, 29, 30
#: The next attachment takes this one's place.
ALLOW_OVERRIDE = 1
HASH, LRU_HASH = 1, 9
_NO_PREALLOC = 1
_NAME = 15  # characters

_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _MAP_NEXT = 0, 1, 2, 3, 4
_PROG_LOAD, _PROG_ATTACH = 5, 8
_PROG_BY_ID, _MAP_BY_ID, _INFO, _PROG_QUERY, _LINK_CREATE = 13, 14, 15, 16, 28
_MOST = 64  # programs of one kind at one cgroup (BPF_CGROUP_MAX_PROGS)


def _bpf(command: int, attributes: bytes, subject: str) -> int:
    return libc.syscall("bpf", command, attributes, len(attributes), subject=subject)


# ---------------------------------------------------------------- instructions


def instruction(code: int, to: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("=BBhi", code, to | source << 4, offset, value)


def wide(to: int, value: int, *, is_map: bool = False) -> bytes:
    """A register is set to a number of 64 bits, or to the map behind a descriptor: two instructions."""
    low, high = struct.unpack("=ii", struct.pack("=Q", value))
    return instruction(0x18, to, 1 if is_map else 0, 0, low) + instruction(0, 0, 0, 0, high)


def assemble(parts: Iterable[bytes | str | tuple[str, bytes]]) -> bytes:
    """Instructions; a word is a label, and (label, jump) a jump to one."""
    parts, labels, at = tuple(parts), {}, 0
    for part in parts:
        if isinstance(part, str):
            labels[part] = at
        else:
            at += len(part[1] if isinstance(part, tuple) else part) // 8
    code = b""
    for part in parts:
        if isinstance(part, tuple):
            label, jump = part
            offset = labels[label] - len(code) // 8 - 1
            code += jump[:2] + struct.pack("=h", offset) + jump[4:]
        elif isinstance(part, bytes):
            code += part
    return code


# ---------------------------------------------------------------- programs


def load(kind: int, code: bytes, name: str, expected: int = 0) -> int:
    """The descriptor of a program that the kernel found harmless; `expected` is where it is to be attached,
    for kinds that must say so."""
    instructions = ctypes.create_string_buffer(code, len(code))
    license = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "=IIQQIIQII16sII",
        kind,
        len(code) // 8,
        ctypes.addressof(instructions),
        ctypes.addressof(license),
        0,  # no log
        0,
        0,
        0,
        0,
        name.encode()[:_NAME],
        0,
        expected,
    )
    return _bpf(_PROG_LOAD, attributes, f"program {name}")


def attach(cgroup: int, program: int, place: int, flags: int) -> None:
    """To the cgroup behind a descriptor of its directory: it is asked for every process below, too."""
    _bpf(_PROG_ATTACH, struct.pack("=IIII", cgroup, program, place, flags), "program")


def link(cgroup: int, program: int, place: int) -> int:
    """As one more program; it is detached when the last descriptor of the link, which this is, is closed."""
    return _bpf(_LINK_CREATE, struct.pack("=IIII", program, cgroup, place, 0), "program")


def is_attached(link: int) -> bool:
    """Whether nobody detached it from its cgroup meanwhile."""
    return any(_info(link, 32)[16:24])


def attached(cgroup: int, place: int) -> list[int]:
    """The ids of the programs that are attached to this very cgroup."""
    ids = (ctypes.c_uint32 * _MOST)()
    query = ctypes.create_string_buffer(
        struct.pack("=IIIIQII", cgroup, place, 0, 0, ctypes.addressof(ids), _MOST, 0), 32
    )
    libc.syscall("bpf", _PROG_QUERY, query, len(query), subject="programs of a cgroup")
    return list(ids[: struct.unpack_from("=I", query, 24)[0]])


def program_by_id(id: int) -> int:
    return _bpf(_PROG_BY_ID, struct.pack("=III", id, 0, 0), f"program {id}")


def program_info(program: int) -> tuple[str, list[int]]:
    """(name, ids of the maps that it uses)"""
    ids = (ctypes.c_uint32 * 8)()
    asked = struct.pack("=52xIQ", len(ids), ctypes.addressof(ids))
    info = _info(program, 80, asked)
    (count,) = struct.unpack_from("=I", info, 52)
    return info[64:80].split(b"\0")[0].decode("ascii", "replace"), list(ids[: min(count, len(ids))])


def _info(descriptor: int, size: int, asked: bytes = b"") -> bytes:
    """struct bpf_prog_info, bpf_link_info: so many bytes of it."""
    info = ctypes.create_string_buffer(asked, size)
    attributes = struct.pack("=IIQ", descriptor, size, ctypes.addressof(info))
    _bpf(_INFO, attributes, "descriptor")
    return info.raw


# ---------------------------------------------------------------- maps


def create_map(kind: int, key: int, value: int, entries: int, name: str) -> int:
    """Sizes of a key and a value in bytes. The descriptor."""
    flags = _NO_PREALLOC if kind == HASH else 0
    attributes = struct.pack("=IIIIIII16s", kind, key, value, entries, flags, 0, 0, name.encode()[:_NAME])
    return _bpf(_MAP_CREATE, attributes, f"map {name}")


def map_by_id(id: int) -> int:
    return _bpf(_MAP_BY_ID, struct.pack("=III", id, 0, 0), f"map {id}")


def put(held: int, entries: Mapping[bytes, bytes]) -> None:
    for key, value in entries.items():
        key_at, value_at = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value)
        attributes = struct.pack("=IIQQQ", held, 0, ctypes.addressof(key_at), ctypes.addressof(value_at), 0)
        _bpf(_MAP_UPDATE, attributes, "map")


def remove(held: int, keys: Iterable[bytes]) -> None:
    """Repeatable."""
    for key in keys:
        at = ctypes.create_string_buffer(key, len(key))
        try:
            _bpf(_MAP_DELETE, struct.pack("=IIQQQ", held, 0, ctypes.addressof(at), 0, 0), "map")
        except FileNotFoundError:
            pass


def get(held: int, key: bytes, size: int) -> bytes:
    """The value of a key, so many bytes of it; empty where there is none."""
    at, content = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(size)
    attributes = struct.pack("=IIQQQ", held, 0, ctypes.addressof(at), ctypes.addressof(content), 0)
    try:
        _bpf(_MAP_LOOKUP, attributes, "map")
    except FileNotFoundError:
        return b""
    return content.raw


def keys(held: int, size: int) -> list[bytes]:
    """Of a size in bytes. Who changes the map meanwhile may hide some."""
    found: dict[bytes, None] = {}
    this, following = ctypes.create_string_buffer(size), ctypes.create_string_buffer(size)
    at = 0
    while True:
        try:
            _bpf(_MAP_NEXT, struct.pack("=IIQQQ", held, 0, at, ctypes.addressof(following), 0), "map")
        except FileNotFoundError:
            return list(found)
        if following.raw in found:  # it began anew, as an entry went away
            return list(found)
        found[following.raw] = None
        ctypes.memmove(this, following, size)
        at = ctypes.addressof(this)
