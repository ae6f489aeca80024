"""Effects: bounds for those who reach the metrics listener, who may be anybody, containers too.

Whoever connects and asks nothing, asks for ever or never reads would hold a descriptor and memory of the
agent. A stranger has `PATIENCE` seconds from one answer to the end of the next, and where `MOST` are
connected, the one who was answered longest ago makes place. Those on the unix socket may do all that the
agent may; their calls last as long as what they asked for.
"""

from __future__ import annotations

import asyncio
import socket
import time

from uvicorn.protocols.http.h11_impl import H11Protocol

#: connections at once, and seconds that one may take without an answer
MOST, PATIENCE = 64, 30.0


class Bounded(H11Protocol):
    """One connection. uvicorn itself ends one that rests for five seconds after an answer."""

    _deadline: asyncio.TimerHandle | None = None
    _since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if transport.get_extra_info("socket").family == socket.AF_UNIX:
            return
        strangers = [item for item in self.connections if isinstance(item, Bounded) and item._deadline]
        self._renew()
        if len(strangers) >= MOST:
            min(strangers, key=lambda item: item._since)._end()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline:
            self._deadline.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        if self._deadline:
            self._renew()
        super().on_response_complete()

    def _renew(self) -> None:
        if self._deadline:
            self._deadline.cancel()
        self._since = time.monotonic()
        self._deadline = self.loop.call_later(PATIENCE, self._end)

    def _end(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None
        self.transport.abort()
