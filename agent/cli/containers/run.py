"""Effects: `stead run`: a container that no source declares is made and started; its program's exit code is
ours.

125: it could not be made or started, 126: its program cannot be executed, 127: there is no such program.
"""

from __future__ import annotations

import os
import re
import sys

from agent.cli import calling
from agent.cli.containers import create, leaving
from agent.cli.containers import options as all_options
from agent.cli.main import Problem, need_root
from runtime.faults import Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from runtime.paths import Paths

_CODE = re.compile(r"\(exit code (12[5-7])\)")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", "--detach", action="store_true", help="print its id, and leave it to itself")
    leaving.add_options(parser)
    all_options.add_options(parser)


def run(options: argparse.Namespace, paths: Paths) -> int:
    keys = leaving.keys_of(options)
    attached = _attached(options)
    if options.tty and options.interactive and not options.detach and not os.isatty(0):
        raise Problem("standard input is not a terminal: leave out -t", 1)  # as docker
    if not options.detach:
        need_root()  # its output is in files that nobody else may read
    try:
        removed = "" if not options.rm else "now" if options.detach else "attended"
        made = create.create(options, paths, auto_remove=removed)
        return _started(options, paths, made, keys, attached)
    except Fault as fault:
        print(f"stead: {fault}", file=sys.stderr)
        return code_of(fault)
    except Problem as problem:
        raise Problem(str(problem), 125) from problem


def _load_session() -> None:
    """What a session needs."""
    from agent.cli.containers import session as session


def _attached(options: argparse.Namespace) -> set[str]:
    """Of stdin, stdout and stderr those that are ours, too."""
    words = {word.lower() for word in options.attach}
    if words - {"stdin", "stdout", "stderr"}:
        raise Problem("cannot use --attach: write stdin, stdout or stderr", 125)
    if words and options.detach:
        raise Problem("cannot use --attach with --detach: leave one out", 125)
    return words or {"stdout", "stderr"} | ({"stdin"} if options.interactive else set())


def _started(
    options: argparse.Namespace, paths: Paths, made: dict[str, Any], keys: bytes, attached: set[str]
) -> int:
    try:
        meanwhile = None if options.detach else _load_session
        calling.call(paths, "start", meanwhile=meanwhile, name=made["id"])
    except Fault:
        if options.rm:
            calling.call(paths, "remove", name=made["id"], force=True, volumes=True)
        raise
    if options.detach:
        print(made["id"])
        return 0
    from agent.cli.containers import session

    code = session.Session(
        paths,
        made["id"],
        stdin=options.interactive and "stdin" in attached,
        keys=keys,
        proxy=options.sig_proxy == "true",
        close_stdin=not options.tty,
        streams=tuple(n for n, word in ((1, "stdout"), (2, "stderr")) if word in attached),
    ).run()
    if code is None:  # the container goes on without us
        return 0
    if options.rm:
        remove(paths, made["id"])
    return code


def remove(paths: Paths, id: str) -> None:
    """What has ended. Harmless where the agent was quicker, or somebody has started it again."""
    try:
        calling.call(paths, "remove", name=id, volumes=True)
    except Fault as fault:
        if fault.code not in ("container-not-found", "container-running"):
            raise


def code_of(fault: Fault) -> int:
    """As docker has it."""
    found = _CODE.search(fault.cause) if fault.code == "start-failed" else None
    return int(found[1]) if found else 125
