"""Effects: `stead start`: containers run again. What a source declares is its source's matter again."""

from __future__ import annotations

import time

from agent.cli import calling
from agent.cli.containers import leaving, several
from agent.cli.containers.run import remove
from agent.cli.main import Problem, need_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-a", "--attach", action="store_true", help="show its output, and give its exit code")
    parser.add_argument("-i", "--interactive", action="store_true", help="pass standard input on, too")
    leaving.add_options(parser)
    parser.add_argument("names", nargs="+", metavar="NAME")


def run(options: argparse.Namespace, paths: Paths) -> int:
    if not (options.attach or options.interactive):
        return several.each(paths, "start", options.names)
    if len(options.names) > 1:
        raise Problem("cannot attach to several containers at once: name one", 1)
    need_root()
    import json

    from agent.cli.containers import session
    from runtime import attend

    keys = leaving.keys_of(options)
    record = attend.find(paths, options.names[0])
    request = json.loads(record.request)
    since = time.time_ns()
    calling.call(paths, "start", name=record.id)
    code = session.Session(
        paths,
        record.id,
        stdin=options.interactive and bool(request.get("stdin_open")),
        keys=keys,
        proxy=options.sig_proxy == "true" and not request.get("tty"),
        since=since,
        close_stdin=not request.get("tty"),
    ).run()
    if code is None:
        return 0
    if request.get("auto_remove") == "attended":
        remove(paths, record.id)
    return code
