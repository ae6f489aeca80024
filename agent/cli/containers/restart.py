"""Effects: `stead restart`: stop and start. What a source declares is its source's matter again."""

from __future__ import annotations

from agent.cli.containers import several, stop

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    stop.add_ending(parser)
    parser.add_argument("names", nargs="+", metavar="NAME")


def run(options: argparse.Namespace, paths: Paths) -> int:
    timeout = several.seconds(options.timeout)
    return several.each(paths, "restart", options.names, signal=options.signal, timeout=timeout)
