"""Terminals of containers and of exec sessions, and clients that are attached to one. Needs root."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import attend, logs
from runtime.shim import client
from tests.kernel.engine_box import PYTHON, Engine, engine, with_python
from tests.kernel.shim_box import until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("terminals")) as made:
        yield made


def session(box: Engine, name: str, *command: str, **options: object) -> client.Session:
    record = attend.find(box.paths, name)
    wanted = attend.ExecOptions(command, {}, tty=True, **options)  # type: ignore[arg-type]
    return client.exec_process(
        box.paths.live(record.id), attend.exec_process(box.paths, record, wanted), tty=True
    )


def read_until(fd: int, wanted: bytes) -> bytes:
    text = b""
    while wanted not in text:
        assert select.select([fd], [], [], 10)[0], text
        text += os.read(fd, 4096)
    return text


def to_end(fd: int) -> bytes:
    text = b""
    while select.select([fd], [], [], 10)[0]:
        try:
            data = os.read(fd, 4096)
        except OSError:  # EIO: nobody has the other end open
            break
        text += data
    return text


TERMINAL = """
import os, termios, fcntl
print(os.getsid(0) == os.getpid(), os.tcgetpgrp(0) == os.getpgrp(), os.ttyname(0), os.ttyname(2))
print(os.fstat(os.open("/dev/tty", os.O_RDWR)).st_rdev == os.makedev(5, 0))
found = os.fstat(0)
print(found.st_uid, found.st_gid, oct(found.st_mode & 0o777))
print(os.environ.get("TERM"))
"""


def test_a_container_with_a_terminal_is_a_session_that_controls_it(box: Engine) -> None:
    result = box.run(PYTHON, "-I", "-S", "-c", TERMINAL, tty=True, mounts=with_python(), user="web")
    assert result.text.split("\r\n") == [
        "True True /dev/pts/0 /dev/pts/0",
        "True",
        "1000 5 0o620",
        "xterm",
        "",
    ]
    assert result.errors == ""


def test_dev_console_is_the_terminal(box: Engine) -> None:
    result = box.run("echo here > /dev/console; stat -c %t:%T /dev/console; tty < /dev/console", tty=True)
    assert result.text.split("\r\n")[:2] == ["here", "88:0"]
    assert box.run("ls /dev/console").code == 1


def test_a_resize_reaches_the_program(box: Engine) -> None:
    name = box.start("trap 'stty size' WINCH; echo ready; while :; do sleep 0.02; done", tty=True)
    until(lambda: "ready" in box.output(name))
    with client.attach(box.live(name)) as attachment:
        attachment.resize(24, 80)
        until(lambda: "24 80" in box.output(name))
        attachment.resize(50, 132)
        until(lambda: "50 132" in box.output(name))
    box.runtime.remove_container(name)


def test_an_interrupt_typed_at_the_terminal_is_a_signal(box: Engine) -> None:
    name = box.start(
        "trap 'echo interrupted; exit 7' INT; echo ready; while :; do sleep 0.02; done", tty=True
    )
    until(lambda: "ready" in box.output(name))
    with client.attach(box.live(name)) as attachment:
        os.write(attachment.stdin, b"\x03")
        assert attachment.wait(10) == 7
    assert "interrupted" in box.output(name)
    box.runtime.remove_container(name)


def test_several_clients_write_to_one_container_and_read_all_it_says(box: Engine) -> None:
    name = box.start("while read line; do echo got $line; done; echo over", stdin_open=True)
    directory = box.home(name) / "log"
    with client.attach(box.live(name)) as first, client.attach(box.live(name)) as second:
        with client.attach(box.live(name), stdin=False) as third:
            assert third.stdin == -1
            os.write(first.stdin, b"one\n")
            until(lambda: "got one" in box.output(name))
            os.write(second.stdin, b"two\n")
            until(lambda: "got two" in box.output(name))
        first.close()
        os.write(second.stdin, b"three\n")
        until(lambda: "got three" in box.output(name))
        with client.attach(box.live(name), close_stdin=True) as last:
            last.close_stdin()
            assert last.wait(10) == 0
        assert second.wait(10) == 0
    read = [b"".join(data for _, _, data in logs.read(directory, raw=True, follow=True)) for _ in range(2)]
    assert read[0] == read[1] == b"got one\ngot two\ngot three\nover\n"
    box.runtime.remove_container(name)


def test_without_an_open_input_a_container_reads_an_end(box: Engine) -> None:
    assert box.run("cat; echo $?").text == "0\n"
    name = box.start("sleep 1000")
    with pytest.raises(client.ShimError, match="standard input is not open"):
        client.attach(box.live(name))
    box.runtime.remove_container(name)


def test_a_client_that_goes_away_disturbs_nothing(box: Engine) -> None:
    name = box.start("cat", stdin_open=True, tty=True)
    attachment = client.attach(box.live(name))
    os.write(attachment.stdin, b"word\n")
    until(lambda: "word\r\nword" in box.output(name))
    attachment.close()
    with client.attach(box.live(name)) as again:
        os.write(again.stdin, b"more\n")
        until(lambda: "more\r\nmore" in box.output(name))
        os.write(again.stdin, b"\x04")
        assert again.wait(10) == 0
    box.runtime.remove_container(name)


def test_exec_has_a_terminal_of_its_own_in_the_container(box: Engine) -> None:
    name = box.start("sleep 1000", mounts=with_python())
    with session(box, name, PYTHON, "-I", "-S", "-c", TERMINAL, user="web") as made:
        lines = to_end(made.master).decode().split("\r\n")
        assert made.wait(10) == 0
    assert lines == ["True True /dev/pts/0 /dev/pts/0", "True", "1000 5 0o620", "xterm", ""]
    with session(box, name, "sh") as first, session(box, name, "sh") as second:
        for made in (first, second):
            os.write(made.master, b"tty; readlink /proc/self/fd/0\n")
        assert b"/dev/pts/0" in read_until(first.master, b"/dev/pts/0")
        assert b"/dev/pts/1" in read_until(second.master, b"/dev/pts/1")
    box.runtime.remove_container(name)


def test_a_session_whose_client_hangs_up_gets_a_hangup(box: Engine) -> None:
    name = box.start("sleep 1000")
    made = session(
        box,
        name,
        "sh",
        "-c",
        "trap 'echo hung up > /tmp/hup; exit' HUP; echo ready; while :; do sleep 0.02; done",
    )
    read_until(made.master, b"ready")
    made.close()
    until((box.paths.rootfs(box.id(name)) / "tmp/hup").exists)
    box.runtime.remove_container(name)


def test_a_terminals_program_is_stopped_and_its_exit_code_told(box: Engine) -> None:
    name = box.start("sleep 1000", tty=True)
    pid = box.state(name).pid
    os.kill(pid, signal.SIGKILL)
    assert box.result(name).code == 137
    assert not Path(f"/proc/{pid}").exists()
    box.runtime.remove_container(name)
