"""Effects: `stead logs NAME`: what a container wrote, its standard error to ours."""

from __future__ import annotations

import sys
import time

from runtime import attend, logs

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what comes")
    parser.add_argument("--since", metavar="TIME", help="RFC 3339, seconds since 1970, or how long ago: 10m")
    parser.add_argument("--until", metavar="TIME", help="only what came before, written as for --since")
    parser.add_argument("-n", "--tail", metavar="N", default="all", help="only the last N lines, or all")
    parser.add_argument("-t", "--timestamps", action="store_true", help="UTC time before each line")
    text = "further attributes before each line: our own log has none, so a blank"
    parser.add_argument("--details", action="store_true", help=text)


def run(options: argparse.Namespace, paths: Paths) -> int:
    directory = attend.log_directory(paths, options.name)
    _must_be_kept(paths, options.name)
    now = time.time()
    since = None if options.since is None else moment(options.since, now)
    until = None if options.until is None else moment(options.until, now)
    outputs = {1: sys.stdout.buffer, 2: sys.stderr.buffer}
    tail = _lines(options.tail)
    for at, stream, line in logs.read(directory, since=since, until=until, tail=tail, follow=options.follow):
        before = b" " if options.details else b""
        if options.timestamps:
            before = f"{logs.format_time(at)} ".encode() + before
        output = outputs[stream]
        output.write(before + line)
        output.flush()
    return 0


def _must_be_kept(paths: Paths, name: str) -> None:
    """Problem where the container's logger keeps nothing that could be shown."""
    import json

    from agent.cli.main import Problem

    logger = json.loads(attend.find(paths, name).request).get("logger") or {}
    if logger.get("driver") == "none":
        raise Problem(f"cannot show the output of {name}: its logging driver is none, which keeps nothing")


def _lines(text: str) -> int | None:
    """None for all: also a negative number, as docker has it. Raises Problem."""
    from agent.cli.main import Problem

    if text == "all":
        return None
    try:
        number = int(text)
    except ValueError:
        raise Problem(f"cannot read --tail {text!r}: write a number or all", 2) from None
    return None if number < 0 else number


def moment(text: str, now: float) -> float:
    """Seconds since the epoch. Raises Problem for what is no time."""
    from datetime import datetime

    from agent.cli.main import Problem
    from specs.values import Duration

    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        pass
    try:
        return now - float(Duration.parse(text))
    except ValueError as error:
        raise Problem(f"cannot read time {text!r}: write 10m, 2026-01-31T12:00:00Z or seconds", 2) from error
