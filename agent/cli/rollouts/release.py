"""Effects: `stead release NAME`: its specs hold again: a version that was rolled back is tried again, what
was pinned by hand is so no longer."""

from __future__ import annotations

from agent.cli.main import Problem
from agent.cli.rollouts import naming

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a container or a source")


def run(options: argparse.Namespace, paths: Paths) -> int:
    with naming.opened(paths) as rollouts:
        names = dict.fromkeys((options.name, naming.service(rollouts, options.name)))
        said = {name: done for name in names if name and (done := rollouts.release(name))}
    if not said:
        raise Problem(f"nothing of {options.name} was pinned or rolled back")
    for name, done in said.items():
        print(f"{name}: released its {' and its '.join(done)}")
    return 0
