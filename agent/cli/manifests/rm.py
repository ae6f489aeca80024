"""Effects: `stead manifest rm`."""

from __future__ import annotations

import sys

from agent.cli.images import store
from agent.cli.manifests import place
from runtime.faults import Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    place.add_options(parser)
    parser.add_argument("indexes", metavar="INDEX", nargs="+")


def run(options: argparse.Namespace, paths: Paths) -> int:
    names, code = [store.reference(text) for text in options.indexes], 0
    with place.opened(options, paths, []) as runtime:
        for name in names:
            try:
                runtime.images.indexes.remove(name)
            except Fault as fault:
                print(f"stead: {fault}", file=sys.stderr)
                code = 1
    return code
