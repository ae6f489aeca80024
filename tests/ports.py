"""Ports for servers that a test starts."""

from __future__ import annotations

import random
import socket


def free_port() -> int:
    """None of those that the kernel gives to connections: ip(7), ip_local_port_range. One of these could be
    taken until the server binds it, be it by a look whether the server is there, which then meets itself."""
    while True:
        with socket.socket() as free:
            port = random.randrange(20000, 32000)
            try:
                free.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
