"""Effects: what happened, a line of JSON each, in one file that every process of Stead appends to.

A line is written by one write(2) with O_APPEND, so that lines of several writers never mix. A file that is
full gets another name, and the oldest of those go: with that the whole has a limit, whoever writes. What
cannot be written is lost: what happens matters more. Readers are in runtime.events.

Keys: v (1), t (ns since the epoch), type (container, image, volume, network, agent), action, id, name, and a:
further ones, as text. Times are the writer's, of the moment when it happened.
"""

from __future__ import annotations

import fcntl
import os
import time

from runtime.shim import messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NOW, OLD = "now.jsonl", "old."
#: bytes after which a file is done with, and how many of those are kept
FULL, KEEP = 4 * 1024 * 1024, 3
#: O_NONBLOCK: a shim must not wait for who reads a FIFO that something put there
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def tell(directory: str, type: str, action: str, id: str, name: str, **attributes: Any) -> None:
    """`directory` is Paths.events; where it is empty, or is not there, nobody wants to know."""
    if not directory:
        return
    said = {key: str(value) for key, value in attributes.items() if value != ""}
    happened = {"t": time.time_ns(), "type": type, "action": action, "id": id, "name": name, "a": said}
    try:
        fd = os.open(f"{directory}/{NOW}", _FLAGS, 0o600)
        try:
            os.write(fd, messages.encode(happened) + b"\n")
            status = os.fstat(fd)
        finally:
            os.close(fd)
        if status.st_size > FULL:
            _turn(directory, status)
    except OSError:
        return


def _turn(directory: str, full: os.stat_result) -> None:
    """Of several that come to this at a time one does it: the file that follows must not be taken for the one
    that was full."""
    path = f"{directory}/{NOW}"
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.samestat(os.stat(path), full):
            os.rename(path, f"{directory}/{OLD}{full.st_ino}.jsonl")
            for name in old_files(directory)[:-KEEP]:
                os.unlink(f"{directory}/{name}")
    finally:
        os.close(lock)


def old_files(directory: str) -> list[str]:
    """Names, the oldest first."""
    found = []
    for name in os.listdir(directory):
        if name.startswith(OLD):
            try:
                found.append((os.stat(f"{directory}/{name}").st_mtime_ns, name))
            except FileNotFoundError:
                continue
    return [name for _, name in sorted(found)]
