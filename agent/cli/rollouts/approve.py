"""Effects: `stead approve REVISION`: a revision that waits because it removes much is put in force."""

from __future__ import annotations

import time

from agent.cli.containers import person
from agent.cli.main import Problem
from agent.cli.rollouts import naming

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths

#: characters of a revision that name it
SHORTEST = 6


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("revision", metavar="REVISION", help="as status shows it, or its beginning")
    parser.add_argument("--source", default="", metavar="NAME", help="of this source only")


def run(options: argparse.Namespace, paths: Paths) -> int:
    if len(options.revision) < SHORTEST:
        raise Problem(f"write at least {SHORTEST} characters of the revision", 2)
    with naming.opened(paths) as rollouts:
        rollouts.approve(options.source, options.revision, person.who(), time.time())
    print(f"revision {options.revision} may be put in force")
    return 0
