"""`run -it`, `attach` and `exec -it` on real terminals: sizes, keys, several clients, clients that die.
Needs root."""

from __future__ import annotations

import os
import select
import shutil
import signal
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from runtime.shim import client
from tests.e2e.test_terminal import Terminal
from tests.kernel.hand_box import BUSYBOX, Hand, hand, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hand]:
    with hand(tmp_path_factory.mktemp("terminals")) as made:
        yield made


@contextmanager
def typed(box: Hand, *words: str) -> Iterator[Terminal]:
    """A command on a terminal of its own, 24 lines of 80 columns."""
    terminal = Terminal(*box.command(*words))
    try:
        yield terminal
    finally:
        terminal.close()


def test_a_shell_has_the_size_the_jobs_and_the_exit_code_of_a_terminal(box: Hand) -> None:
    with typed(box, "run", "--rm", "-it", "--name", "shell", BUSYBOX, "sh") as terminal:
        terminal.expect("# ")
        terminal.type("stty size\n")
        terminal.expect("24 80\r\n")
        terminal.size(33, 99)
        os.kill(terminal.pid, signal.SIGWINCH)
        terminal.expect("# ")
        terminal.type("until stty size | grep 33; do sleep 0.05; done\n")
        terminal.expect("33 99\r\n")
        for key, said in (("\x03", "130"), ("\x1c", "131"), ("\x1a", "148")):
            terminal.type("sh -c \"echo be''gun; exec sleep 1000\"\n")
            terminal.expect("begun\r\n")
            terminal.type(key)
            terminal.type("echo code $?.\n")
            terminal.expect(f"code {said}.")
        terminal.type("kill -9 %1; wait\nexit 3\nexit 3\n")
        assert terminal.ended() == 3
    assert box.phase("shell") == "gone"


def test_keys_leave_it_alone_and_attach_comes_back_with_several_clients(box: Hand) -> None:
    with typed(box, "run", "-it", "--name", "kept", BUSYBOX, "sh") as first:
        first.expect("# ")
        first.type("kept=42\n")
        first.expect("# ")
        first.type("\x10\x11")
        assert first.ended() == 0
    assert box.phase("kept") == "running"
    alone = _sockets(box, "kept")
    with typed(box, "attach", "kept") as one, typed(box, "attach", "--detach-keys", "ctrl-x", "kept") as two:
        until(lambda: _sockets(box, "kept") == alone + 2)
        one.type("echo is $kept\n")
        for terminal in (one, two):
            terminal.expect("is 42\r\n")
        two.type("\x18")
        assert two.ended() == 0
        one.type("exit 5\n")
        assert one.ended() == 5
    box.do("rm", "kept")


def test_a_client_whose_terminal_is_closed_or_that_is_killed_ends_nobody(box: Hand) -> None:
    with typed(box, "run", "-it", "--name", "survivor", BUSYBOX, "sh") as first:
        first.expect("# ")
    first.ended_somehow()
    alone = _sockets(box, "survivor")
    assert box.phase("survivor") == "running"
    with typed(box, "attach", "survivor") as second:
        until(lambda: _sockets(box, "survivor") > alone)
        os.kill(second.pid, signal.SIGKILL)
        second.ended_somehow()
    until(lambda: _sockets(box, "survivor") == alone)
    with typed(box, "attach", "survivor") as third:
        until(lambda: _sockets(box, "survivor") > alone)
        third.type("echo a''live; exit\n")
        third.expect("alive\r\n")
        assert third.ended() == 0
    box.do("rm", "survivor")


def test_exec_leaves_its_program_by_the_same_keys(box: Hand) -> None:
    box.do("run", "-d", "--name", "host", BUSYBOX, "sleep", "1000")
    with typed(box, "exec", "-it", "host", "sh") as terminal:
        terminal.expect("# ")
        terminal.type("trap 'echo hung up >/hup' HUP; while true; do sleep 0.05; done\n")
        terminal.expect("\r\n")
        terminal.type("\x10\x11")
        assert terminal.ended() == 0
    assert "trap" not in box.do("exec", "host", "ps")
    # ps has the shell as [sh] while it forks, and its child as one more until that is another program
    shells = ("exec", "host", "sh", "-c", "ps | grep -c '[s]h$'")
    assert any(box.run(*shells).out.strip() == "1" for _ in range(10))
    assert box.run("exec", "host", "cat", "/hup").code == 1
    box.do("rm", "-f", "host")


@pytest.mark.parametrize("words", [("attach",), ("start", "-a", "-i"), ("attach", "--sig-proxy=false")])
def test_a_client_on_a_terminal_ends_at_a_signal_by_itself_and_gives_the_terminal_back(
    box: Hand, words: tuple[str, ...]
) -> None:
    script = "trap 'echo told >/told' TERM; echo ready; while true; do sleep 0.05; done"
    box.do("create", "-it", "--name", "deaf", BUSYBOX, "sh", "-c", script)
    alone = 0
    if words[0] == "attach":
        box.do("start", "deaf")
        alone = _sockets(box, "deaf")
    with typed(box, *words, "deaf") as terminal:
        if words[0] == "attach":
            until(lambda: _sockets(box, "deaf") > alone)
        else:
            terminal.expect("ready")
        until(lambda: not _is_cooked(terminal))
        os.kill(terminal.pid, signal.SIGTERM)
        assert terminal.ended() == 128 + signal.SIGTERM and _is_cooked(terminal)
    assert box.phase("deaf") == "running" and box.run("exec", "deaf", "cat", "/told").code == 1
    box.do("rm", "-f", "deaf")


def _is_cooked(terminal: Terminal) -> bool:
    return bool(termios.tcgetattr(terminal.fd)[3] & termios.ICANON)


@pytest.mark.parametrize("verb", ["exec", "run"])
def test_a_large_paste_into_a_program_that_answers_each_line_goes_on(box: Hand, verb: str) -> None:
    """The program does not read while nobody takes what it says, and neither end may wait for the other."""
    repeat = 'stty raw -echo; echo ready; while read x; do echo "$x $x $x $x"; done'
    box.do("run", "-d", "--name", "paste", BUSYBOX, "sleep", "1000")
    where = ("paste",) if verb == "exec" else ("--rm", BUSYBOX)
    with typed(box, verb, "-it", *where, "sh", "-c", repeat) as terminal:
        terminal.expect("ready")
        pasted, heard = b"".join(b"%069d\n" % number for number in range(4000)), 0
        os.set_blocking(terminal.fd, False)
        left = memoryview(pasted)
        while heard < 4 * len(pasted):
            reads, writes, _ = select.select([terminal.fd], [terminal.fd] if left else [], [], 30)
            assert reads or writes, f"nothing moves: {len(left)} bytes are left, {heard} came"
            if reads:
                heard += len(os.read(terminal.fd, 65536))
            elif writes:
                with suppress(BlockingIOError):
                    left = left[os.write(terminal.fd, left[:4096]) :]
    terminal.ended_somehow()
    box.do("rm", "-f", "paste")


def _sockets(box: Hand, name: str) -> int:
    """Those of the container's shim: each client has one."""
    state = client.read_state(box.paths.live(box.row(name)["id"]))
    assert state is not None
    found = 0
    for fd in Path(f"/proc/{state.shim_pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since
            found += os.readlink(fd).startswith("socket:")
    return found
