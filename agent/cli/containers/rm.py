"""Effects: `stead rm`: containers that no source declares go, with what they wrote."""

from __future__ import annotations

from agent.cli.containers import several
from agent.cli.main import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    text = "kill what runs; also what a source declares, which is made anew"
    parser.add_argument("-f", "--force", action="store_true", help=text)
    parser.add_argument("-v", "--volumes", action="store_true", help="with their anonymous volumes")
    parser.add_argument("-l", "--link", action="store_true", help="refused: there are no links")
    parser.add_argument("names", nargs="+", metavar="NAME")


def run(options: argparse.Namespace, paths: Paths) -> int:
    if options.link:
        raise Problem("cannot use --link: there are no links; see `stead network disconnect`", 1)
    if options.force:
        return several.each(paths, "discard", options.names, volumes=options.volumes)
    return several.each(paths, "remove", options.names, volumes=options.volumes)
