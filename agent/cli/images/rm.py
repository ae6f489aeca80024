"""Effects: `stead image rm`: names go, and images with their last name; each of several on its own."""

from __future__ import annotations

import sys

from agent.cli.images import rows, store
from runtime.faults import Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="IMAGE")
    parser.add_argument(
        "-f", "--force", action="store_true", help="by id also when it has several names; no matter if gone"
    )
    parser.add_argument("--no-prune", action="store_true", help="leave nameless images that it was made from")


def run(options: argparse.Namespace, paths: Paths) -> int:
    failed = False
    with rows.removing(paths) as collector:
        for name in options.names:
            try:
                for line in collector.remove(name, force=options.force, parents=not options.no_prune):
                    print(line)
            except Fault as fault:
                print(f"stead: {fault}", file=sys.stderr)
                failed = failed or not (options.force and fault.code == "image-not-found")
    store.wake_agent(paths)
    return 1 if failed else 0
