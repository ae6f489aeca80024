"""Effects: `stead resume NAME`: what was suspended by hand is converged again."""

from __future__ import annotations

import time

from agent.cli.main import Problem
from agent.cli.rollouts import naming

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="as it was suspended")


def run(options: argparse.Namespace, paths: Paths) -> int:
    with naming.opened(paths) as rollouts:
        suspended = rollouts.orders().suspended
        if options.name in suspended:  # also of what is gone meanwhile
            key = called = options.name
        else:
            key, called = naming.scope(paths, rollouts, options.name)
        order = suspended.get(key)
        if not rollouts.resume(key):
            hint = "what its specs suspend goes on when they say so no longer"
            raise Problem(f"{called} was not suspended by hand ({hint})")
    if order is not None and order.until is not None and not order.holds(time.time()):
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(order.until))
        print(f"{called} goes on since {at}: its suspension had ended by itself")
    else:
        print(f"{called} goes on")
    return 0
