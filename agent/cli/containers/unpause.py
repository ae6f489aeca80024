"""Effects: `stead unpause`: paused containers go on."""

from __future__ import annotations

from agent.cli.containers.several import each

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME")


def run(options: argparse.Namespace, paths: Paths) -> int:
    return each(paths, "unpause", options.names)
