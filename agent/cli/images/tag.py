"""Effects: `stead image tag`."""

from __future__ import annotations

from agent.cli.images import rows, store

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="name or id of an image")
    parser.add_argument("target", metavar="TARGET", help="name with a tag; without one: latest")


def run(options: argparse.Namespace, paths: Paths) -> int:
    target = store.reference(options.target)
    with rows.catalog(paths) as catalog:
        catalog.tag(options.source, target)
    store.wake_agent(paths)
    return 0
