"""Lines that journald or syslog does not take: too large for a datagram, or not before the end."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.shim import client
from runtime.shim.messages import STDOUT
from tests.kernel.shim_box import Box, box, until
from tests.kernel.test_loggers import Journald, Writer


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journald]:
    made = Journald(tmp_path / "journal")
    yield made
    made.close()


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path) as made:
        yield made


@pytest.mark.parametrize("text", ["rfc3164", "rfc5424"])
def test_a_line_that_no_datagram_holds_goes_in_several(tmp_path: Path, text: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(f"{tmp_path}/log.sock")
        server.settimeout(0)
        address = f"unix://{tmp_path}/log.sock"
        writer = Writer(
            tmp_path / "log", {"driver": "syslog", "address": address, "tag": "web", "format": text}
        )
        got: list[bytes] = []

        def read() -> list[bytes]:
            writer.turn()
            try:
                got.append(server.recv(1 << 18))
            except BlockingIOError:
                pass
            return got

        writer.log.write(b"short\n", STDOUT)
        until(read)
        writer.log._sender._open().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)  # type: ignore[attr-defined]
        long = random.Random(1).randbytes(6000).hex().encode()
        writer.log.write(long + b"\nnext\n", STDOUT)
        until(lambda: read()[-1].endswith(b"next"))
        writer.close()
        assert all(b"web" in line and line.startswith(b"<30>") for line in got)
        separator = b" - " if text == "rfc5424" else b": "
        assert b"".join(line.rpartition(separator)[2] for line in got[1:-1]) == long
        assert len(got) > 3 and writer.log.dropped == 0


def test_a_line_whose_head_alone_is_too_large_is_left_out_and_counted(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        address = f"udp://127.0.0.1:{server.getsockname()[1]}"
        writer = Writer(tmp_path / "log", {"driver": "syslog", "address": address, "tag": "x" * 70_000})
        writer.log.write(b"one\ntwo\n", STDOUT)
        until(lambda: writer.turn() and writer.notes)
        assert writer.log.dropped == 6
        writer.close()


def test_what_a_logger_did_not_take_until_the_end_is_counted(
    tmp_path: Path, journald: Journald, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.shim.loggers.FAREWELL", 0.1)
    writer = Writer(tmp_path / "log", journald.document())
    lines = [b"%05d\n" % number for number in range(1000)]
    writer.log.write(b"".join(lines) + b"last", STDOUT)
    writer.log.run_ended()
    writer.close()
    taken = len(journald.read())
    assert 0 < taken < 1000
    assert writer.log.dropped == 6 * (1000 - taken) + 4
    after = Writer(tmp_path / "log", journald.document())  # where it is started again, that is sent after all
    until(lambda: after.turn() and journald.read()[-1] == b"last")
    assert after.log.dropped == 0
    assert {line + b"\n" for line in journald.read()} == {*lines, b"last\n"}
    after.close()
    assert after.log.dropped == 0


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_record_says_what_a_slow_logger_did_not_take(container: Box, journald: Journald) -> None:
    container.supervise["log"] = journald.document()
    container.spawn("i=0; while [ $i -lt 1000 ]; do echo line; i=$((i+1)); done", restart={"policy": "no"})
    until(lambda: (state := client.read_exit(container.bundle)) and state.log_dropped)
    taken = len(journald.read())
    assert 0 < taken < 1000
    state = client.read_exit(container.bundle)
    assert state is not None and (state.exit_code, state.log_dropped) == (0, 5 * (1000 - taken))
    assert "its logger did not take" in (container.bundle / "shim.log").read_text()
