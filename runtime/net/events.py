"""Effects: hear at once of what is done to networks: a thread that waits on the kernel's multicast groups.

`Expected` says what is ours, `concerns` decides whether a message is about it and against it; the Watch calls
`heard` for those and passes over the rest, which a busy host has by the thousand. What is there is then read
from the kernel by a look: an event is only the reason for one, and that some were lost (ENOBUFS) is one, too.

One socket is for nftables, one for the MACs that are fixed to ports of bridges, and one for links, their
filters, addresses, routes and the settings of forwarding, which hears the namespaces of containers as well
(NETLINK_LISTEN_ALL_NSID, Linux 4.2: where a veth pair leads to).
Settings of which the kernel tells nobody are read now and then. netlink(7), rtnetlink(7).
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType

from runtime.net import links
from runtime.net.netlink import NETLINK_NETFILTER, NETLINK_ROUTE, attributes, cut, number, text

#: seconds: what comes within QUIET of the first event belongs to it; the pause doubles up to LAZY while all
#: that comes is none of ours
QUIET, LAZY = 0.02, 0.25
#: settings are read every POLL seconds, or as seldom as makes the reading a thousandth of one core
POLL, POLL_RATIO = 0.5, 1000.0
#: bytes that the kernel keeps for us on each socket
BUFFER = 4 * 1024 * 1024
#: messages that are looked at in one go
BATCH = 20_000

_GROUP_LINK, _GROUP_TC, _GROUP_ADDRESS, _GROUP_ROUTE, _GROUP_NETCONF = 1, 4, 5, 7, 24
_GROUP_ADDRESS6, _GROUP_ROUTE6, _GROUP_NETCONF6 = 9, 11, 25
_ROUTE_GROUPS = (
    _GROUP_LINK,
    _GROUP_TC,
    _GROUP_ADDRESS,
    _GROUP_ROUTE,
    _GROUP_NETCONF,
    _GROUP_ADDRESS6,
    _GROUP_ROUTE6,
    _GROUP_NETCONF6,
)
_GROUP_NFTABLES, _GROUP_NEIGHBOUR = 7, 3
_SOL_NETLINK, _ADD_MEMBERSHIP, _LISTEN_ALL_NSID = 270, 1, 8
_SO_RCVBUFFORCE, _SO_ATTACH_FILTER = 33, 26

_NEWLINK, _DELLINK, _NEWADDR, _DELADDR, _DELROUTE, _NEWNETCONF = 16, 17, 20, 21, 25, 80
_NEWNEIGH, _DELNEIGH, _DELQDISC, _NEWTFILTER, _DELTFILTER = 28, 29, 37, 44, 45
_SUBSYS_NFTABLES = 10
_NFT_NEWCHAIN, _NFT_DELCHAIN = 3, 5
_NFTA_TABLE, _NFTA_CHAIN_HOOK = 1, 4
_AF_BRIDGE, _NUD_NOARP = 7, 0x40
_IFLA_ADDRESS, _IFLA_MTU, _IFLA_MASTER = 1, 4, 10
_RTA_OIF = 4
_NETCONFA_IFINDEX, _NETCONFA_FORWARDING = 1, 2
_EVERY_INTERFACE = -1


@dataclass(frozen=True, slots=True)
class Expected:
    """What is ours in the kernel, as the last look found it whole."""

    table: str = ""
    mark: str = ""  # with which names of our bridges begin; rules in tables of others name them, too
    links: Mapping[int, links.Link] = field(default_factory=lambda: MappingProxyType({}))  # by index
    bridges: frozenset[int] = frozenset()  # indexes
    namespaces: frozenset[int] = frozenset()  # of containers, by the number that this one gives them
    settings: tuple[tuple[str, str], ...] = ()  # (below /proc/sys/net, value)


@dataclass(frozen=True, slots=True)
class Message:
    """One multicast message. `namespace` is the number of the network namespace it is from, -1: ours."""

    kind: int
    body: bytes
    namespace: int = -1


# ---------------------------------------------------------------- decisions


def concerns(message: Message, expected: Expected) -> bool:
    """Whether something of ours may be other than it was; what cannot be read may be anything."""
    try:
        return _concerns(message, expected)
    except struct.error:
        return True


def _concerns(message: Message, expected: Expected) -> bool:
    if message.kind >> 8 == _SUBSYS_NFTABLES:
        return _in_table(message, expected)
    if message.namespace != -1:
        return message.namespace in expected.namespaces and _inside(message)
    match message.kind:
        case 16 | 17:  # _NEWLINK, _DELLINK
            return _link(message, expected)
        case 20 | 21:  # _NEWADDR, _DELADDR
            return struct.unpack_from("=i", message.body, 4)[0] in expected.bridges
        case 29 | 37 | 45:  # _DELNEIGH (those that _fixed_macs lets pass), _DELQDISC, _DELTFILTER
            return struct.unpack_from("=i", message.body, 4)[0] in expected.links
        case 25:  # _DELROUTE
            return number(attributes(message.body, 12).get(_RTA_OIF)) in expected.bridges
        case 80:  # _NEWNETCONF
            given = attributes(message.body, 4)
            index = struct.unpack("=i", given.get(_NETCONFA_IFINDEX, b"\0\0\0\0"))[0]
            off = number(given.get(_NETCONFA_FORWARDING, b"\1")) == 0
            return off and bool(expected.bridges) and (index == _EVERY_INTERFACE or index in expected.bridges)
        case _:
            return False


def _in_table(message: Message, expected: Expected) -> bool:
    """Our table, a rule of others that lets our bridges pass, or a base chain of theirs: it may drop what we
    forward."""
    if not expected.table:
        return False
    given = attributes(message.body, 4)
    if text(given.get(_NFTA_TABLE)) == expected.table:
        return True
    if expected.mark and expected.mark.encode() in message.body:
        return True
    return message.kind & 0xFF in (_NFT_NEWCHAIN, _NFT_DELCHAIN) and _NFTA_CHAIN_HOOK in given


def _inside(message: Message) -> bool:
    """In a container: what is taken away. What it adds is its own matter."""
    if message.kind == _NEWLINK:
        return not struct.unpack_from("=I", message.body, 8)[0] & links.IFF_UP
    return message.kind in (_DELLINK, _DELADDR, _DELROUTE)


def _link(message: Message, expected: Expected) -> bool:
    family, index, flags = struct.unpack_from("=BxxxiI", message.body)
    known = expected.links.get(index)
    if known is None:
        return False
    if (
        message.kind == _DELLINK or family == _AF_BRIDGE
    ):  # of a port: it left its bridge, or its flags changed
        return True
    given = attributes(message.body, 16)
    return (
        bool(flags & links.IFF_UP) != known.up
        or number(given.get(_IFLA_MASTER)) != known.master
        or number(given.get(_IFLA_MTU)) != known.mtu
        or given.get(_IFLA_ADDRESS, b"").hex(":") != known.mac
    )


def _fixed_macs() -> bytes:
    """A socket filter (linux/filter.h): what passes says that a fixed MAC of a port came or went. All others,
    as of each neighbour of a busy host, wake nobody."""

    def unless(offset: int, value: int, left: int) -> tuple[tuple[int, int, int, int], ...]:
        return (0x30, 0, 0, offset), (0x15, 0, left, value)  # a byte; else jump over `left`

    program = (
        (0x30, 0, 0, 4),  # nlmsghdr.nlmsg_type, whose high byte is 0 for all of rtnetlink
        (0x15, 1, 0, _NEWNEIGH),
        (0x15, 0, 5, _DELNEIGH),
        *unless(16, _AF_BRIDGE, 3),  # ndmsg.ndm_family
        *unless(24, _NUD_NOARP, 1),  # ndmsg.ndm_state
        (0x06, 0, 0, 0xFFFFFFFF),
        (0x06, 0, 0, 0),
    )
    return b"".join(struct.pack("=HBBI", *item) for item in program)


# ---------------------------------------------------------------- the thread


class Watch:
    """Listens in the network namespace of the thread that makes it, until `close`. `heard` is called in a
    thread of its own. Raises OSError where the kernel has no such sockets.
    """

    def __init__(self, heard: Callable[[], None]) -> None:
        self._heard = heard
        self._expected = Expected()
        self._stop, self._ended = socket.socketpair()
        self._told = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # readable: there are settings now
        self._lock = threading.Lock()
        self._stirred: Counter[int] = Counter()  # messages, by namespace
        #: links from which somebody took a filter, or their fixed MAC, and did not give it back
        self._unled: set[int] = set()
        self._unfixed: set[int] = set()
        self._lost = 0
        self._sockets: list[socket.socket] = []
        self.overruns = 0
        try:
            self._open(NETLINK_ROUTE, _ROUTE_GROUPS)
            #: whether the namespaces of containers are heard
            self.everywhere = self._listen_everywhere()
            with suppress(OSError):  # without nftables there is no table
                self._open(NETLINK_NETFILTER, (_GROUP_NFTABLES,))
            self._open(NETLINK_ROUTE, (_GROUP_NEIGHBOUR,), _fixed_macs())
        except BaseException:
            self._close()
            raise
        self._thread = threading.Thread(target=self._run, name="stead-events", daemon=True)
        self._thread.start()

    def _open(self, protocol: int, groups: tuple[int, ...], filter: bytes = b"") -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        made = socket.socket(socket.AF_NETLINK, kind, protocol)
        self._sockets.append(made)
        with suppress(
            OSError
        ):  # more than net.core.rmem_max needs CAP_NET_ADMIN; a small one overruns sooner
            made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER)
        made.bind((0, 0))
        if filter:
            program = ctypes.create_string_buffer(filter, len(filter))
            asked = struct.pack("@HP", len(filter) // 8, ctypes.addressof(program))
            made.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, asked)
        for group in groups:
            made.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)

    def _listen_everywhere(self) -> bool:
        try:
            self._sockets[0].setsockopt(_SOL_NETLINK, _LISTEN_ALL_NSID, 1)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """`heard` is not called any more."""
        self._stop.close()
        self._thread.join()
        self._close()

    def _close(self) -> None:
        for item in (*self._sockets, self._stop, self._ended):
            item.close()
        with self._lock:
            os.close(self._told)
            self._told = -1

    # ------------------------------------------------------------ for who looks

    def expect(self, expected: Expected) -> None:
        """Judge by this from now on."""
        with self._lock:
            before, self._expected = self._expected, expected
            if expected.settings and not before.settings and self._told >= 0:
                os.eventfd_write(self._told, 1)

    def stirred(self, namespace: int) -> tuple[int, int]:
        """Another value than before, if anything may have happened in this namespace of a container since."""
        with self._lock:
            return self._lost, self._stirred[namespace]

    def loosened(self) -> frozenset[int]:
        """Indexes of links of ours that lost a filter or their fixed MAC, and were given none since."""
        with self._lock:
            for taken in (self._unled, self._unfixed):
                taken &= self._expected.links.keys()
            return frozenset(self._unled | self._unfixed)

    # ------------------------------------------------------------ the thread

    def _run(self) -> None:
        poll = select.poll()
        for fd in (*(item.fileno() for item in (*self._sockets, self._ended)), self._told):
            poll.register(fd, select.POLLIN)
        pause, settings_at = QUIET, 0.0
        while True:
            wait = max(0.0, settings_at - time.monotonic()) if self._expected.settings else None
            ready = {fd for fd, _ in poll.poll(None if wait is None else wait * 1e3)}
            if self._ended.fileno() in ready:
                return
            if self._told in ready:
                os.eventfd_read(self._told)
                ready.discard(self._told)
            heard = False
            if ready:
                if self._pause(QUIET):
                    return
                heard = self._drain()
            if self._expected.settings and time.monotonic() >= settings_at:
                begin, before = time.monotonic(), time.thread_time()
                heard |= self._settings_changed()
                settings_at = begin + max(POLL, POLL_RATIO * (time.thread_time() - before))
            if heard:
                self._heard()
                pause = QUIET
            elif ready:
                if self._pause(pause):
                    return
                pause = min(2 * pause, LAZY)
            else:
                pause = QUIET

    def _pause(self, seconds: float) -> bool:
        """Whether it is time to end."""
        return bool(select.select([self._ended], [], [], seconds)[0])

    def _drain(self) -> bool:
        """Take what there is; whether any of it concerns us."""
        expected, found = self._expected, False
        for item in self._sockets:
            for _ in range(BATCH):
                try:
                    data, extra, _, (sender, _) = item.recvmsg(65536, 64)
                except BlockingIOError:
                    break
                except OSError:  # ENOBUFS: some were lost; whatever else it is, the same follows
                    self._overrun()
                    found = True
                    break
                if sender == 0:  # the kernel
                    found |= self._read(data, extra, expected)
        return found

    def _read(self, data: bytes, extra: list[tuple[int, int, bytes]], expected: Expected) -> bool:
        namespace = -1
        for level, kind, value in extra:
            if (level, kind) == (_SOL_NETLINK, _LISTEN_ALL_NSID):
                namespace = struct.unpack("=i", value)[0]
        if namespace != -1:
            with self._lock:
                self._stirred[namespace] += 1
        found = False
        for kind, _, body in cut(data):
            if namespace == -1 and kind in (_NEWTFILTER, _DELTFILTER, _NEWNEIGH, _DELNEIGH):
                self._note(kind, body, expected)
            found = found or concerns(Message(kind, body, namespace), expected)
        return found

    def _note(self, kind: int, body: bytes, expected: Expected) -> None:
        (index,) = struct.unpack_from("=i", body, 4)
        taken = self._unled if kind in (_NEWTFILTER, _DELTFILTER) else self._unfixed
        with self._lock:
            if kind in (_NEWTFILTER, _NEWNEIGH):
                taken.discard(index)
            elif index in expected.links:
                taken.add(index)

    def _overrun(self) -> None:
        with self._lock:
            self._lost += 1
            self.overruns += 1
            self._stirred.clear()

    def _settings_changed(self) -> bool:
        try:
            return any(links.read_sysctl(name) != value for name, value in self._expected.settings)
        except OSError:
            return True
