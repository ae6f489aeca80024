"""Effects: one thread waits for descriptors and deadlines and calls what belongs to them. epoll(7).

Smaller than selectors plus sched, which is why it is ours: every shim carries it. Times are those of
time.monotonic(). A call that raises ends the loop.
"""

from __future__ import annotations

import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
_MAX_EVENTS = 32
#: Seconds of one wait: epoll_wait(2) has milliseconds as an int, which is less than 25 days.
_LONGEST = 86400.0


class Timer:
    """A call at a time; `cancel` may be repeated and may come after the call."""

    __slots__ = ("at", "call")

    def __init__(self, at: float, call: Callable[[], object]) -> None:
        self.at, self.call = at, call


class Loop:
    def __init__(self) -> None:
        self._poll = select.epoll(flags=select.EPOLL_CLOEXEC)
        self._calls: dict[int, Callable[[], object]] = {}
        self._timers: list[Timer] = []
        self.ended = False

    def watch(self, fd: int, call: Callable[[], object], events: int = READ) -> None:
        """Call when `fd` is ready, or has an error or hang-up, until `forget`. Watching again replaces."""
        if fd in self._calls:
            self._poll.modify(fd, events)
        else:
            self._poll.register(fd, events)
        self._calls[fd] = call

    def forget(self, fd: int) -> None:
        """Must come before `fd` is closed. Repeatable."""
        if self._calls.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def after(self, delay: float, call: Callable[[], object]) -> Timer:
        timer = Timer(time.monotonic() + delay, call)
        self._timers.append(timer)
        return timer

    def cancel(self, timer: Timer | None) -> None:
        if timer in self._timers:
            self._timers.remove(timer)

    def run(self) -> None:
        """Until `ended` is set, or nothing is left to wait for."""
        while not self.ended and (self._calls or self._timers):
            self.step()

    def step(self, timeout: float | None = None) -> None:
        """One wait, at most `timeout` seconds, and the calls that it brings."""
        for fd, _ in self._poll.poll(self._pause(timeout), _MAX_EVENTS):
            call = self._calls.get(fd)
            if call is not None:  # an earlier call of this round may have forgotten it
                call()
        now = time.monotonic()
        for timer in [timer for timer in self._timers if timer.at <= now]:
            if timer in self._timers:
                self._timers.remove(timer)
                timer.call()

    def _pause(self, timeout: float | None) -> float | None:
        """Never less than what is left: epoll counts milliseconds, and waking early would spin."""
        if self._timers:
            first = max(0.0, min(timer.at for timer in self._timers) - time.monotonic() + 0.0005)
            timeout = min(first, _LONGEST) if timeout is None else min(first, timeout)
        return timeout

    def close(self) -> None:
        self._poll.close()
