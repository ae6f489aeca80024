"""Effects: `stead volume ls`: a row for each volume, by name."""

from __future__ import annotations

from agent.cli import formatting
from agent.cli.volumes import choosing, rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import Any

    from runtime.paths import Paths
    from runtime.volumes.records import Volume

HEADS = {
    "Driver": "DRIVER",
    "Name": "VOLUME NAME",
    "Source": "SOURCE",
    "Scope": "SCOPE",
    "Mountpoint": "MOUNTPOINT",
    "Labels": "LABELS",
    "Links": "LINKS",
    "Size": "SIZE",
    "Users": "USERS",
}
COLUMNS = ("Driver", "Name", "Source")
FILTERS = ("dangling", "driver", "label", "name")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--filter", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--format", default="", metavar="FORMAT", help='"table", "json" or a template')
    parser.add_argument("--json", action="store_const", dest="format", const="json", help="--format json")
    parser.add_argument("-q", "--quiet", action="store_true", help="names only")


def run(options: argparse.Namespace, paths: Paths) -> int:
    wanted = choosing.read(options.filter, FILTERS)
    found = rows.read(paths)
    chosen = [item for item in found.volumes if wanted.accepts(item, found.users.get(item.name, ()))]
    if options.quiet:
        print("".join(f"{item.name}\n" for item in chosen), end="")
        return 0
    measured = ".Size" in options.format or options.format.strip() == "json"
    table = [row(item, found.users.get(item.name, ()), measured) for item in chosen]
    for line in formatting.lines(table, options.format, HEADS, COLUMNS):
        print(line)
    return 0


def row(volume: Volume, users: Sequence[str], measured: bool) -> dict[str, Any]:
    """Sizes only where they are asked for: every file is looked at."""
    size = "N/A"
    if measured:
        from runtime.usage import tree_size

        size = formatting.size(tree_size(volume.path))
    return {
        "Driver": "local",
        "Name": volume.name,
        "Source": rows.source(volume),
        "Scope": "local",
        "Mountpoint": str(volume.path),
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(volume.labels.items())),
        "Links": str(len(users)),
        "Size": size,
        "Users": ",".join(users),
    }
