"""Effects: `stead manifest push`."""

from __future__ import annotations

from agent.cli.images import store
from agent.cli.images.push import told
from agent.cli.manifests import place

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    place.add_options(parser, insecure=True)
    parser.add_argument("index", metavar="INDEX")
    parser.add_argument("-p", "--purge", action="store_true", help="forget the index here once it is pushed")
    parser.add_argument("-q", "--quiet", action="store_true", help="print the digest only")


def run(options: argparse.Namespace, paths: Paths) -> int:
    name = store.reference(options.index)
    with place.opened(options, paths, [name]) as runtime:
        with told(options.quiet) as listener:
            pushed = runtime.images.push_draft(name, listener=listener)
        if options.purge:
            runtime.images.indexes.remove(name)
    print(pushed.digest)
    return 0
