"""Effects: `stead volume rm`: volumes go with all that is in them; each of several on its own."""

from __future__ import annotations

import sys

from agent.cli.volumes import rows
from agent.cli.volumes.names import meant
from runtime.faults import Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="VOLUME")
    parser.add_argument(
        "-f",
        "--force",
        action="store_true",
        help="also one that is to be kept; no matter if it is gone",
    )


def run(options: argparse.Namespace, paths: Paths) -> int:
    failed = False
    with rows.changing(paths) as volumes:
        known = [volume.name for volume in volumes.list()]
        for name in options.names:
            try:
                full = volumes.need(meant(name, known), "remove volume").name
                volumes.remove(full, even_kept=options.force)
                print(full)
            except Fault as fault:
                if options.force and fault.code == "volume-not-found":
                    continue
                print(f"stead: {fault}", file=sys.stderr)
                failed = True
    return 1 if failed else 0
