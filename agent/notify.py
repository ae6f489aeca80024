"""Effects: sd_notify(3) messages to systemd. Without NOTIFY_SOCKET in the environment nothing is sent."""

from __future__ import annotations

import os
import socket


def notify(*lines: str) -> bool:
    """Send `lines` (READY=1, STATUS=..., WATCHDOG=1 ...) as one datagram. False: nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address or address[0] not in "/@":
        return False
    target = "\0" + address[1:] if address[0] == "@" else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto("\n".join(lines).encode(), target)
        except OSError:
            return False
    return True


def watchdog_interval() -> float:
    """How often to send WATCHDOG=1, in seconds: half of what systemd waits. 0.0 without a watchdog."""
    try:
        usec, pid = int(os.environ.get("WATCHDOG_USEC", "0")), int(os.environ.get("WATCHDOG_PID", "0"))
    except ValueError:
        return 0.0
    return usec / 2e6 if usec > 0 and pid in (0, os.getpid()) else 0.0
