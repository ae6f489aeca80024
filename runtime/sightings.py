"""Effects: what is asked of many shims at every look, without reading it anew each time."""

from __future__ import annotations

import os
import resource
import select
import threading
import time

from runtime.shim import client


class Lives:
    """Whether shims live, asked of the kernel for all at once: reading /proc for each takes longer than the
    rest of a look. A descriptor each, of at most a quarter of those that this process may have; of further
    ones it is asked one by one. Thread-safe."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], int] = {}  # pid and start time -> pidfd
        self._lock = threading.Lock()
        self._most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4

    def refresh(self) -> None:
        """What is said from now on is of this moment or later."""
        with self._lock:
            poll = select.poll()
            for fd in self._known.values():
                poll.register(fd, select.POLLIN)
            ended = {fd for fd, _ in poll.poll(0)}
            for process in [process for process, fd in self._known.items() if fd in ended]:
                os.close(self._known.pop(process))

    def is_alive(self, state: client.State) -> bool:
        """As runtime.shim.client.is_alive."""
        process = (state.shim_pid, state.shim_start)
        with self._lock:
            if process in self._known:
                return True
            if state.shim_pid <= 0 or len(self._known) >= self._most:
                return client.is_alive(state)
            try:
                fd = os.pidfd_open(state.shim_pid)
            except OSError:
                return False
            if not client.is_alive(state):
                os.close(fd)
                return False
            self._known[process] = fd
            return True

    def forget_but(self, processes: set[tuple[int, int]]) -> None:
        with self._lock:
            for process in self._known.keys() - processes:
                os.close(self._known.pop(process))


#: ns; two files that were written within this time may have the same time of change, and the same number
_RACY = 100_000_000


class States:
    """What shims last wrote; a record is read again when another file is there. Thread-safe."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[int, int, int], client.State]] = {}

    def read(self, live_dir: str) -> client.State | None:
        """As runtime.shim.client.read_state."""
        try:
            found = os.stat(f"{live_dir}/state.json")
        except OSError:
            return None
        key = (found.st_ino, found.st_mtime_ns, found.st_size)
        known = self._known.get(live_dir)
        if known is not None and known[0] == key:
            return known[1]
        state = client.read_state(live_dir)
        if state is not None and time.time_ns() - found.st_mtime_ns > _RACY:
            self._known[live_dir] = (key, state)
        return state

    def forget_but(self, live_dirs: set[str]) -> None:
        for live_dir in self._known.keys() - live_dirs:
            self._known.pop(live_dir, None)
