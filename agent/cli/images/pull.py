"""Effects: `stead image pull`."""

from __future__ import annotations

from agent.cli.images import store

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    store.add_settings(parser)
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--platform", default="", metavar="OS/ARCH")


def run(options: argparse.Namespace, paths: Paths) -> int:
    with store.opened(options, paths) as runtime:
        print(runtime.pull_image(store.reference(options.name), platform=options.platform))
    store.wake_agent(paths)
    return 0
