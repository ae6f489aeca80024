"""Effects: `stead exec [-it] NAME COMMAND`: a program in a running container. Exits with the
program's code.
"""

from __future__ import annotations

import os
import select
import signal
import sys

from agent.cli.main import Problem, need_root
from runtime import attend
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
    parser.add_argument("-e", "--env", action="append", default=[], metavar="KEY=VALUE")
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
        environment=dict(entry.partition("=")[::2] for entry in options.env),
        working_dir=options.workdir,
        user=options.user,
        tty=options.tty,
    )
    process = attend.exec_process(paths, record, wanted)
    live = paths.live(record.id)
    try:
        return _terminal(live, process) if options.tty else _plain(live, process, options.interactive)
    except client.ShimError as error:
        raise Problem(f"cannot exec in {record.name}: {error.message}", error.exit_code) from error


def _plain(live: Path, process: dict[str, object], interactive: bool) -> int:
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    with client.exec_process(live, process, stdio=(0 if interactive else null, 1, 2)) as session:
        for number, name in ((signal.SIGINT, "SIGINT"), (signal.SIGTERM, "SIGTERM")):
            signal.signal(number, lambda *_, name=name: session.signal(name))
        return session.wait()


def _terminal(live: Path, process: dict[str, object]) -> int:
    """Bytes both ways between this terminal and the session's, until the program ends."""
    import termios
    import tty

    if not os.isatty(0):
        raise Problem("standard input is not a terminal; leave out -t", 2)
    before = termios.tcgetattr(0)
    with client.exec_process(live, process, tty=True) as session:

        def resize(*_: object) -> None:
            size = os.get_terminal_size(1 if os.isatty(1) else 0)
            session.resize(size.lines, size.columns)

        resize()
        signal.signal(signal.SIGWINCH, resize)
        tty.setraw(0)
        try:
            _copy(session.master)
            return session.wait()
        finally:
            termios.tcsetattr(0, termios.TCSAFLUSH, before)
            sys.stdout.flush()


def _copy(master: int) -> None:
    """Ends when the terminal's last user has closed it: EIO, or an end of file."""
    poll = select.poll()
    poll.register(master, select.POLLIN)
    poll.register(0, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            try:
                data = os.read(fd, _CHUNK)
            except OSError:
                data = b""
            if fd == master:
                if not data:
                    return
                os.write(1, data)
            elif data:
                os.write(master, data)
            else:
                poll.unregister(0)
