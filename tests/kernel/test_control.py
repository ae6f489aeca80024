"""The shim's socket when many hold it: what it is for still gets through. Needs root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from runtime.shim import client
from runtime.shim.control import MAX_BRIEF, MAX_CLIENTS, MAX_SESSIONS
from tests.kernel.shim_box import Box, box

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path) as made:
        yield made


@pytest.fixture
def null() -> Iterator[tuple[int, int, int]]:
    fd = os.open(os.devnull, os.O_RDWR)
    yield fd, fd, fd
    os.close(fd)


def test_processes_whose_clients_left_do_not_keep_a_stop_out(
    container: Box, null: tuple[int, int, int]
) -> None:
    container.spawn("sleep 1000")
    sleep = container.process("/bin/sleep", "1000")
    for _ in range(MAX_SESSIONS):
        client.exec_process(container.live, sleep, stdio=null).close()
    with pytest.raises(client.ShimError, match="64 further processes run"):
        client.exec_process(container.live, sleep, stdio=null)
    assert client.ping(container.live).phase == "running"
    client.stop(container.live, timeout=0)
    assert container.ended().exit_code == 137


def test_clients_that_stay_do_not_keep_a_stop_out(container: Box, null: tuple[int, int, int]) -> None:
    container.spawn("sleep 1000")
    with ExitStack() as stack:
        for _ in range(MAX_CLIENTS):
            stack.enter_context(client.attach(container.live, stdin=False))
        with pytest.raises(client.ShimError, match="64 clients are connected"):
            client.attach(container.live, stdin=False)
        with pytest.raises(client.ShimError, match="64 clients are connected"):
            client.exec_process(container.live, container.process("/bin/true"), stdio=null)
        for _ in range(2 * MAX_BRIEF):
            stack.enter_context(client._Connection(container.live)).ask({"op": "ping"})
        assert client.ping(container.live).phase == "running"
        client.stop(container.live, timeout=0)
        assert container.ended().exit_code == 137
