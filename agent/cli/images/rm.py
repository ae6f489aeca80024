"""Effects: `stead image rm`."""

from __future__ import annotations

from agent.cli.images import store

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    store.add_settings(parser)
    parser.add_argument("name", metavar="NAME")


def run(options: argparse.Namespace, paths: Paths) -> int:
    with store.opened(options, paths) as runtime:
        found = runtime.images.get(options.name)
        name = options.name if found is not None else str(store.reference(options.name))
        print("\n".join(runtime.remove_image(name)))
    store.wake_agent(paths)
    return 0
