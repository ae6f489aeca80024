"""Effects: standard input, output and error of one run of a container, between its descriptors, log and
clients."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import termios
from functools import partial

from runtime.shim.logs import LogWriter
from runtime.shim.loop import READ, WRITE, Loop, Timer
from runtime.shim.messages import STDERR, STDOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: Bytes moved at once between terminals, clients and the log.
CHUNK = 65536
#: Turns at an output of a run that has ended: a process that escaped may write to it for ever.
DRAIN = 64
#: Seconds after which a terminal that nobody had open is looked at again.
REOPEN = 0.5


class Streams:
    """Pipes, or a terminal whose master the container's init hands over. The log takes all that comes out.

    `outputs` are those of a run that goes on, by descriptor with their stream; else `make` opens them.
    """

    def __init__(self, loop: Loop, log: LogWriter, outputs: Mapping[int, int] | None = None) -> None:
        self._loop, self._log = loop, log
        self._outputs = dict(outputs or {})
        self._stdin = self._master = -1
        self._pumps: list[Pump] = []
        self._handover: socket.socket | None = None
        self._theirs: list[int] = []
        self._again: Timer | None = None
        self.console: int | None = None
        self.stdio = (-1, -1, -1)

    def make(self, terminal: bool, stdin_open: bool) -> None:
        """Open what a run needs: `stdio` and `console` are for the fork, `started` closes them here. With a
        terminal, stdio is /dev/null until init replaces it."""
        null = self._given(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
        if terminal:
            self._handover, theirs = socket.socketpair()
            self._handover.setblocking(False)
            self.console = self._given(theirs.detach())
            self.stdio = (null, null, null)
        else:
            stdin = null
            if stdin_open:
                reader, self._stdin = os.pipe2(os.O_CLOEXEC)
                os.set_blocking(self._stdin, False)
                stdin = self._given(reader)
            self.stdio = (stdin, self._output(STDOUT), self._output(STDERR))

    def _given(self, fd: int) -> int:
        self._theirs.append(fd)
        return fd

    def _output(self, stream: int) -> int:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reader, False)
        self._outputs[reader] = stream
        return self._given(writer)

    def outputs(self) -> list[int]:
        """Descriptors of stdout and stderr, those that are still open."""
        return sorted(self._outputs, key=self._outputs.__getitem__)

    def started(self) -> None:
        """The fork is done: the container has its ends."""
        for fd in self._theirs:
            os.close(fd)
        self._theirs = []
        for fd in self._outputs:
            self._loop.watch(fd, partial(self._splice, fd))
        if self._handover is not None:
            self._loop.watch(self._handover.fileno(), self._receive_master)

    def close(self) -> None:
        """The run has ended: take what is still on the way, then close all. Repeatable."""
        self._receive_master()
        for fd in list(self._outputs):
            turns = DRAIN
            while turns and self._splice(fd):
                turns -= 1
            self._close_output(fd)
        turns = DRAIN
        while turns and self._read_master():
            turns -= 1
        self._log.on_room = None
        self._log.run_ended()
        for pump in self._pumps:
            pump.close()
        for fd in (*self._theirs, self._stdin):
            if fd >= 0:
                os.close(fd)
        self._theirs, self._stdin = [], -1
        self._close_master()

    def attach(self, source: int, *, close_stdin: bool) -> None:
        """Move what comes from `source` to the container, until its end; with `close_stdin` that is the end
        of the container's input too. Takes `source` over. OSError when the container takes no input."""
        target = self._master if self._master >= 0 else self._stdin
        if target < 0:
            os.close(source)
            raise OSError(9, "cannot attach: the container's standard input is not open")
        ended = self._close_stdin if close_stdin and self._master < 0 else None
        self._pumps = [pump for pump in self._pumps if not pump.closed]
        self._pumps.append(Pump(self._loop, source, os.dup(target), ended))

    def resize(self, rows: int, columns: int) -> None:
        """OSError when there is no terminal. ioctl_tty(2), TIOCSWINSZ."""
        if self._master < 0:
            raise OSError(25, "cannot resize: the container has no terminal")
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _splice(self, fd: int) -> bool:
        """Whether there may be more at once."""
        before = self._log.taken
        if not self._log.splice(fd, self._outputs[fd]):
            self._close_output(fd)
            return False
        if self._log.full:
            self._pause()
        return self._log.taken > before

    def _pause(self) -> None:
        """The logger cannot keep up: the program waits for it."""
        for fd in (*self._outputs, self._master):
            if fd >= 0:
                self._loop.forget(fd)
        self._log.on_room = self._resume

    def _resume(self) -> None:
        for fd in self._outputs:
            self._loop.watch(fd, partial(self._splice, fd))
        self._watch_master()

    def _close_output(self, fd: int) -> None:
        if self._outputs.pop(fd, None) is not None:
            self._loop.forget(fd)
            os.close(fd)

    def _close_stdin(self) -> None:
        """For every client: each of them holds the pipe open."""
        for pump in self._pumps:
            pump.close()
        if self._stdin >= 0:
            os.close(self._stdin)
            self._stdin = -1

    # -- terminal

    def _receive_master(self) -> None:
        if self._handover is None:
            return
        size = array.array("i").itemsize
        try:
            _, ancillary, _, _ = self._handover.recvmsg(
                4096, socket.CMSG_SPACE(size), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:
            ancillary = []
        self._loop.forget(self._handover.fileno())
        self._handover.close()
        self._handover = None
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self._master = array.array("i", data[:size])[0]
                os.set_blocking(self._master, False)
                self._watch_master()

    def _read_master(self) -> bool:
        """EIO is a terminal's end of file: nobody has the other end open any more."""
        if self._master < 0:
            return False
        try:
            data = os.read(self._master, CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if data:
            self._log.write(data, STDOUT)
            if self._log.full:
                self._pause()
            return True
        self._loop.forget(self._master)  # it would be ready for ever; the program may open /dev/tty again
        self._again = self._loop.after(REOPEN, self._watch_master)
        return False

    def _watch_master(self) -> None:
        if self._master >= 0:
            self._loop.watch(self._master, self._read_master)

    def _close_master(self) -> None:
        self._loop.cancel(self._again)
        if self._handover is not None:
            self._loop.forget(self._handover.fileno())
            self._handover.close()
            self._handover = None
        if self._master >= 0:
            self._loop.forget(self._master)
            os.close(self._master)
            self._master = -1


class Pump:
    """Bytes from a client to the container; keeps at most one chunk, so a program that does not read stops
    the client and nothing else."""

    def __init__(self, loop: Loop, source: int, target: int, ended: object) -> None:
        self._loop, self._source, self._target, self._ended = loop, source, target, ended
        self._kept = b""
        self.closed = False
        os.set_blocking(source, False)
        loop.watch(source, self._read, READ)

    def _read(self) -> None:
        try:
            data = os.read(self._source, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._write(data)
        else:
            self.close()
            if callable(self._ended):
                self._ended()

    def _write(self, data: bytes) -> None:
        try:
            data = data[os.write(self._target, data) :]
        except BlockingIOError:
            pass
        except OSError:  # the program closed its input
            self.close()
            return
        if data and not self._kept:
            self._loop.forget(self._source)
            self._loop.watch(self._target, self._more, WRITE)
        elif self._kept and not data:
            self._loop.forget(self._target)
            self._loop.watch(self._source, self._read, READ)
        self._kept = data

    def _more(self) -> None:
        self._write(self._kept)

    def close(self) -> None:
        """Repeatable."""
        if not self.closed:
            self.closed = True
            self._loop.forget(self._source)
            self._loop.forget(self._target)
            os.close(self._source)
            os.close(self._target)
