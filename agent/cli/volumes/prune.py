"""Effects: `stead volume prune`: anonymous volumes that nobody has go; with --all, those made by hand, too.

What a source declared is never pruned: it goes by `stead volume rm`, or when the source says so.
"""

from __future__ import annotations

import sys

from agent.cli import asking, formatting
from agent.cli.volumes import choosing, rows
from runtime.faults import Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths
    from runtime.volumes.records import Volume

FILTERS = ("all", "label")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-a", "--all", action="store_true", help="those made by hand with a name, too")
    parser.add_argument("-f", "--force", action="store_true", help="do not ask")
    parser.add_argument(
        "--filter", action="append", default=[], metavar="KEY=VALUE", help="all=BOOL, label[!]=KEY[=VALUE]"
    )


def run(options: argparse.Namespace, paths: Paths) -> int:
    from runtime.usage import tree_size

    wanted = choosing.read(options.filter, FILTERS)
    everything = options.all or wanted.everything
    if not options.force and not asking.agreed(_named(everything)):
        print(f"Total reclaimed space: {formatting.size(0)}")
        return 0  # as docker
    removed, freed, failed = [], 0, False
    with rows.changing(paths) as volumes:
        found = rows.read(paths)
        for volume in found.volumes:
            if not prunable(volume, found, everything) or not wanted.accepts(volume, ()):
                continue
            size = tree_size(volume.home)
            try:
                volumes.remove(volume.name)
            except Fault as fault:  # somebody uses it since
                print(f"stead: {fault}", file=sys.stderr)
                failed = True
                continue
            removed.append(volume.name)
            freed += size
    if removed:
        print("Deleted Volumes:")
        print("".join(f"{name}\n" for name in removed))
    print(f"Total reclaimed space: {formatting.size(freed)}")
    return 1 if failed else 0


def prunable(volume: Volume, found: rows.Found, everything: bool) -> bool:
    if found.users.get(volume.name) or volume.name in found.claimed or volume.keep:
        return False
    return volume.anonymous or (everything and not volume.source)


def _named(everything: bool) -> str:
    what = "all volumes made by hand" if everything else "anonymous volumes"
    return f"{what} not used by at least one container"
