"""Output that goes on to journald and syslog, to sockets of our own in their place."""

from __future__ import annotations

import array
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import logs
from runtime.faults import Fault
from runtime.linux import pidfd
from runtime.loggers import _syslog_address
from runtime.shim import client
from runtime.shim.loggers import SENT, open_log
from runtime.shim.logs import file_numbers
from runtime.shim.loop import Loop
from runtime.shim.messages import INDEX_RECORD, STDERR, STDOUT
from runtime.wishes import LoggerRequest
from tests.kernel.engine_box import engine
from tests.kernel.shim_box import Box, box, spawn, until

FIELDS = {"CONTAINER_NAME": "shop/web", "CONTAINER_ID": "0123", "CONTAINER_TAG": "a\nb", "EMPTY": ""}


class Journald:
    """What systemd-journald is for a client: a datagram socket. `entries` are those that came."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(0)
        self.entries: list[dict[str, list[bytes]]] = []

    def document(self, **more: Any) -> dict[str, Any]:
        return {"driver": "journald", "address": str(self.path), "fields": FIELDS, **more}

    def read(self) -> list[bytes]:
        """All messages that have come so far."""
        while True:
            try:
                data, ancillary, _, _ = self.socket.recvmsg(1 << 18, socket.CMSG_SPACE(4))
            except BlockingIOError:
                return [entry["MESSAGE"][0] for entry in self.entries]
            for _, _, rights in ancillary:
                fd = array.array("i", rights)[0]
                with os.fdopen(fd, "rb") as file:
                    file.seek(0)
                    data = file.read()
            self.entries.append(decoded(data))

    def close(self) -> None:
        self.socket.close()
        self.path.unlink()


def decoded(data: bytes) -> dict[str, list[bytes]]:
    """The fields of an entry, by https://systemd.io/JOURNAL_NATIVE_PROTOCOL/."""
    found: dict[str, list[bytes]] = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            length = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + length], rest[9 + length :]
        found.setdefault(name.decode(), []).append(value)
        data = rest
    return found


class Writer:
    """A log that forwards, with the loop that it lives in."""

    def __init__(self, directory: Path, document: dict[str, Any], max_size: int = 1 << 20, files: int = 3):
        self.loop = Loop()
        self.notes = 0
        self.log = open_log(document, str(directory), (max_size, files), self.loop, self._noted)

    def _noted(self) -> None:
        self.notes += 1

    def turn(self) -> bool:
        self.loop.step(0.002)
        return True

    def close(self) -> None:
        self.log.close()
        self.loop.close()


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journald]:
    made = Journald(tmp_path / "journal")
    yield made
    made.close()


# ---------------------------------------------------------------- journald


def test_each_line_is_an_entry_with_dockers_fields(tmp_path: Path, journald: Journald) -> None:
    writer = Writer(tmp_path / "log", journald.document())
    writer.log.write(b"one\ntwo", STDOUT)
    writer.log.write(b"bad\n\n", STDERR)
    writer.log.write(b" thirds\n", STDOUT)
    assert journald.read() == [b"one", b"bad", b"", b"two thirds"]
    first = journald.entries[0]
    assert first["CONTAINER_NAME"] == [b"shop/web"] and first["CONTAINER_TAG"] == [b"a\nb"]
    assert "EMPTY" not in first and "CONTAINER_PARTIAL_MESSAGE" not in first
    assert [entry["PRIORITY"] for entry in journald.entries] == [[b"6"], [b"3"], [b"3"], [b"6"]]
    (at, _, _), *_ = logs.read(tmp_path / "log")
    assert first["SYSLOG_TIMESTAMP"] == [logs.format_time(at).encode()]
    writer.close()


def test_a_long_line_is_several_entries_and_says_so(tmp_path: Path, journald: Journald) -> None:
    writer = Writer(tmp_path / "log", journald.document())
    writer.log.write(b"x" * 40_000 + b"\nend\n", STDOUT)
    assert [len(data) for data in journald.read()] == [16384, 16384, 40_000 - 2 * 16384, 3]
    partial = ["CONTAINER_PARTIAL_MESSAGE" in entry for entry in journald.entries]
    assert partial == [True, True, False, False]
    writer.close()


def test_an_entry_that_no_datagram_holds_comes_as_a_sealed_file(tmp_path: Path, journald: Journald) -> None:
    document = journald.document()
    document["fields"] = {"LABELS": "y" * 400_000}
    writer = Writer(tmp_path / "log", document)
    writer.log.write(b"hello\n", STDOUT)
    assert journald.read() == [b"hello"]
    assert journald.entries[0]["LABELS"] == [b"y" * 400_000]
    writer.close()


def test_a_line_without_an_end_is_sent_when_its_run_ends(tmp_path: Path, journald: Journald) -> None:
    writer = Writer(tmp_path / "log", journald.document())
    writer.log.write(b"prompt> ", STDOUT)
    assert journald.read() == []
    writer.log.run_ended()
    writer.log.write(b"next\n", STDOUT)
    assert journald.read() == [b"prompt> ", b"next"]
    writer.close()


# ---------------------------------------------------------------- slow, absent, killed


def test_a_slow_logger_makes_the_writer_wait_and_loses_nothing(tmp_path: Path, journald: Journald) -> None:
    writer = Writer(tmp_path / "log", journald.document(), max_size=1 << 14)
    expected = []
    while not writer.log.full:
        expected.append(b"line %d" % len(expected))
        writer.log.write(expected[-1] + b"\n", STDOUT)
    assert writer.log.dropped == 0
    called = []
    writer.log.on_room = lambda: called.append(True)
    until(lambda: writer.turn() and journald.read() and called)
    assert not writer.log.full
    until(lambda: writer.turn() and len(journald.read()) >= len(expected))
    assert journald.read() == expected
    writer.close()


def test_a_writer_that_waits_goes_on_when_the_logger_goes_away(tmp_path: Path, journald: Journald) -> None:
    writer = Writer(tmp_path / "log", journald.document())
    while not writer.log.full:
        writer.log.write(b"x" * 1000 + b"\n", STDOUT)
    called = []
    writer.log.on_room = lambda: called.append(True)
    for _ in range(300):  # it took some, and not as much as makes room
        journald.socket.recv(1 << 18)
        writer.turn()
    assert not called
    journald.socket.close()
    until(lambda: writer.turn() and called)
    assert not writer.log.full
    writer.close()


def test_of_two_files_one_is_left_for_the_logger(tmp_path: Path, journald: Journald) -> None:
    """One file, and a chunk that fills it: rotation must not take it before it is sent."""
    writer = Writer(tmp_path / "log", journald.document(), max_size=1 << 12, files=1)
    reader, pipe = os.pipe2(os.O_NONBLOCK)
    expected = [b"line %04d" % number for number in range(2000)]
    os.write(pipe, b"\n".join([*expected, b""]))
    os.close(pipe)

    def all_is_taken() -> bool:
        writer.turn()
        journald.read()
        return not writer.log.full and not writer.log.splice(reader, STDOUT)

    until(all_is_taken)
    until(lambda: writer.turn() and journald.read()[-1:] == expected[-1:])
    assert journald.read() == expected
    assert writer.log.dropped == 0
    os.close(reader)
    writer.close()


def test_in_non_blocking_mode_the_oldest_give_way_and_are_counted(tmp_path: Path, journald: Journald) -> None:
    document = journald.document(mode="non-blocking", buffer=16384)
    writer = Writer(tmp_path / "log", document)
    count = 0
    while writer.log.dropped == 0:
        writer.log.write(b"line %07d\n" % count, STDOUT)
        assert not writer.log.full
        count += 1
    for _ in range(100):
        writer.log.write(b"line %07d\n" % count, STDOUT)
        count += 1
    last = b"line %07d" % (count - 1)
    until(lambda: writer.turn() and journald.read()[-1:] == [last])
    got = journald.read()
    assert got == sorted(set(got))
    lost = (count - len(got)) * len(b"line 0000000\n")
    assert 0 < lost <= writer.log.dropped < lost + 16384
    until(lambda: writer.turn() and writer.notes)
    writer.close()


def test_a_logger_that_is_gone_stops_nobody_and_is_found_again(tmp_path: Path) -> None:
    away = {"driver": "journald", "address": str(tmp_path / "journal"), "fields": FIELDS}
    writer = Writer(tmp_path / "log", away, max_size=1 << 14)
    for number in range(20_000):
        writer.log.write(b"line %07d\n" % number, STDOUT)
        assert not writer.log.full
    assert writer.log.dropped > 0
    journald = Journald(tmp_path / "journal")
    until(lambda: writer.turn() and journald.read()[-1:] == [b"line %07d" % 19_999])
    got = journald.read()
    assert len(set(got)) == len(got)
    writer.close()
    journald.close()


def test_a_successor_goes_on_where_the_killed_one_was(tmp_path: Path, journald: Journald) -> None:
    """Killed at random: its descriptors are closed, and nothing else is done."""
    dice = random.Random(7)
    expected, said = [], b""
    for _ in range(20):
        writer = Writer(tmp_path / "log", journald.document(), max_size=1 << 16)
        for _ in range(dice.randrange(40)):
            line = b"%d %s" % (len(expected), b"x" * dice.randrange(300))
            expected.append(line)
            said += line + b"\n"
            cut = dice.randrange(len(said) + 1)
            writer.log.write(said[:cut], STDOUT)
            said = said[cut:]
            if dice.random() < 0.2:
                journald.read()
        writer.log.write(said, STDOUT)
        said = b""
        writer.log._queue.close()  # type: ignore[attr-defined]
        writer.log._sender.close()  # type: ignore[attr-defined]
        writer.loop.close()
    writer = Writer(tmp_path / "log", journald.document(), max_size=1 << 16)
    until(lambda: writer.turn() and journald.read()[-1:] == expected[-1:])
    got = journald.read()
    assert list(dict.fromkeys(got)) == expected
    writer.close()


@pytest.mark.parametrize("files", [0, 2])
def test_after_a_power_cut_all_that_is_new_is_sent(tmp_path: Path, journald: Journald, files: int) -> None:
    """What was sent is on disk; of the log, the last part or the last `files` are not."""
    writer = Writer(tmp_path / "log", journald.document(), max_size=1 << 12)
    for number in range(1500):
        writer.log.write(b"line %04d\n" % number, STDOUT)
        journald.read()
    writer.close()
    numbers = file_numbers(tmp_path / "log")
    for number in numbers[len(numbers) - files :]:
        (tmp_path / f"log/{number}.log").unlink()
        (tmp_path / f"log/{number}.idx").unlink()
    if not files:
        os.truncate(tmp_path / f"log/{numbers[-1]}.idx", INDEX_RECORD.size)
        os.truncate(tmp_path / f"log/{numbers[-1]}.log", len(b"line 0000\n"))
    journald.entries.clear()
    writer = Writer(tmp_path / "log", journald.document(), max_size=1 << 12)
    expected = [b"new %d" % number for number in range(5)]
    for line in expected:
        writer.log.write(line + b"\n", STDOUT)
    until(lambda: writer.turn() and journald.read()[-1:] == expected[-1:])
    assert journald.read() == expected
    assert writer.log.dropped == 0
    writer.close()


def test_what_another_logger_took_before_is_not_sent(tmp_path: Path, journald: Journald) -> None:
    from runtime.shim.logs import LogWriter

    files = LogWriter(str(tmp_path / "log"), 1 << 20, 3)
    files.write(b"old\n", STDOUT)
    files.close()
    writer = Writer(tmp_path / "log", journald.document())
    writer.log.write(b"new\n", STDOUT)
    assert journald.read() == [b"new"]
    assert (tmp_path / "log" / SENT).exists()
    writer.close()


# ---------------------------------------------------------------- syslog


MOMENT = r"[A-Z][a-z]{2} [ 0-9]\d \d\d:\d\d:\d\d"


@pytest.mark.parametrize(
    ("scheme", "text", "pattern"),
    [
        ("unix", "", rf"<27>{MOMENT} web\[\d+\]: bad"),
        ("udp", "rfc3164", rf"<27>{MOMENT} node1 web\[\d+\]: bad"),
        ("udp", "rfc5424", r"<27>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ node1 web \d+ web - bad"),
        ("udp", "rfc5424micro", r"<27>1 [^ ]*:\d\d\.\d{6}Z node1 web \d+ web - bad"),
        ("tcp", "", rf"<27>{MOMENT} web\[\d+\]: bad\n<30>{MOMENT} web\[\d+\]: good\n"),
        (
            "tcp",
            "rfc5424",
            r"\d+ <27>1 [^ ]*Z node1 web \d+ web - bad\d+ <30>1 [^ ]*Z node1 web \d+ web - good",
        ),
    ],
)
def test_syslog_has_these_bytes(tmp_path: Path, scheme: str, text: str, pattern: str) -> None:
    import re

    kind = socket.SOCK_STREAM if scheme == "tcp" else socket.SOCK_DGRAM
    server = socket.socket(socket.AF_UNIX if scheme == "unix" else socket.AF_INET, kind)
    server.bind(str(tmp_path / "log.sock") if scheme == "unix" else ("127.0.0.1", 0))
    if scheme == "tcp":
        server.listen()
    server.settimeout(30)
    address = (
        f"unix://{tmp_path}/log.sock"
        if scheme == "unix"
        else f"{scheme}://127.0.0.1:{server.getsockname()[1]}"
    )
    document = {
        "driver": "syslog",
        "address": address,
        "tag": "web",
        "facility": 3,
        "format": text,
        "host": "node1",
    }
    writer = Writer(tmp_path / "log", document)
    writer.log.write(b"bad\n", STDERR)
    writer.log.write(b"good\n", STDOUT)
    if scheme == "tcp":
        peer, _ = server.accept()
        writer.close()
        with peer:
            got = b"".join(iter(lambda: peer.recv(4096), b""))
    else:
        got = server.recv(4096)
        assert server.recv(4096).endswith(b"good")
        writer.close()
    assert re.fullmatch(pattern, got.decode())
    if text == "rfc5424" and scheme == "tcp":
        length, _, rest = got.partition(b" ")
        assert rest[: int(length)].endswith(b"bad")
    server.close()


def test_a_syslog_that_is_restarted_misses_no_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        writer = Writer(tmp_path / "log", {"driver": "syslog", "address": address, "tag": "web"})
        writer.log.write(b"one\n", STDOUT)
        peer, _ = server.accept()
        with peer:
            until(lambda: writer.turn() and peer.recv(4096, socket.MSG_DONTWAIT).endswith(b": one\n"))
        for line in (b"two\n", b"three\n"):
            writer.log.write(line, STDOUT)
        server.setblocking(False)
        found = []

        def comes() -> bool:
            writer.turn()
            try:
                found.append(server.accept()[0])
            except BlockingIOError:
                pass
            return bool(found)

        until(comes)
        writer.close()
        with found[0] as peer:
            peer.setblocking(True)
            got = b"".join(iter(lambda: peer.recv(4096), b""))
    assert [line.rpartition(b": ")[2] for line in got.splitlines()] == [b"two", b"three"]


def test_a_syslog_that_takes_no_connection_holds_up_no_start(tmp_path: Path) -> None:
    path, found = str(tmp_path / "log.sock"), list[str]()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(0)
        for count in range(1, 4):
            look = threading.Thread(
                target=lambda: found.append(_syslog_address("web", f"unix://{path}")), daemon=True
            )
            look.start()
            look.join(10)
            assert found == [f"unix-stream://{path}"] * count


# ---------------------------------------------------------------- under a shim


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path) as made:
        yield made


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_program_waits_for_a_slow_logger_in_blocking_mode_only(
    container: Box, tmp_path: Path, journald: Journald
) -> None:
    script = "i=0; while [ $i -lt 2000 ]; do echo $i $LONG; i=$((i+1)); done"
    container.supervise["log"] = journald.document()
    container.config["process"]["env"].append("LONG=" + "x" * 190)
    container.spawn(script, log_max_size=65536)
    sizes: list[int] = []

    def stands_still() -> bool:
        sizes.append(len(container.output()))
        return sizes[-1] > 65536 and len(sizes) > 30 and len(set(sizes[-30:])) == 1

    until(stands_still, 40.0)
    assert client.read_exit(container.bundle) is None
    assert sizes[-1] < 2000 * 180
    until(lambda: journald.read() and client.read_exit(container.bundle), 40.0)
    until(lambda: len(journald.read()) == 2000, 40.0)
    assert [int(line.split()[0]) for line in journald.read()] == list(range(2000))
    assert container.ended().log_dropped == 0


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_nothing_that_was_written_is_lost_when_the_shim_is_killed(container: Box, journald: Journald) -> None:
    container.supervise["log"] = journald.document()
    script = "i=0; while [ $i -lt 1000000 ]; do echo $i; i=$((i+1)); done"
    state = container.spawn(script, log_max_size=4096)
    until(lambda: len(journald.read()) > 100)
    os.kill(state.shim_pid, signal.SIGKILL)
    until(lambda: not pidfd.is_alive(state.shim_pid, state.shim_start))
    container.host.kill(container.cgroup)
    written = [int(line) for line in container.output().split(b"\n")[:-1]]
    container.script("echo again; sleep 1000")
    spawn_again(container)
    until(lambda: b"again" in journald.read(), 40.0)
    got = [int(line) for line in journald.read() if line.isdigit()]
    assert set(written) <= set(got)


def spawn_again(container: Box) -> None:
    import json

    (container.bundle / "config.json").write_text(json.dumps(container.config))
    spawn(container.zygote, container.bundle, container.live)
    container.state()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_with_no_logger_at_all_the_program_writes_and_nothing_is_kept(container: Box) -> None:
    container.supervise["log"] = {"driver": "none"}
    container.spawn("head -c 3000000 /dev/zero; echo done >/proc/self/fd/2; exit 5")
    assert container.ended().exit_code == 5
    assert container.ended().log_dropped == 0
    assert not (container.bundle / "log").exists()
    assert time.time() - container.ended().finished_at < 60


# ---------------------------------------------------------------- from the request on


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_request_says_where_output_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(tmp_path / "box") as made:
        monkeypatch.setattr("runtime.loggers.JOURNAL", str(tmp_path / "journal"))
        asked = LoggerRequest("journald", tag="{{.Name}}/{{.ImageName}}")
        name = made.create("echo hello; echo bad >&2; exit 3", logger=asked)
        with pytest.raises(Fault, match=r"journald does not answer at .*: no such file") as fault:
            made.runtime.start_container(name)
        assert fault.value.code == "logger-unavailable"
        journald = Journald(tmp_path / "journal")
        made.runtime.start_container(name)
        made.result(name)
        until(lambda: sorted(journald.read()) == [b"bad", b"hello"])
        entry = journald.entries[0]
        assert entry["CONTAINER_NAME"] == [name.encode()]
        assert entry["CONTAINER_ID_FULL"] == [made.id(name).encode()]
        assert entry["SYSLOG_IDENTIFIER"][0].startswith(name.encode() + b"/")
        assert made.output(name) == "hello\n"
        journald.close()
        silent = made.start("echo hello; sleep 1000", logger=LoggerRequest("none"))
        shown = subprocess.run(made.stead("logs", silent), capture_output=True, text=True, check=False)
        assert (shown.returncode, shown.stdout) == (1, "")
        assert "its logging driver is none" in shown.stderr
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            path = tmp_path / f"syslog{int(kind)}"
            server = socket.socket(socket.AF_UNIX, kind)
            server.bind(str(path))
            server.settimeout(30)
            if kind == socket.SOCK_STREAM:
                server.listen()
            asked = LoggerRequest("syslog", tag="t", address=f"unix://{path}", facility=16)
            made.start("echo hello", logger=asked)
            while kind == socket.SOCK_STREAM:  # the first was a look whether it is there
                peer, _ = server.accept()
                peer.settimeout(30)
                with peer:
                    if got := peer.recv(4096):
                        break
            else:
                got = server.recv(4096)
            assert got.startswith(b"<134>") and got.rstrip().endswith(b": hello")
            server.close()


JOURNALD = "/lib/systemd/systemd-journald"
#: A journald of its own, in a mount namespace of its own, and what it shows of a container.
SCRIPT = """
import json, subprocess, sys, time
from pathlib import Path
from runtime.wishes import LoggerRequest
from tests.kernel.engine_box import engine
from tests.kernel.shim_box import until

Path("/run/systemd/journal").mkdir(parents=True)
Path("/run/log/journal").mkdir(parents=True)
journald = subprocess.Popen([JOURNALD], stderr=subprocess.DEVNULL)
try:
    until(Path("/run/systemd/journal/socket").exists)
    with engine(Path(sys.argv[1])) as made:
        script = "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; echo bad >&2"
        name = made.start(script, logger=LoggerRequest("journald", tag="{{.Name}}"))
        made.result(name)

        def shown():
            words = ["journalctl", "-o", "json", "--no-pager", f"CONTAINER_NAME={name}"]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            return [json.loads(line) for line in done.stdout.splitlines()]

        until(lambda: len(shown()) >= 2001, 20.0)
        entries = shown()
        said = [entry["MESSAGE"] for entry in entries if entry["PRIORITY"] == "6"]
        assert said == [f"line {number}" for number in range(2000)], said[:5]
        (bad,) = [entry for entry in entries if entry["PRIORITY"] == "3"]
        assert (bad["MESSAGE"], bad["CONTAINER_TAG"], bad["SYSLOG_IDENTIFIER"]) == ("bad", name, name)
finally:
    journald.terminate()
    journald.wait(20)
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.skipif(not os.path.exists(JOURNALD), reason="needs systemd-journald")
def test_a_real_journald_has_each_line_once_and_in_order(tmp_path: Path) -> None:
    code = f"JOURNALD = {JOURNALD!r}\n{SCRIPT}"
    program = f'mount -t tmpfs tmpfs /run && exec "{sys.executable}" -c "$0" "$1"'
    command = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        program,
        code,
        str(tmp_path / "box"),
    ]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
