"""Effects: reading the documents of a bundle: config.json, and supervise.json of runtime.shim.messages."""

from __future__ import annotations

import os

from runtime.shim import messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Bytes of one.
MAX_DOCUMENT = 16 << 20


def read(bundle: str, name: str) -> dict[str, Any]:
    """OSError, ValueError."""
    fd = os.open(f"{bundle}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return messages.decode(os.read(fd, min(os.fstat(fd).st_size, MAX_DOCUMENT)))
    finally:
        os.close(fd)
