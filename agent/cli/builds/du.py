"""Effects: `stead builder du`: what the build cache has, the most recently used first."""

from __future__ import annotations

import time

from agent.cli import formatting
from agent.cli.images import rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-v", "--verbose", action="store_true", help="with the instruction of each step")


def run(options: argparse.Namespace, paths: Paths) -> int:
    from runtime import usage
    from runtime.images.listing import read_images

    with rows.removing(paths) as collector:
        connection = collector.catalog.database.read()
        found = usage.of_cache(connection, paths, collector.sizes(), read_images(connection))
    now = time.time()
    heads = ["ID", "TYPE", "RECLAIMABLE", "SIZE", "LAST ACCESSED"] + (
        ["DESCRIPTION"] if options.verbose else []
    )
    lines = [tuple(heads)]
    for item in found:
        ago = f"{formatting.duration(now - item.used)} ago"
        row = [item.id[:12], item.kind, str(not item.shared).lower(), formatting.size(item.size), ago]
        lines.append(tuple(row + ([formatting.ellipsis(item.text, 60)] if options.verbose else [])))
    print("\n".join(formatting.aligned(lines)))
    total = sum(item.size for item in found)
    print(f"Reclaimable:\t{formatting.size(sum(item.size for item in found if not item.shared))}")
    print(f"Total:\t\t{formatting.size(total)}")
    return 0
