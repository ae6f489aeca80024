"""Effects: the lock of a state directory. One agent, `stead apply` or `stead down` holds it at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.faults import Fault
from runtime.paths import Paths


@contextmanager
def hold(paths: Paths, who: str = "agent") -> Iterator[None]:
    """Hold the lock (flock) and write our pid and `who` into it. Raises Fault locked, which names the holder.

    The kernel drops the lock when the process dies, however it dies.
    """
    paths.make()
    fd = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid, name = holder(paths)
            told = f"the {name} with pid {pid} holds it" if pid else "another process holds it"
            cure = "stop it first, or change what its sources declare" if name == "agent" else "wait for it"
            raise Fault("locked", "lock", str(paths.root), told, cure) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()} {who}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def holder(paths: Paths) -> tuple[int, str]:
    """(pid, name) of who wrote the lock last; (0, "") when nobody did. It may have ended since."""
    try:
        pid, _, name = paths.lock.read_text().strip().partition(" ")
        return int(pid), name or "agent"
    except (OSError, ValueError):
        return 0, ""
