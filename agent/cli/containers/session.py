"""Effects: a container's input and output are those of this command, until it ends or somebody leaves.

Output comes from the files that its shim keeps, so that none is lost and any number of clients may look;
input goes through the shim's socket. Whatever becomes of this process, the container goes on.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from agent.cli.containers.detaching import Detacher
from agent.cli.main import Problem, unreadable_input
from runtime import logs
from runtime.shim import client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.paths import Paths

_CHUNK = 65536
#: Passed on to the container where --sig-proxy says so. SIGHUP is not: it ends us, and nobody else.
PROXIED = ("INT", "TERM", "QUIT", "USR1", "USR2", "CONT", "ALRM")
#: after so many of these in a row the command ends, whatever the container does: it may ignore them
_ENOUGH = 3
#: seconds that the shim of a container that has ended has to say so
_LAST = 10.0


class Session:
    """`attach` before anything may end it; `run` gives the exit code, None where somebody left."""

    def __init__(
        self,
        paths: Paths,
        id: str,
        *,
        stdin: bool,
        keys: bytes = b"",
        proxy: bool = True,
        since: int | None = None,
        close_stdin: bool = False,
        streams: tuple[int, ...] = (1, 2),
    ) -> None:
        self._home, self._live = paths.container(id), paths.live(id)
        self._stdin, self._proxy, self._since = stdin, proxy, since
        self._streams = streams
        self._close_stdin, self._detacher = close_stdin, Detacher(keys)
        self._attached: client.Attachment | None = None
        self._interrupts = 0
        self._left, self._leave = os.pipe2(os.O_CLOEXEC)

    def run(self) -> int | None:
        """Repeatable no more. The exit code of the run that was there, or came."""
        try:
            self._attached = client.attach(self._live, stdin=self._stdin, close_stdin=self._close_stdin)
        except client.ShimError as error:
            if client.read_exit(self._home) is None and error.stage != "unreachable":
                raise Problem(f"cannot attach: {error.message}", 1) from error
        attached = self._attached
        if attached is not None and attached.tty and self._stdin and os.isatty(0):
            from agent.cli.containers.terminal import Raw

            with Raw(self._resize):
                code = self._follow()
        else:
            code = self._follow()
        if code is None:
            print(
                "read escape sequence", file=sys.stderr
            )  # the terminal is ours again; the container goes on
        return code

    def _follow(self) -> int | None:
        if self._proxy:
            for name in PROXIED:
                signal.signal(getattr(signal, f"SIG{name}"), lambda *_, name=name: self._signal(name))
        if self._stdin and self._attached is not None:
            threading.Thread(target=self._feed, daemon=True).start()
        directory = self._home / "log"
        entries = logs.read(
            directory,
            since=self._since,
            follow=True,
            streams=self._streams,
            raw=True,
            ended=self._ended,
            wake=self._left,
        )
        for _, stream, data in entries:
            _write(2 if stream == 2 else 1, data)
        if self._detacher.detached:
            return None
        return self._code()

    def _ended(self) -> bool:
        gone = (self._home / "exit.json").exists() or not self._home.exists()
        return gone or self._detacher.detached or self._interrupts >= _ENOUGH

    def _code(self) -> int:
        if self._interrupts >= _ENOUGH:
            return 130
        if (state := client.read_exit(self._home)) is not None and state.exit_code is not None:
            return int(state.exit_code)
        try:  # somebody removed it
            code = self._attached.wait(_LAST) if self._attached is not None else None
        except client.ShimError:
            code = None
        return 137 if code is None else code

    # ------------------------------------------------------------ to the container

    def _feed(self) -> None:
        """Standard input, in a thread of its own: it may wait for ever, and so may the container."""
        attached = self._attached
        assert attached is not None
        if why := unreadable_input():
            print(f"stead: {why}", file=sys.stderr)
        while True:
            try:
                data = os.read(0, _CHUNK)
            except OSError:
                data = b""
            if not data:
                attached.close_stdin()
                return
            passed = self._detacher.feed(data) if attached.tty else data
            try:
                while passed:
                    passed = passed[os.write(attached.stdin, passed) :]
            except OSError:  # it reads no more
                return
            if self._detacher.detached:
                os.close(self._leave)
                return

    def _resize(self, rows: int, columns: int) -> None:
        if self._attached is not None:
            try:
                self._attached.resize(rows, columns)
            except client.ShimError:  # it has ended
                pass

    def _signal(self, name: str) -> None:
        """Of one that has ended there is nobody to be told."""
        if name in ("INT", "TERM"):
            self._interrupts += 1
        try:
            client.kill(self._live, f"SIG{name}")
        except client.ShimError:
            pass


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
