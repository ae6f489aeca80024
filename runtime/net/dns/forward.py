"""Effects: pass questions on to other servers, and their answers back.

A question goes to one server at a time, from a socket of its own with a port and an id that nobody can guess,
and to the next one when that one does not answer in time, refuses or fails. What was slow is asked last for a
while. Answers are taken only from the server that was asked, with the id and the question that were sent.
The asker's own EDNS options go through unchanged.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Collection, Sequence

from runtime.net.dns import wire
from runtime.net.dns.wire import Query
from runtime.shim.loop import READ, WRITE, Loop

#: Seconds for one try, by UDP and by TCP, and how many tries a question gets.
UDP_TIMEOUT, TCP_TIMEOUT, TRIES = 1.5, 4.0, 4
#: Seconds for which a server that did not answer is asked last.
AVOID = 30.0
#: Questions under way at one time, of all askers and of one.
MAX_QUESTIONS, MAX_OF_ONE = 1024, 256
#: Seconds between looks for those that are late, while there are any.
TICK = 0.1
PORT = 53

_SERVER_FAILS = frozenset({wire.SERVFAIL, wire.NOTIMP, wire.REFUSED})

Reply = Callable[[bytes], None]


class Forwarder:
    """Only for the thread of `loop`."""

    def __init__(self, loop: Loop, *, port: int = PORT) -> None:
        self.loop, self.port = loop, port
        self._questions: dict[object, _Question] = {}
        self._counts: dict[str, int] = {}
        self._avoid: dict[str, float] = {}
        self._ticking = False

    def ask(
        self,
        asker: str,
        key: object,
        query: Query,
        data: bytes,
        servers: Sequence[str],
        reply: Reply,
        tcp: bool,
    ) -> None:
        """`reply` is called once, now or later. A question of the same `key` that is under way is not asked
        again: its asker was impatient."""
        if key in self._questions:
            return
        full = len(self._questions) >= MAX_QUESTIONS or self._counts.get(asker, 0) >= MAX_OF_ONE
        if full or not servers:
            reply(wire.respond(query, wire.SERVFAIL, own=False))
            return
        self._counts[asker] = self._counts.get(asker, 0) + 1
        kind = _TcpQuestion if tcp else _UdpQuestion
        question = kind(self, asker, key, query, data, self._order(servers), reply)
        self._questions[key] = question
        question.next()
        if not self._ticking:
            self._ticking = True
            self.loop.after(TICK, self._tick)

    def __len__(self) -> int:
        """How many questions are under way."""
        return len(self._questions)

    def _order(self, servers: Sequence[str]) -> list[str]:
        now = time.monotonic()
        ordered = sorted(servers, key=lambda server: self._avoid.get(server, 0.0) > now)
        return (ordered * TRIES)[:TRIES]

    def slow(self, server: str) -> None:
        if len(self._avoid) >= MAX_QUESTIONS:
            self._avoid.clear()
        self._avoid[server] = time.monotonic() + AVOID

    def ended(self, question: _Question) -> None:
        self._questions.pop(question.key, None)
        left = self._counts.get(question.asker, 1) - 1
        if left:
            self._counts[question.asker] = left
        else:
            self._counts.pop(question.asker, None)

    def _tick(self) -> None:
        now = time.monotonic()
        for question in [item for item in self._questions.values() if item.deadline <= now]:
            self.slow(question.server)
            question.next()
        self._ticking = bool(self._questions)
        if self._ticking:
            self.loop.after(TICK, self._tick)


class _Question:
    """One question and its present try."""

    timeout = UDP_TIMEOUT
    kind = socket.SOCK_DGRAM

    def __init__(
        self,
        forwarder: Forwarder,
        asker: str,
        key: object,
        query: Query,
        data: bytes,
        servers: list[str],
        reply: Reply,
    ) -> None:
        self.forwarder, self.asker, self.key = forwarder, asker, key
        self._query, self._data, self._servers, self._reply = query, data, servers, reply
        self._socket: socket.socket | None = None
        self._worst: bytes | None = None  # the answer of a server that could not help
        self.server, self.deadline = "", 0.0

    def next(self) -> None:
        """Try the next server; when there is none, say so."""
        while True:
            self._close()
            if not self._servers:
                self._finish(self._worst)
                return
            self.server = self._servers.pop(0)
            self.deadline = time.monotonic() + self.timeout
            self._sent = os.urandom(2) + self._data[2:]
            try:
                self._socket = _connect(self.server, self.forwarder.port, self.kind)
                self._begin(self._socket)
                return
            except OSError:
                self.forwarder.slow(self.server)

    def _begin(self, sock: socket.socket) -> None:
        raise NotImplementedError

    def _heard(self, answer: bytes) -> None:
        """An answer to what was sent."""
        if wire.rcode_of(answer) in _SERVER_FAILS:
            self._worst = answer
            self.next()
        else:
            self._finish(answer)

    def _failed(self) -> None:
        self.forwarder.slow(self.server)
        self.next()

    def _finish(self, answer: bytes | None) -> None:
        self._close()
        self.forwarder.ended(self)
        if answer is None:
            self._reply(wire.respond(self._query, wire.SERVFAIL, own=False))
        else:
            self._reply(self._data[:2] + answer[2:])

    def _close(self) -> None:
        if self._socket is not None:
            self.forwarder.loop.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None


class _UdpQuestion(_Question):
    def _begin(self, sock: socket.socket) -> None:
        sock.send(self._sent)
        self.forwarder.loop.watch(sock.fileno(), self._readable)

    def _readable(self) -> None:
        assert self._socket is not None
        try:
            answer = self._socket.recv(wire.MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError:  # nobody listens there: icmp(7)
            self._failed()
            return
        if wire.same_question(self._sent, answer):
            limit = self._query.limit
            self._heard(answer if len(answer) <= limit else wire.truncated(self._query))


class _TcpQuestion(_Question):
    """RFC 7766: two bytes of length before each message."""

    timeout = TCP_TIMEOUT
    kind = socket.SOCK_STREAM

    def _begin(self, sock: socket.socket) -> None:
        self._out = len(self._sent).to_bytes(2, "big") + self._sent
        self._in = b""
        self.forwarder.loop.watch(sock.fileno(), self._ready, WRITE)

    def _ready(self) -> None:
        assert self._socket is not None
        try:
            if self._out:
                self._out = self._out[self._socket.send(self._out) :]
                if not self._out:
                    self.forwarder.loop.watch(self._socket.fileno(), self._ready, READ)
                return
            data = self._socket.recv(wire.MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            self._failed()
            return
        self._in += data
        size = int.from_bytes(self._in[:2], "big")
        if len(self._in) >= 2 + size and len(self._in) >= 2:
            answer = self._in[2 : 2 + size]
            if wire.same_question(self._sent, answer):
                self._heard(answer)
            else:
                self._failed()
        elif not data:
            self._failed()


def _connect(server: str, port: int, kind: socket.SocketKind) -> socket.socket:
    """A socket that is being connected, from a port that the kernel chose at random."""
    address, _, scope = server.partition("%")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            index = socket.if_nametoindex(scope) if scope and not scope.isdigit() else int(scope or 0)
            sock.connect((address, port, 0, index))
        else:
            sock.connect((address, port))
    except BlockingIOError:  # TCP: EINPROGRESS
        return sock
    except BaseException:
        sock.close()
        raise
    return sock


def usable(servers: Collection[str], own: Collection[str]) -> tuple[str, ...]:
    """Those of `servers` that are not ourselves."""
    return tuple(server for server in servers if server not in own)
