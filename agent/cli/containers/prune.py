"""Effects: `stead container prune`: containers made by hand that do not run go, none that is declared."""

from __future__ import annotations

import sys
import time

from agent.cli import asking, formatting
from agent.cli.containers import choosing, seen
from agent.cli.main import need_root
from runtime.faults import Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from agent.cli.containers.seen import Seen
    from runtime.paths import Paths

FILTERS = ("label", "until")
_ENDED = ("created", "exited", "dead")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--force", action="store_true", help="do not ask")
    parser.add_argument(
        "--filter", action="append", default=[], metavar="KEY=VALUE", help="until=TIME, label[!]=KEY[=VALUE]"
    )


def run(options: argparse.Namespace, paths: Paths) -> int:
    from agent.cli.calling import call
    from runtime.usage import tree_size

    need_root()
    filters, now = choosing.read(options.filter, FILTERS), time.time()
    choosing.chosen(filters, (), now)  # a wrong time is said before anything is asked
    if not options.force and not asking.agreed("all stopped containers that no source declares"):
        print(f"Total reclaimed space: {formatting.size(0)}")
        return 0  # as docker
    removed, freed, failed = [], 0, False
    for item in choosing.chosen(filters, prunable(paths), now):
        size = tree_size(paths.container(item.record.id) / "upper")
        try:
            call(paths, "remove", name=item.record.id)
        except Fault as fault:  # it was started since, or is gone
            print(f"stead: {fault}", file=sys.stderr)
            failed = True
            continue
        removed.append(item.record.id)
        freed += size
    if removed:
        print("Deleted Containers:")
        print("".join(f"{id}\n" for id in removed))
    print(f"Total reclaimed space: {formatting.size(freed)}")
    return 1 if failed else 0


def prunable(paths: Paths) -> list[Seen]:
    from runtime import attend

    found = seen.look(paths, attend.read_all(paths))
    return [item for item in found if not item.record.source and item.docker_state in _ENDED]
