"""Effects: the documents of a bundle: config.json, and those of runtime.shim.messages."""

from __future__ import annotations

import os

from runtime.linux.regular import open_regular
from runtime.shim import messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Bytes of one.
MAX_DOCUMENT = 16 << 20


class Bundle:
    """What a shim is told at its birth: directories, supervise.json and config.json."""

    __slots__ = ("config", "live", "path", "supervise")

    def __init__(self, path: str, live: str, supervise: dict[str, Any], config: dict[str, Any]) -> None:
        self.path, self.live, self.supervise, self.config = path, live, supervise, config


def read(bundle: str, name: str) -> dict[str, Any]:
    """OSError, ValueError."""
    fd = open_regular(f"{bundle}/{name}", follow=True)
    try:
        return messages.decode(os.read(fd, min(os.fstat(fd).st_size, MAX_DOCUMENT)))
    finally:
        os.close(fd)


def write_at(directory: int, name: str, data: bytes, *, durable: bool = False) -> None:
    """Replace the file `name` in the open directory; no reader ever sees half of it."""
    temporary = f".{name}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        written = os.write(fd, data)
        if written != len(data):
            raise OSError(28, "no space left", name)
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    if durable:
        os.fsync(directory)
