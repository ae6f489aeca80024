"""Effects: questions by TCP. RFC 7766: each message has two bytes of length before it, and several may be
under way on one connection, answered in any order.
"""

from __future__ import annotations

import socket
import time

from runtime.net.dns import wire
from runtime.shim.loop import READ, WRITE, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.net.dns.server import Listener, Server

#: Connections at one time, of all askers and of one.
MAX_STREAMS, MAX_OF_ONE = 256, 32
#: Questions of one connection that wait for an answer, and bytes of answers that wait to be taken.
MAX_WAITING, MAX_OUT = 32, 1 << 18
#: Seconds without a question after which a connection ends.
IDLE = 10.0


class Streams:
    def __init__(self, loop: Loop, server: Server) -> None:
        self.loop, self.server = loop, server
        self._streams: set[Stream] = set()

    def __len__(self) -> int:
        return len(self._streams)

    def accept(self, listening: socket.socket, listener: Listener) -> None:
        try:
            sock, source = listening.accept()
        except OSError:  # it went meanwhile, or there are no descriptors left
            return
        sock.setblocking(False)
        self.server.refresh(None)
        host = source[0]
        of_one = sum(1 for stream in self._streams if stream.source[0] == host)
        if len(self._streams) >= MAX_STREAMS or of_one >= MAX_OF_ONE:
            sock.close()
            return
        if not self._streams:
            self.loop.after(1.0, self._tick)
        self._streams.add(Stream(self, sock, listener, (host, source[1])))

    def forget(self, stream: Stream) -> None:
        self._streams.discard(stream)

    def _tick(self) -> None:
        now = time.monotonic()
        for stream in [item for item in self._streams if now - item.heard > IDLE]:
            stream.close()
        if self._streams:
            self.loop.after(1.0, self._tick)


class Stream:
    """One connection."""

    def __init__(
        self, streams: Streams, sock: socket.socket, listener: Listener, source: tuple[str, int]
    ) -> None:
        self.source, self.heard = source, time.monotonic()
        self._streams, self._socket, self._listener = streams, sock, listener
        self._in, self._out = b"", b""
        self._waiting = 0
        self._open = True
        streams.loop.watch(sock.fileno(), self._ready)

    def close(self) -> None:
        """Repeatable: answers may still come."""
        if self._open:
            self._open = False
            self._streams.loop.forget(self._socket.fileno())
            self._socket.close()
            self._streams.forget(self)

    def _ready(self) -> None:
        try:
            if self._out:
                self._out = self._out[self._socket.send(self._out) :]
                self._watch()
                return
            data = self._socket.recv(wire.MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not data:
            self.close()
            return
        self._in += data
        self.heard = time.monotonic()
        self._streams.server.refresh(None)
        self._take()

    def _take(self) -> None:
        """Answer what has come completely."""
        while self._open and len(self._in) >= 2:
            size = int.from_bytes(self._in[:2], "big")
            if len(self._in) < 2 + size:
                return
            message, self._in = self._in[2 : 2 + size], self._in[2 + size :]
            if self._waiting >= MAX_WAITING:
                self.close()
                return
            self._waiting += 1
            before = self._waiting
            answer = self._streams.server.handle(self._listener, message, self.source, self._reply, tcp=True)
            if answer is not None:
                self._reply(answer)
            elif self._waiting == before and not _is_query(message):
                self.close()  # no DNS, or one that may not ask

    def _reply(self, answer: bytes) -> None:
        self._waiting -= 1
        if not self._open:
            return
        self._out += len(answer).to_bytes(2, "big") + answer
        if len(self._out) > MAX_OUT:
            self.close()
            return
        try:
            self._out = self._out[self._socket.send(self._out) :]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        self._watch()

    def _watch(self) -> None:
        """While answers wait to be taken no more questions are."""
        self._streams.loop.watch(self._socket.fileno(), self._ready, WRITE if self._out else READ)


def _is_query(message: bytes) -> bool:
    return len(message) >= wire.HEADER and not message[2] & 0x80
