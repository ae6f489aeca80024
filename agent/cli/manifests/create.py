"""Effects: `stead manifest create`."""

from __future__ import annotations

from agent.cli.images import store
from agent.cli.manifests import place

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    place.add_options(parser, insecure=True)
    parser.add_argument("index", metavar="INDEX", help="the name that it will have")
    text = "an image, or an index whose images are all taken; of a registry, or of this store"
    parser.add_argument("images", metavar="IMAGE", nargs="+", help=text)
    parser.add_argument("-a", "--amend", action="store_true", help="add to an index that is here already")


def run(options: argparse.Namespace, paths: Paths) -> int:
    name = store.reference(options.index)
    sources = [store.reference(text) for text in options.images]
    with place.opened(options, paths, [name, *sources]) as runtime:
        runtime.images.create_draft(name, sources, amend=options.amend)
    print(f"Created manifest list {name}")
    return 0
