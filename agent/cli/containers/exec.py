"""Effects: `stead exec [-it] NAME COMMAND`: a program in a running container. Exits with the
program's code.
"""

from __future__ import annotations

import os
import select
import signal
import sys

from agent.cli.containers import leaving, words
from agent.cli.containers.detaching import Detacher
from agent.cli.main import Problem, need_root, unreadable_input
from runtime import attend
from runtime.faults import Fault
from runtime.shim import client

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from runtime.paths import Paths

_CHUNK = 65536


def add_options(parser: argparse.ArgumentParser) -> None:
    import argparse

    parser.add_argument("-i", "--interactive", action="store_true", help="pass standard input on")
    parser.add_argument("-t", "--tty", action="store_true", help="with a terminal")
    parser.add_argument("-d", "--detach", action="store_true", help="leave it to itself")
    parser.add_argument("-e", "--env", action="append", default=[], metavar="KEY[=VALUE]")
    parser.add_argument("--env-file", action="append", default=[], metavar="FILE", help="lines KEY=VALUE")
    parser.add_argument("--privileged", action="store_true", help="with every capability")
    text = "what leaves the program alone (ctrl-p,ctrl-q)"
    parser.add_argument("--detach-keys", default="ctrl-p,ctrl-q", metavar="KEYS", help=text)
    parser.add_argument("-u", "--user", default="", help="name or uid, with :group if need be")
    parser.add_argument("-w", "--workdir", default="", metavar="DIR")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")


def run(options: argparse.Namespace, paths: Paths) -> int:
    need_root()
    if not options.command:
        raise Problem("which command? example: stead exec web ls /", 2)
    record = attend.find(paths, options.name)
    wanted = attend.ExecOptions(
        command=tuple(options.command),
        environment=words.asked(options.env_file, options.env, os.environ, words.read),
        working_dir=options.workdir,
        user=options.user,
        tty=options.tty and not options.detach,
        privileged=options.privileged,
    )
    keys = leaving.keys_of(options) if options.tty else b""
    live = paths.live(record.id)
    try:
        process = attend.exec_process(paths, record, wanted)
        if options.detach:
            return _alone(live, process)
        if options.tty:
            return _terminal(live, process, keys, options.interactive)
        return _plain(live, process, options.interactive)
    except client.ShimError as error:
        code = 127 if error.exit_code == 127 else 126
        raise Problem(f"cannot exec in {record.name}: {error.message}", _code(options, code)) from error
    except Fault as fault:
        if fault.code != "request-invalid":  # there is no such user
            raise
        raise Problem(str(fault), _code(options, 126)) from fault


def _code(options: argparse.Namespace, code: int) -> int:
    """As docker has it: 126 and 127 stand where the program's own would."""
    return 1 if options.detach else code


def _alone(live: Path, process: dict[str, object]) -> int:
    """Nobody reads what it says, or hears how it ends."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        client.exec_process(live, process, stdio=(null, null, null)).close()
    finally:
        os.close(null)
    return 0


def _plain(live: Path, process: dict[str, object], interactive: bool) -> int:
    """Through pipes, never with our own streams: whoever holds a file or a terminal of the host may open it
    anew by /proc/self/fd, change its mode, and read on."""
    pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
    (input_end, to_input), (from_output, output_end), (from_errors, errors_end) = pipes
    try:
        session = client.exec_process(live, process, stdio=(input_end, output_end, errors_end))
    finally:
        for fd in (input_end, output_end, errors_end):
            os.close(fd)
    with session:
        for number, name in ((signal.SIGINT, "SIGINT"), (signal.SIGTERM, "SIGTERM")):
            signal.signal(number, lambda *_, name=name: session.signal(name))
        pump = _Pump(to_input, {from_output: 1, from_errors: 2})
        if interactive and (why := unreadable_input()):  # its end, as in docker, which says nothing
            print(f"stead: {why}", file=sys.stderr)
            interactive = False
        if not interactive:
            pump.end_input()
        pump.run(session.fileno())
        return session.wait()


class _Pump:
    """Standard input to the program, as fast as it reads; what it says to standard output and error."""

    def __init__(self, to_input: int, outputs: dict[int, int]) -> None:
        self._to_input, self._outputs = to_input, outputs
        self._kept = b""
        self._poll = select.poll()
        os.set_blocking(to_input, False)
        self._poll.register(0, select.POLLIN)
        for fd in outputs:
            self._poll.register(fd, select.POLLIN)

    def end_input(self) -> None:
        """The program reads an end of file. Repeatable."""
        if self._to_input >= 0:
            self._poll.unregister(self._to_input if self._kept else 0)
            os.close(self._to_input)
            self._to_input = -1

    def run(self, ended: int) -> None:
        """Until `ended` is readable and all that was said by then is written; what the program left running
        may hold its streams for ever."""
        self._poll.register(ended, select.POLLIN)
        last = False
        while True:
            ready = [fd for fd, _ in self._poll.poll(0 if last else None)]
            for fd in ready:
                if fd in self._outputs:
                    self._say(fd)
                elif fd != ended:
                    self._feed()
            if last and not any(fd in self._outputs for fd in ready):
                return
            if ended in ready:
                self._poll.unregister(ended)
                self.end_input()
                last = True

    def _say(self, fd: int) -> None:
        data = os.read(fd, _CHUNK)
        try:
            while data:
                data = data[os.write(self._outputs[fd], data) :]
                if not data:
                    return
        except BrokenPipeError:  # nobody reads us any more: let the program see that
            pass
        self._poll.unregister(fd)
        del self._outputs[fd]
        os.close(fd)

    def _feed(self) -> None:
        """One chunk is kept at most."""
        waited, data = bool(self._kept), self._kept or _read(0)
        if not data:
            self.end_input()
            return
        try:
            data = data[os.write(self._to_input, data) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:  # it reads no more
            self.end_input()
            return
        if bool(data) != waited:
            self._poll.unregister(self._to_input if waited else 0)
            self._poll.register(*((self._to_input, select.POLLOUT) if data else (0, select.POLLIN)))
        self._kept = data


def _terminal(live: Path, process: dict[str, object], keys: bytes, interactive: bool) -> int:
    """Bytes between this terminal and the session's, until the program ends or somebody leaves: both ways if
    `interactive`, else what comes from the program, which then needs no terminal here."""
    from agent.cli.containers.terminal import Raw

    if interactive and not os.isatty(0):
        raise Problem("standard input is not a terminal; leave out -t", 1)
    detacher = Detacher(keys)
    with client.exec_process(live, process, tty=True) as program:
        with Raw(program.resize, stdin=interactive):
            _copy(program.master, detacher, interactive)
        if not detacher.detached:
            return program.wait()
        os.set_blocking(program.master, True)
        _hold(program.master)
    print("read escape sequence", file=sys.stderr)  # the terminal is ours again; the program goes on
    return 0


def _hold(master: int) -> None:
    """A process of its own has the terminal until the program ends: else that would hang up, and end it."""
    if os.fork():
        return
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    try:
        while os.read(master, _CHUNK):
            pass
    except OSError:
        pass
    os._exit(0)


def _copy(master: int, detacher: Detacher, interactive: bool) -> None:
    """Ends when the terminal's last user has closed it: EIO, or an end of file; or at the keys.

    What is typed or pasted waits here until the program takes it, one chunk of it; meanwhile what the program
    says is read on, since it may read no more before somebody has taken that."""
    os.set_blocking(master, False)
    poll = select.poll()
    typing, kept = interactive, b""
    while not detacher.detached:
        poll.register(master, select.POLLIN | (select.POLLOUT if kept else 0))
        if typing and not kept:
            poll.register(0, select.POLLIN)
        for fd, events in poll.poll():
            if fd == 0:
                poll.unregister(0)
                data = _read(0)
                typing, kept = bool(data), detacher.feed(data)
            elif events & ~select.POLLOUT:
                if not (data := _read(master)):
                    return
                while data:
                    data = data[os.write(1, data) :]
        if kept:
            kept = kept[_put(master, kept) :]


def _read(fd: int) -> bytes:
    """Empty at its end."""
    try:
        return os.read(fd, _CHUNK)
    except OSError:
        return b""


def _put(master: int, data: bytes) -> int:
    """Bytes that the terminal took; all, where it has ended."""
    try:
        return os.write(master, data)
    except BlockingIOError:
        return 0
    except OSError:
        return len(data)
