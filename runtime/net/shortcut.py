"""Effects: connections of the host's own programs to a published port by 127.0.0.1 or [::1] are made to the
container at once.

Where only nftables leads them there, the kernel translates each packet of such a connection, in both
directions, and looks for its way a second time. An eBPF program at connect(2) (BPF_CGROUP_INET4_CONNECT,
bpf(2); struct bpf_sock_addr in linux/bpf.h) exchanges the address once instead, and nothing is translated
afterwards. getpeername(2) still says what the program connected to. It is a shortcut and no more: nftables
leads to the same place, for kernels without it, for UDP, for every other address, and for a port with several
backends. An entry is there only while nftables has the port, and leads where nftables does.

The programs are attached to the root of cgroup v2 and act in the network namespace only in which they were
made: a container with one of its own is none of their business. They are held by links, which go with the
agent, so nothing is ever left of them, and nothing leads astray while nobody looks.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import struct
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress

from runtime.linux import bpf, cgroups
from runtime.linux.bpf import instruction as op
from runtime.linux.bpf import wide

#: (address of the host's loopback, port) -> (address and port of the container)
Entries = Mapping[tuple[str, int], tuple[str, int]]

_SO_NETNS_COOKIE = 71
_PORTS, _PEERS = 16384, 4096  # entries of the two maps, at most
_KEY, _VALUE, _PEER = 20, 24, 40
_COUNTER = bytes(_KEY)  # the key of no port

# Offsets in struct bpf_sock_addr; and in the stack: where a connection was to go, where it goes, its number.
_IP4, _IP6, _PORT, _PROTOCOL = 4, 8, 24, 36
_TCP = 6
_FROM, _TO, _COOKIE = -48, -28, -56
_LOOKUP, _UPDATE, _SOCKET_COOKIE, _NETNS_COOKIE = 1, 2, 46, 122  # helpers
_WORDS = (0, 4, 8, 12)  # of an address
_MAPPED, _ONE = -65536, 0x01000000  # the third word of ::ffff:0:0/96, the fourth of ::1


class Shortcut:
    """Of one nftables table, whose name tells its programs from others'. Not thread-safe.

    A process that stays (`lasting`) makes it, and it ends with that process; others only take away what
    they make wrong. Where the kernel cannot have it, or we may not, nothing happens: nothing here raises
    OSError.
    """

    def __init__(self, table: str, *, lasting: bool) -> None:
        self._name = f"st{hashlib.sha256(table.encode()).hexdigest()[:12]}"
        self._lasting = self._able = lasting
        self._entries: dict[tuple[str, int], tuple[str, int]] = {}
        self._count = b""  # how often others took something away
        self._ports = -1  # descriptor of the map of ports
        self._links: list[int] = []

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Connections that were made live on. Repeatable."""
        for descriptor in (*self._links, *((self._ports,) if self._ports >= 0 else ())):
            os.close(descriptor)
        self._entries, self._ports, self._links = {}, -1, []

    # ------------------------------------------------------------ entries

    def keep(self, wanted: Entries) -> None:
        """Whatever leads elsewhere than wanted is gone: to be called before nftables changes."""
        if self._links:
            self.drop([key for key, to in self._entries.items() if wanted.get(key) != to])
        elif not self._lasting:
            self._drop_of_another(None)

    def drop(self, keys: Collection[tuple[str, int]]) -> None:
        """To be called before nftables changes."""
        if not self._links:
            if keys and not self._lasting:
                self._drop_of_another(keys)
            return
        try:
            bpf.remove(self._ports, (_key(*key) for key in keys))
            for key in keys:
                self._entries.pop(key, None)
        except OSError:
            self.close()

    def put(self, entries: Entries) -> None:
        """To be called when nftables has them."""
        if not self._lasting:
            self.drop(entries.keys())  # who stays may have put the old ones there again meanwhile
        elif entries and (self._links or self._made()):
            try:
                bpf.put(self._ports, _packed(entries))
                self._entries.update(entries)
            except OSError:  # there are too many
                self.close()
                self._able = False

    def fill(self, wanted: Entries) -> None:
        """Everything wanted is there, and nothing else; no program without an entry. To be called when
        nftables has it."""
        if self._links and not (wanted and self._is_attached()):
            self.close()
        if self._links and (count := self._counted()) != self._count:
            self._entries, self._count = {}, count
        self.keep(wanted)
        if self._lasting:
            self.put({key: to for key, to in wanted.items() if key not in self._entries})

    def look(self, wanted: Entries) -> tuple[str, ...]:
        """What somebody took away, in words. Otherwise as `fill`: what others of us changed is no defect, nor
        what this process has not begun with."""
        if self._links and not self._is_attached():
            return ("the shortcut from 127.0.0.1 to published ports is gone",)
        if self._lasting:
            self.fill(wanted)
        return ()

    # ------------------------------------------------------------ programs

    def _made(self) -> bool:
        """Whether the programs are attached now. It is not tried a second time."""
        if not self._able:
            return False
        self._able = False
        with suppress(OSError), ExitStack() as stack, _root() as root:

            def held(descriptor: int) -> int:
                stack.callback(os.close, descriptor)
                return descriptor

            ports = held(bpf.create_map(bpf.HASH, _KEY, _VALUE, _PORTS, self._name))
            peers = held(bpf.create_map(bpf.LRU_HASH, 8, _PEER, _PEERS, self._name))
            links = []
            for place, code in _programs(ports, peers, _netns()).items():
                program = held(bpf.load(bpf.SOCK_ADDR_PROGRAM, code, self._name, place))
                links.append(held(bpf.link(root, program, place)))
            self._ports, self._links = os.dup(ports), [os.dup(link) for link in links]
            self._count, self._able = b"", True
        return self._able

    def _is_attached(self) -> bool:
        try:
            return all(bpf.is_attached(link) for link in self._links)
        except OSError:
            return False

    def _counted(self) -> bytes:
        try:
            return bpf.get(self._ports, _COUNTER, _VALUE)
        except OSError:
            return b""

    def _drop_of_another(self, keys: Collection[tuple[str, int]] | None) -> None:
        """From the map of a process of this table that stays, or all that it has; it will see that."""
        with suppress(OSError), _root() as root:
            for id in bpf.attached(root, bpf.CONNECT4):
                with suppress(FileNotFoundError):
                    self._drop_from(id, keys)

    def _drop_from(self, id: int, keys: Collection[tuple[str, int]] | None) -> None:
        with ExitStack() as stack:
            program = bpf.program_by_id(id)
            stack.callback(os.close, program)
            name, maps = bpf.program_info(program)
            if name != self._name:
                return
            ports = bpf.map_by_id(min(maps))  # it was made before the other
            stack.callback(os.close, ports)
            bpf.put(ports, {_COUNTER: os.urandom(_VALUE)})
            gone = bpf.keys(ports, _KEY) if keys is None else [_key(*key) for key in keys]
            bpf.remove(ports, (key for key in gone if key != _COUNTER))


@contextmanager
def _root() -> Iterator[int]:
    """A descriptor of the root of cgroup v2."""
    hierarchy = cgroups.detect().v2
    if hierarchy is None:
        raise OSError(errno.ENOTSUP, "no cgroup v2 is mounted")
    root = os.open(hierarchy.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield root
    finally:
        os.close(root)


def _netns() -> int:
    """The kernel's number of this thread's network namespace; it never has that number again."""
    with socket.socket() as probe:
        return int(struct.unpack("=Q", probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))[0])


def _packed(entries: Entries) -> dict[bytes, bytes]:
    """A value ends with the port of its key: the kernel may use an entry's memory again at once."""
    return {_key(*key): _key(*to) + struct.pack("!HH", key[1], 0) for key, to in entries.items()}


def _key(address: str, port: int) -> bytes:
    """16 bytes of an address (IPv4 as ::ffff:a.b.c.d) and its port, as they are in a packet."""
    if ":" in address:
        packed = socket.inet_pton(socket.AF_INET6, address)
    else:
        packed = bytes(10) + b"\xff\xff" + socket.inet_pton(socket.AF_INET, address)
    return packed + struct.pack("!HH", port, 0)


# ---------------------------------------------------------------- their instructions

# Of 32 bits: load, store a number or a register, set a register to another, AND, jumps, comparing with a
# number or a register. Of 64 bits: the rest.
_LOAD, _STORE_NUMBER, _STORE, _COPY32, _AND = 0x61, 0x62, 0x63, 0xBC, 0x54
_UNLESS, _IF, _UNLESS_SAME = 0x56, 0x16, 0x5E
_STORE64, _COPY, _ADD, _SET, _UNLESS_SAME64, _IF64 = 0x7B, 0xBF, 0x07, 0xB7, 0x5D, 0x15
_GO, _CALL, _EXIT = 0x05, 0x85, 0x95
Part = bytes | str | tuple[str, bytes]


def _programs(ports: int, peers: int, netns: int) -> dict[int, bytes]:
    """By the place that they are for. Arguments are the descriptors of the two maps, and the number of the
    network namespace."""
    return {
        bpf.CONNECT4: _connect(ports, peers, netns, six=False),
        bpf.CONNECT6: _connect(ports, peers, netns, six=True),
        bpf.GETPEERNAME4: _getpeername(peers, six=False),
        bpf.GETPEERNAME6: _getpeername(peers, six=True),
    }


def _connect(ports: int, peers: int, netns: int, *, six: bool) -> bytes:
    """What is connected to is looked up, and what is found takes its place. r6 is the context."""
    return bpf.assemble(
        [
            *_begin(),
            *(_loopback6() if six else _loopback4()),
            op(_LOAD, 1, 6, _PORT),
            op(_STORE, 10, 1, _FROM + 16),
            op(_COPY, 1, 6),
            op(_CALL, value=_NETNS_COOKIE),
            wide(1, netns),
            ("out", op(_UNLESS_SAME64, 0, 1)),
            *_looked_up(ports, _FROM),
            *(part for at in (*_WORDS, 16) for part in (op(_LOAD, 1, 7, at), op(_STORE, 10, 1, _TO + at))),
            op(_LOAD, 1, 7, 20),
            op(_LOAD, 2, 10, _FROM + 16),
            ("out", op(_UNLESS_SAME, 1, 2)),  # that memory belongs to another port by now
            op(_COPY, 1, 6),
            op(_CALL, value=_SOCKET_COOKIE),
            op(_STORE64, 10, 0, _COOKIE),
            wide(1, peers, is_map=True),
            *_in_stack(2, _COOKIE),
            *_in_stack(3, _FROM),
            op(_SET, 4),
            op(_CALL, value=_UPDATE),
            *_exchanged(10, _TO, six),
            *_end(),
        ]
    )


def _getpeername(peers: int, *, six: bool) -> bytes:
    """What the socket is connected to is exchanged for what the program asked for, if it is still that."""
    last = _IP6 + 12 if six else _IP4
    return bpf.assemble(
        [
            *_begin(),
            op(_CALL, value=_SOCKET_COOKIE),
            op(_STORE64, 10, 0, _COOKIE),
            *_looked_up(peers, _COOKIE),
            op(_LOAD, 1, 6, last),
            op(_LOAD, 2, 7, _KEY + 12),
            ("out", op(_UNLESS_SAME, 1, 2)),
            op(_LOAD, 1, 6, _PORT),
            op(_LOAD, 2, 7, _KEY + 16),
            ("out", op(_UNLESS_SAME, 1, 2)),
            *_exchanged(7, 0, six),
            *_end(),
        ]
    )


def _begin() -> list[Part]:
    """Other protocols than TCP are let go as they are."""
    return [op(_COPY, 6, 1), op(_LOAD, 2, 6, _PROTOCOL), ("out", op(_UNLESS, 2, value=_TCP))]


def _end() -> list[Part]:
    return ["out", op(_SET, 0, value=1), op(_EXIT)]


def _loopback4() -> list[Part]:
    """The address, if it is in 127.0.0.0/8."""
    return [
        op(_LOAD, 5, 6, _IP4),
        op(_COPY32, 1, 5),
        op(_AND, 1, value=0xFF),
        ("out", op(_UNLESS, 1, value=127)),
        op(_STORE_NUMBER, 10, 0, _FROM),
        op(_STORE_NUMBER, 10, 0, _FROM + 4),
        op(_STORE_NUMBER, 10, 0, _FROM + 8, _MAPPED),
        op(_STORE, 10, 5, _FROM + 12),
    ]


def _loopback6() -> list[Part]:
    """The address, if it is ::1 or in ::ffff:127.0.0.0/104."""
    words = list(zip((2, 3, 4, 5), _WORDS, strict=True))
    return [
        *(op(_LOAD, register, 6, _IP6 + at) for register, at in words),
        ("out", op(_UNLESS, 2)),
        ("out", op(_UNLESS, 3)),
        ("mapped", op(_IF, 4, value=_MAPPED)),
        ("out", op(_UNLESS, 4)),
        ("out", op(_UNLESS, 5, value=_ONE)),
        ("found", op(_GO)),
        "mapped",
        op(_COPY32, 1, 5),
        op(_AND, 1, value=0xFF),
        ("out", op(_UNLESS, 1, value=127)),
        "found",
        *(op(_STORE, 10, register, _FROM + at) for register, at in words),
    ]


def _looked_up(held: int, key: int) -> list[Part]:
    """r7 is what a map has of the key in the stack."""
    parts = [wide(1, held, is_map=True), *_in_stack(2, key), op(_CALL, value=_LOOKUP)]
    return [*parts, ("out", op(_IF64, 0)), op(_COPY, 7, 0)]


def _in_stack(register: int, at: int) -> list[Part]:
    return [op(_COPY, register, 10), op(_ADD, register, value=at)]


def _exchanged(register: int, at: int, six: bool) -> list[Part]:
    """The context's address and port are those that lie there."""
    moves = [(at + word, _IP6 + word) for word in _WORDS] if six else [(at + 12, _IP4)]
    return [
        part
        for source, to in (*moves, (at + 16, _PORT))
        for part in (op(_LOAD, 1, register, source), op(_STORE, 6, 1, to))
    ]
