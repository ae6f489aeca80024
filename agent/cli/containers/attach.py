"""Effects: `stead attach`: this terminal is that of a running container, until it ends or its keys are
typed."""

from __future__ import annotations

import json
import os
import time

from agent.cli.containers import leaving, session
from agent.cli.main import Problem, need_root
from runtime import attend

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    leaving.add_options(parser)
    parser.add_argument("--no-stdin", action="store_true", help="look only")
    parser.add_argument("name", metavar="NAME")


def run(options: argparse.Namespace, paths: Paths) -> int:
    need_root()
    keys = leaving.keys_of(options)
    record = attend.find(paths, options.name)
    if attend.live_state(paths, record) is None:
        raise Problem(
            f"cannot attach to {record.name}: it is not running; start it with `stead start -ai`", 1
        )
    request = json.loads(record.request)
    if request.get("tty") and not options.no_stdin and not os.isatty(0):
        # as docker: a script would wait for ever for a shell that nobody types in
        raise Problem("standard input is not a terminal; look only with --no-stdin", 1)
    code = session.Session(
        paths,
        record.id,
        stdin=not options.no_stdin and bool(request.get("stdin_open") or request.get("tty")),
        keys=keys,
        proxy=options.sig_proxy == "true" and not request.get("tty"),
        since=time.time_ns(),
    ).run()
    return 0 if code is None else code
