"""Effects: the name server's sockets: who asks, what is answered at once, what is forwarded.

It listens on the gateway address of each network and answers only sources that may ask there. Answers from
our own names are kept as bytes by the bytes of the question, and are given with the asker's id in front; any
change of names empties that.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from runtime.net.dns import documents, forward, wire
from runtime.net.dns.handover import Given
from runtime.net.dns.release import release
from runtime.net.dns.rewriting import Rewriting
from runtime.net.dns.streams import Streams
from runtime.net.dns.upstreams import Upstreams
from runtime.net.dns.watch import Watch
from runtime.net.dns.wire import Malformed, Query, Record
from runtime.net.dns.zone import Answer, Asker, Network
from runtime.shim.loop import Loop

PORT = 53
#: Seconds that resolvers keep an answer from our own names: it may be wrong as soon as a container ends.
TTL = 1
#: Packets that are read before any is answered, bytes of one.
BATCH, MAX_PACKET = 64, 4096
#: Answers that are kept, the size of a question for which one is, orders of one answer at most.
MAX_KEPT, MAX_KEPT_SIZE, ORDERS = 16384, 300, 16
#: Bytes of questions that wait in the kernel, for each network.
RECEIVE_BUFFER = 1 << 20
#: Seconds between attempts to listen where it failed; and how long to stay when there is no container.
RETRY, IDLE = 1.0, 5.0
#: Seconds for which a bridge that has gone keeps its address: then somebody else may have it.
ABSENT = 3.0

#: Seconds that a server whose sockets a newer one has stays for answers that it still owes.
LINGER = 12.0

_Bound = tuple[str, socket.SocketKind]
_Kept = dict[bytes, tuple[bytes, ...]]
Write = Callable[[documents.State], None]


class Listener:
    """The sockets of one gateway address. OSError when UDP cannot be had; TCP may be missing (`trouble`).
    `given` are sockets that another server has bound already."""

    def __init__(
        self, server: Server, network: Network, address: str, given: dict[_Bound, socket.socket]
    ) -> None:
        self.network, self.address, self._server = network, address, server
        self.trouble = ""
        self.absent = 0.0  # seconds
        self.askers: dict[str, tuple[Asker, _Kept]] = {}
        udp, self.tcp = given.pop((address, socket.SOCK_DGRAM), None), None
        self.udp = udp if udp is not None else _bound(address, socket.SOCK_DGRAM, server.port)
        try:
            tcp = given.pop((address, socket.SOCK_STREAM), None)
            self.tcp = tcp if tcp is not None else _bound(address, socket.SOCK_STREAM, server.port)
            self.tcp.listen(128)
        except OSError as error:
            self.trouble = f"cannot listen by TCP: {error.strerror}".lower()
        server.loop.watch(self.udp.fileno(), self._readable)
        if self.tcp is not None:
            listening = self.tcp
            server.loop.watch(listening.fileno(), lambda: server.streams.accept(listening, self))

    def give(self) -> list[Given]:
        """Read no more; the sockets are somebody else's from now on, but answers may still be sent."""
        kinds = ((self.udp, socket.SOCK_DGRAM), (self.tcp, socket.SOCK_STREAM))
        given = [Given(self.address, kind, sock) for sock, kind in kinds if sock is not None]
        for item in given:
            self._server.loop.forget(item.sock.fileno())
        return given

    def close(self) -> None:
        for sock in (self.udp, self.tcp):
            if sock is not None:
                self._server.loop.forget(sock.fileno())
                sock.close()

    def _readable(self) -> None:
        """Questions first, then what has changed, then the answers: no answer is older than its question. The
        first is answered before it is looked whether there are more, since mostly there are none."""
        receive = self.udp.recvfrom
        try:
            self._answer([receive(MAX_PACKET)])
            while packets := self._more():
                self._answer(packets)
                if len(packets) < BATCH:
                    return
        except OSError:
            pass  # none after all; or its network has just gone

    def _more(self) -> list[tuple[bytes, Any]]:
        receive, packets = self.udp.recvfrom, []
        try:
            for _ in range(BATCH):
                packets.append(receive(MAX_PACKET))
        except OSError:
            pass  # read all there is
        return packets

    def _answer(self, packets: list[tuple[bytes, Any]]) -> None:
        if self._server.refresh(self):
            return
        send, askers = self.udp.sendto, self.askers
        for data, source in packets:
            known = askers.get(source[0])
            kept = known[1].get(data[2:]) if known is not None else None
            try:
                if kept is not None:
                    send(data[:2] + (kept[0] if len(kept) == 1 else random.choice(kept)), source)
                elif (answer := self._server.answer(self, data, source)) is not None:
                    send(answer, source)
            except OSError:
                continue  # its network has just gone; or a firewall of the host does not let it pass


class Server:
    """Only for one thread. `write` is told where it listens, whenever that changes. `given` are sockets of an
    older server, which are used where they are wanted."""

    def __init__(
        self,
        loop: Loop,
        watch: Watch,
        upstreams: Upstreams,
        write: Write,
        given: Iterable[Given] = (),
        *,
        port: int = PORT,
    ) -> None:
        self.loop, self.port = loop, port
        self.streams = Streams(loop, self)
        self._watch, self._upstreams, self._write = watch, upstreams, write
        self._forwarder = forward.Forwarder(loop)
        self._listeners: dict[str, Listener] = {}
        self._failed: dict[str, str] = {}
        self._told: documents.State | None = None
        self._kept = 0
        self._idle = 0.0
        self._given = {(item.address, item.kind): item.sock for item in given}
        self.retired = False
        loop.watch(watch.fd, lambda: self.refresh(None))
        self._rewriting = Rewriting(loop, watch, self._is_served, lambda: self.refresh(None))
        self._heeding = False
        self._sync()
        for sock in self._given.values():  # of networks that have gone meanwhile
            sock.close()
        self._given.clear()
        self._later()

    def close(self) -> None:
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
        if not self.retired:
            self._rewriting.close()

    def retire(self) -> list[Given]:
        """Leave the sockets to a newer server; only what was asked already is still answered."""
        self.retired = True
        self._rewriting.close()
        self._owe(time.monotonic() + LINGER)
        return [given for listener in self._listeners.values() for given in listener.give()]

    def _owe(self, until: float) -> None:
        if time.monotonic() > until or not (len(self._forwarder) or len(self.streams)):
            self.loop.ended = True
        else:
            self.loop.after(0.1, lambda: self._owe(until))

    # ------------------------------------------------------------ what there is

    def refresh(self, listener: Listener | None) -> bool:
        """Take in what has changed. Whether `listener` has gone with it."""
        changed = self._watch.drain()
        if self._watch.unheard:
            self._watch.unheard = False
            self.tell(again=True)
        if not changed:
            return False
        self._forget_answers()
        if self.retired:
            return False
        self._rewriting.peers()
        self._heed()
        wanted = self._wanted()
        if self._watch.gone or wanted != {a: item.network for a, item in self._listeners.items()}:
            self._sync()
        self.loop.ended = self.loop.ended or self._watch.gone
        return listener is not None and self._listeners.get(listener.address) is not listener

    def _forget_answers(self) -> None:
        self._kept = 0
        for listener in self._listeners.values():
            listener.askers.clear()

    def _sync(self) -> None:
        """Listen on each gateway and nowhere else."""
        wanted = self._wanted()
        for address, listener in list(self._listeners.items()):
            if wanted.get(address) != listener.network:
                self._listeners.pop(address).close()
        failed = {}
        for address, network in wanted.items():
            try:
                if address not in self._listeners and not _is_there(network.bridge):
                    continue
                if address not in self._listeners:
                    self._listeners[address] = Listener(self, network, address, self._given)
                if self._listeners[address].trouble:
                    failed[address] = self._listeners[address].trouble
            except OSError as error:
                failed[address] = f"cannot listen: {error.strerror}".lower()
        self._failed = failed
        self._rewriting.everything()
        self._heed()
        self.tell()

    def _heed(self) -> None:
        """Hear of containers at once, without being asked, only where hosts files name peers."""
        heeding = self._rewriting.names_peers()
        if heeding and not self._heeding:
            self.loop.watch(self._watch.quiet_fd, lambda: self.refresh(None))
        elif self._heeding and not heeding:
            self.loop.forget(self._watch.quiet_fd)
        self._heeding = heeding

    def _is_served(self, address: str) -> bool:
        """Also while its bridge is gone: that is brought back, and nobody can ask anything until then."""
        return address in self._wanted() and address not in self._failed

    def _wanted(self) -> dict[str, Network]:
        return {a: item for item in self._watch.zone.networks.values() for a in item.gateways}

    def tell(self, *, again: bool = False) -> None:
        """Where it listens, when that has changed, or `again`."""
        from runtime.linux import pidfd

        if self.retired:
            return
        pid = os.getpid()
        listening = tuple(sorted(self._listeners))
        start = pidfd.start_time(pid)
        state = documents.State(pid, start, release(), listening, dict(self._failed))
        if again or state != self._told:
            self._write(state)
            self._told = state

    def _later(self) -> None:
        """Once a second: try again what failed, and end when there is nothing to serve for."""
        if self.retired:
            return
        self.refresh(None)
        self._rewriting.look()
        for address, listener in list(self._listeners.items()):
            listener.absent = 0.0 if _is_there(listener.network.bridge) else listener.absent + RETRY
            if address in self._failed or listener.absent > ABSENT:
                self._listeners.pop(address).close()
        if self._wanted().keys() != self._listeners.keys():
            self._sync()
        self._idle = 0.0 if len(self._watch.zone) else self._idle + RETRY
        if self._idle >= IDLE or self._watch.gone:
            self.loop.ended = True
        self.loop.after(RETRY, self._later)

    # ------------------------------------------------------------ questions

    def answer(self, listener: Listener, data: bytes, source: tuple[str, int]) -> bytes | None:
        """The answer to a packet by UDP; None: there is none, or it comes later."""
        sock = listener.udp

        def reply(answer: bytes) -> None:
            try:
                sock.sendto(answer, source)
            except OSError:
                pass  # as above, or the socket has been closed meanwhile

        return self.handle(listener, data, source, reply)

    def handle(
        self,
        listener: Listener,
        data: bytes,
        source: tuple[str, int],
        reply: forward.Reply,
        *,
        tcp: bool = False,
    ) -> bytes | None:
        """The answer, where it is known at once; else it goes to `reply`. None for who may not ask."""
        if self._listeners.get(listener.address) is not listener:
            return None  # a connection that has outlived its network
        asker, kept = self._asker(listener, source[0])
        if asker is None:
            return None
        try:
            query = wire.parse(data)
        except Malformed as wrong:
            return wrong.answer
        found = self._watch.zone.answer(asker, query)
        if isinstance(found, Answer):
            if tcp:
                return _packed(query, found.rcode, _shuffled(found.records), wire.MAX_MESSAGE)
            return self._keep(kept, query, data, found)
        servers = forward.usable(found.servers or self._upstreams.get(), self._listeners)
        key = (source, query.id, query.question, tcp)
        self._forwarder.ask(source[0], key, query, data, servers, reply, tcp)
        return None

    def _asker(self, listener: Listener, address: str) -> tuple[Asker | None, _Kept]:
        known = listener.askers.get(address)
        if known is not None:
            return known
        asker = self._watch.zone.asker(listener.network, address)
        if asker is None:
            return None, {}
        if len(listener.askers) >= MAX_KEPT:
            listener.askers.clear()
        listener.askers[address] = asker, {}
        return listener.askers[address]

    def _keep(self, kept: _Kept, query: Query, data: bytes, found: Answer) -> bytes:
        answers = tuple(_packed(query, found.rcode, order) for order in _orders(found.records))
        if len(data) <= MAX_KEPT_SIZE:
            if self._kept >= MAX_KEPT:
                self._forget_answers()
            kept[data[2:]] = tuple(answer[2:] for answer in answers)
            self._kept += 1
        return random.choice(answers)


def _orders(records: Sequence[Record]) -> list[list[Record]]:
    """Orders of chance of which each record leads as many as any other, so that askers, who take the first,
    spread over those that have the name. Of more records than ORDERS some lead none, until answers are made
    anew."""
    leaders = random.sample(records, min(len(records), ORDERS))
    return [[first, *_shuffled([item for item in records if item is not first])] for first in leaders] or [[]]


def _shuffled(records: Sequence[Record]) -> list[Record]:
    return random.sample(records, len(records))


def _packed(query: Query, rcode: int, records: Sequence[Record], limit: int = 0) -> bytes:
    return wire.respond(query, rcode, records, ttl=TTL, limit=limit)


def _is_there(bridge: str) -> bool:
    try:
        return not bridge or socket.if_nametoindex(bridge) > 0
    except OSError:
        return False


_IP_FREEBIND, _IPV6_FREEBIND = 15, 78  # linux/in.h, linux/in6.h


def _bound(address: str, kind: socket.SocketKind, port: int) -> socket.socket:
    """A socket on the address, whether the address is there or not: its bridge may go and come back."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        # beside a server of the host that has every address, and allows it
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if kind == socket.SOCK_DGRAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.bind((address, port))
    except BaseException:
        sock.close()
        raise
    return sock
