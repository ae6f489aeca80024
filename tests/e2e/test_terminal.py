"""`stead exec -it` on a real terminal: typed into, resized, interrupted, ended."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shutil
import signal
import struct
import sys
import termios
import time

import pytest

from tests.e2e.conftest import DEADLINE, Node

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, *words: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
            os.execv(words[0], words)
        self.seen = b""

    def size(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def expect(self, text: str) -> None:
        """Read until it appears after what was expected last."""
        deadline = time.monotonic() + DEADLINE
        while text.encode() not in self.seen:
            ready, _, _ = select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{text!r} did not come: {self.seen!r}"
            try:
                self.seen += os.read(self.fd, 4096)
            except OSError:  # EIO: the other side is closed
                raise AssertionError(f"{text!r} did not come before the end: {self.seen!r}") from None
        self.seen = self.seen.partition(text.encode())[2]

    def ended(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def ended_somehow(self) -> None:
        os.waitpid(self.pid, 0)

    def close(self) -> None:
        os.close(self.fd)


def test_a_shell_in_a_container_behaves_as_on_any_terminal(node: Node) -> None:
    node.write(MODE="one")
    node.stead("apply", str(node.specs))
    program = "from agent.cli.main import main; raise SystemExit(main())"
    roots = ("--root", str(node.base / "root"), "--run", str(node.base / "run"))
    terminal = Terminal(sys.executable, "-c", program, *roots, "exec", "-it", "web", "sh")
    try:
        terminal.expect("# ")
        terminal.size(33, 99)
        os.kill(terminal.pid, signal.SIGWINCH)
        terminal.type("echo $((6*7)); tty=$(readlink /proc/self/fd/0); echo on $tty\n")
        terminal.expect("42\r\n")
        terminal.expect("on /dev/pts/0")
        # the job speaks, so that the terminal is its: a key before that is the line editor's, or the shell's
        # own, which then waits for the job all the same
        terminal.type("sh -c \"echo be''gun; exec sleep 1000\"\n")
        terminal.expect("begun\r\n")
        terminal.type("\x03")
        terminal.expect("# ")
        terminal.type("exit 3\n")
        assert terminal.ended() == 3
    finally:
        terminal.close()


def test_a_terminal_that_is_none_is_said(node: Node) -> None:
    node.write(MODE="one")
    node.stead("apply", str(node.specs))
    assert "not a terminal" in node.stead("exec", "-it", "web", "sh", code=1)


def test_ps_shows_published_ports_and_inspect_finds_short_names(node: Node) -> None:
    node.write(MODE="one")
    node.stead("apply", str(node.specs))
    assert f"127.0.0.1:{node.port}->80/tcp" in node.stead("ps")
    assert '"bridge": "st' in node.stead("inspect", "network", "default")
    assert '"name": "default/web"' in node.stead("inspect", "container", "web")
