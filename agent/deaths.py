"""Effects: hear at once when one of some processes ends. A killed shim tells nobody, and what its container
writes has no reader until another one is there.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection

#: processes that are watched, one descriptor each; the agent's periodic look finds the death of others
MOST = 400


class Deaths:
    """Only for the thread of `loop`, in which `heard` is called. pidfd_open(2)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, heard: Callable[[], None]) -> None:
        self._loop, self._heard = loop, heard
        self._watched: dict[int, int] = {}  # pid -> descriptor

    def watch(self, pids: Collection[int]) -> None:
        """These from now on, and no others. One that has ended already is passed over."""
        for pid in self._watched.keys() - set(pids):
            self._forget(pid)
        for pid in sorted(set(pids) - self._watched.keys())[: MOST - len(self._watched)]:
            try:
                fd = os.pidfd_open(pid)
            except OSError:
                continue
            self._watched[pid] = fd
            self._loop.add_reader(fd, self._ended, pid)

    def close(self) -> None:
        self.watch(())

    def _ended(self, pid: int) -> None:
        self._forget(pid)
        self._heard()

    def _forget(self, pid: int) -> None:
        fd = self._watched.pop(pid)
        self._loop.remove_reader(fd)
        os.close(fd)
