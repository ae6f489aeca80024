"""Effects: `stead kill`: a signal to the first process of containers, SIGKILL unless said otherwise."""

from __future__ import annotations

from agent.cli.containers import several

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-s", "--signal", default="KILL", metavar="SIGNAL", help="name or number (KILL)")
    parser.add_argument("names", nargs="+", metavar="NAME")


def run(options: argparse.Namespace, paths: Paths) -> int:
    return several.each(paths, "kill", options.names, signal=options.signal)
