"""A second hold on a container's output: who gives it waits for a holder that is slow to take it."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from runtime.shim import outputs

MANY = 40  # more than net.unix.max_dgram_qlen


def test_no_container_runs_without_a_hold_because_many_start_at_once(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as holder:
        holder.bind(str(tmp_path / outputs.SOCKET))
        reader, writer = os.pipe()
        senders = [
            threading.Thread(target=outputs.hold, args=(str(tmp_path), f"id{number}", (reader,)))
            for number in range(MANY)
        ]
        for sender in senders:
            sender.start()
        senders[-1].join(0.1)  # the queue is full by now, and nobody reads
        found = set()
        holder.settimeout(10)
        for _ in range(MANY):
            data, fds, _, _ = socket.recv_fds(holder, 100, 1)
            found.add(data)
            os.close(fds[0])
        for sender in senders:
            sender.join(10)
        os.close(reader)
        os.close(writer)
    assert found == {f"hold id{number}".encode() for number in range(MANY)}


def test_a_holder_that_takes_nothing_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "PATIENCE", 1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as holder:
        holder.bind(str(tmp_path / outputs.SOCKET))
        with pytest.raises(BlockingIOError):
            for _ in range(MANY * 100):
                outputs.send(str(tmp_path), b"hold x", ())


def test_without_a_holder_a_container_runs_without(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    outputs.hold(str(tmp_path), "x", (reader,))
    os.close(reader)
    os.close(writer)
