"""Effects: `stead suspend NAME`: nothing is done to a container, project or source until it is resumed."""

from __future__ import annotations

import time

from agent.cli.main import Problem
from agent.cli.rollouts import naming

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a container, project or source (or source:NAME)")
    parser.add_argument("--reason", default="", metavar="TEXT", help="said in status")
    text = "such as 2h: then it is resumed by itself (default: until `stead resume`)"
    parser.add_argument("--for", dest="time", default="", metavar="TIME", help=text)


def run(options: argparse.Namespace, paths: Paths) -> int:
    until = None
    if options.time:
        from specs.values import Duration

        try:
            lasts = float(Duration.parse(options.time))
        except ValueError as error:
            raise Problem(f"cannot read --for: {error}", 2) from error
        if not lasts:
            raise Problem("--for is 0s: say how long, or leave it out for until `stead resume`", 2)
        until = time.time() + lasts
    with naming.opened(paths) as rollouts:
        key, called = naming.scope(paths, rollouts, options.name)
        rollouts.suspend(key, naming.order(options.reason, until))
    print(f"{called} is suspended" + (f" for {options.time}" if options.time else ""))
    return 0
