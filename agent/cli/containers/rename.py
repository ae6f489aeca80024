"""Effects: `stead rename`: a container that no source declares is called otherwise."""

from __future__ import annotations

from agent.cli import calling

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("new", metavar="NEW_NAME")


def run(options: argparse.Namespace, paths: Paths) -> int:
    calling.call(paths, "rename", name=options.name, new=options.new)
    return 0
