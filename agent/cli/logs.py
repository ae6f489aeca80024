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
    parser.add_argument("--tail", type=int, metavar="N", help="only the last N lines")
    parser.add_argument("-t", "--timestamps", action="store_true", help="UTC time before each line")


def run(options: argparse.Namespace, paths: Paths) -> int:
    directory = attend.log_directory(paths, options.name)
    since = None if options.since is None else moment(options.since, time.time())
    outputs = {1: sys.stdout.buffer, 2: sys.stderr.buffer}
    for at, stream, line in logs.read(directory, since=since, tail=options.tail, follow=options.follow):
        output = outputs[stream]
        output.write(f"{logs.format_time(at)} ".encode() + line if options.timestamps else line)
        output.flush()
    return 0


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
