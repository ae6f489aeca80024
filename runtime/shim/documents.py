"""Effects: reading the documents of a bundle: config.json, and supervise.json of runtime.shim.messages."""

from __future__ import annotations

import os

from runtime.linux.regular import open_regular
from runtime.shim import messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Bytes of one.
MAX_DOCUMENT = 16 << 20


def read(bundle: str, name: str) -> dict[str, Any]:
    """OSError, ValueError."""
    fd = open_regular(f"{bundle}/{name}", follow=True)
    try:
        return messages.decode(os.read(fd, min(os.fstat(fd).st_size, MAX_DOCUMENT)))
    finally:
        os.close(fd)
