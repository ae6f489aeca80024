"""Decisions: the words of EXPOSE -> `80/tcp`.

A range is all its ports; an address or port of the host is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

PROTOCOLS = ("tcp", "udp", "sctp")
_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?\Z", re.ASCII)


def exposed(texts: Iterable[str], warn: Callable[[str, str], None]) -> tuple[str, ...]:
    """Each port once, as `number/protocol`. Raises ValueError; `warn(rule, text)` hears what is odd."""
    found: dict[str, None] = {}
    for text in texts:
        port, _, protocol = text.partition("/")
        if protocol != protocol.lower():
            warn("ExposeProtoCasing", f"the protocol in {text!r} should be lower case")
        protocol = protocol.lower() or "tcp"
        if protocol not in PROTOCOLS:
            raise ValueError(f"{text!r}: the protocol is {', '.join(PROTOCOLS)}")
        if ":" in port:
            warn("ExposeInvalidFormat", f"{text!r} should have no address and no port of the host")
            port = port.rpartition(":")[2]
        match = _RANGE.match(port)
        first = int(match[1]) if match else -1
        last = int(match[2] or match[1]) if match else -1
        if not 0 <= first <= last <= 65535:
            raise ValueError(f"{text!r} is not a port or a range of ports (write 80, 53/udp or 8000-8010)")
        found.update((f"{number}/{protocol}", None) for number in range(first, last + 1))
    return tuple(found)
