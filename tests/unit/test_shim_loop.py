"""What a shim waits with."""

from __future__ import annotations

import os

import pytest

from runtime.shim.loop import Loop


@pytest.mark.parametrize("delay", [3e6, 1e10, float("inf")])
def test_a_timer_may_be_further_away_than_epoll_can_count(delay: float) -> None:
    loop = Loop()
    heard: list[bytes] = []
    reading, writing = os.pipe()
    loop.watch(reading, lambda: heard.append(os.read(reading, 1)))
    loop.after(delay, lambda: heard.append(b"late"))
    os.write(writing, b"x")
    loop.step()
    assert heard == [b"x"]
    loop.close()
    os.close(reading)
    os.close(writing)
