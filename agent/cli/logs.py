"""Effects: `stead logs NAME`: what a container wrote, its standard error to ours."""

from __future__ import annotations

import re
import sys
import time

from runtime import attend, logs

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME")
    parser._negative_number_matcher = re.compile("-[0-9]")  # --since -10m: that is no option
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what comes")
    parser.add_argument("--since", metavar="TIME", help="RFC 3339, seconds since 1970, or how long ago: 10m")
    parser.add_argument("--until", metavar="TIME", help="nothing that came later, written as for --since")
    parser.add_argument("-n", "--tail", metavar="N", default="all", help="only the last N lines, or all")
    parser.add_argument("-t", "--timestamps", action="store_true", help="UTC time before each line")
    text = "further attributes before each line: our own log has none, so a blank"
    parser.add_argument("--details", action="store_true", help=text)


def run(options: argparse.Namespace, paths: Paths) -> int:
    directory = attend.log_directory(paths, options.name)
    _must_be_kept(paths, options.name)
    now = time.time_ns()
    since, until = _moment(options.since, now), _moment(options.until, now)
    outputs = {1: sys.stdout.buffer, 2: sys.stderr.buffer}
    tail, broken = _lines(options.tail), set[int]()
    for at, stream, line in logs.read(directory, since=since, until=until, tail=tail, follow=options.follow):
        before = b" " if options.details else b""
        if options.timestamps:
            before = f"{logs.format_time(at)} ".encode() + before
        if stream in broken:  # of a run that ended within a line; what follows is another one's
            before = b"\n" + before
        (broken.add if logs.has_no_end(line) else broken.discard)(stream)
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
    """None for all: also a negative number, and one that no list is as long as. Raises Problem."""
    from agent.cli.main import Problem

    if text == "all":
        return None
    try:
        number = int(text)
    except ValueError:
        raise Problem(f"cannot read --tail {text!r}: write a number or all", 2) from None
    return number if 0 <= number < sys.maxsize else None


def _moment(text: str | None, now: int) -> int | None:
    """In ns. Raises Problem."""
    if text is None:
        return None
    from agent.cli.images.choosing import moment_ns  # few ask for it

    return moment_ns(text, now)
