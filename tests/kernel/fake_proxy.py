"""A proxy that tunnels (CONNECT), to whatever place it was told, and remembers who asked for what."""

from __future__ import annotations

import selectors
import socket
import socketserver
import threading
from typing import Any


class Proxy:
    """`places` maps the names that clients ask for to real addresses."""

    def __init__(self, places: dict[str, str]) -> None:
        proxy = self
        self.asked: list[tuple[str, dict[str, str]]] = []

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                verb, target, _ = self.rfile.readline().decode().split(" ", 2)
                headers: dict[str, str] = {}
                while (line := self.rfile.readline().decode().strip()) != "":
                    name, _, value = line.partition(":")
                    headers[name.lower()] = value.strip()
                proxy.asked.append((f"{verb} {target}", headers))
                host, _, port = places[target].partition(":")
                with socket.create_connection((host, int(port))) as there:
                    self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    _carry(self.connection, there)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that hang up
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _carry(one: Any, two: Any) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(one, selectors.EVENT_READ, two)
        selector.register(two, selectors.EVENT_READ, one)
        while True:
            for key, _ in selector.select():
                data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                if not data:
                    return
                key.data.sendall(data)
