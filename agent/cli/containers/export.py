"""Effects: `stead container export`."""

from __future__ import annotations

from agent.cli.containers import writings
from agent.cli.images.save import output

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="FILE", help="instead of standard output")
    parser.add_argument("name", metavar="NAME")


def run(options: argparse.Namespace, paths: Paths) -> int:
    with writings.of(options.name, paths) as (found, record), output(options.output, "export") as file:
        for piece in found.export(record):
            file.write(piece)
        file.flush()
    return 0
