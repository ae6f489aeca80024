"""Effects: end every container of a root as a shutdown of the machine does: each gets its stop signal and its
grace period, and stays wanted. The next agent starts it again.

To be called while no agent runs, which would start them at once.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

from runtime.linux import pidfd
from runtime.paths import Paths
from runtime.shim import client

#: Seconds that a shim is given beyond the longest grace period of a container.
BEYOND = 15.0


def halt(paths: Paths) -> tuple[list[str], list[str]]:
    """Names of the containers that were ended, and of those that did not end in time. Repeatable."""
    try:
        ids = os.listdir(paths.run / "containers")
    except FileNotFoundError:
        return [], []
    found = [client.read_state(paths.live(id)) for id in ids]
    return end([state for state in found if state is not None and client.is_alive(state)])


def end(states: Sequence[client.State]) -> tuple[list[str], list[str]]:
    """As `halt`, for the containers of these shims."""
    for state in states:
        pidfd.kill(state.shim_pid, state.shim_start, signal.SIGTERM)
    deadline = time.monotonic() + BEYOND + max(map(client.grace, states), default=0.0)
    for state in states:
        _wait(state, deadline)
    late = {state.name for state in states if client.is_alive(state)}
    return sorted({state.name for state in states} - late), sorted(late)


def _wait(state: client.State, deadline: float) -> None:
    """Until the shim is gone."""
    try:
        fd = pidfd.open_pidfd(state.shim_pid)
    except OSError:
        return
    try:
        while client.is_alive(state) and (left := deadline - time.monotonic()) > 0:
            pidfd.wait(fd, min(left, 0.5))
    finally:
        os.close(fd)
