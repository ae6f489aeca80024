"""Effects: `stead network prune`: networks that were made by hand and that no container is on go."""

from __future__ import annotations

import time

from agent.cli import asking
from agent.cli.images import store
from agent.cli.main import need_root
from agent.cli.networks import choosing, rows
from runtime.faults import Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths

FILTERS = ("label", "until")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--force", action="store_true", help="do not ask")
    parser.add_argument(
        "--filter", action="append", default=[], metavar="KEY=VALUE", help="until=TIME, label[!]=KEY[=VALUE]"
    )


def run(options: argparse.Namespace, paths: Paths) -> int:
    from runtime.build.network import NAME
    from runtime.local import LocalRuntime
    from runtime.net.records import read_leases

    need_root()
    now = time.time()
    choosing.chosen(options.filter, FILTERS, (), (), now)  # wrong filters are said before anything is asked
    if not options.force and not asking.agreed("all networks made by hand that no container is on"):
        return 0
    removed = []
    with LocalRuntime(paths) as runtime:
        connection = runtime.database.read()
        used = {lease.network for lease in read_leases(connection)}
        by_hand = [
            record
            for record in rows.networks(connection).values()
            if not record.source and record.name not in used and record.name != NAME
        ]
        for record in choosing.chosen(options.filter, FILTERS, by_hand, used, now):
            try:
                runtime.remove_network(record.name)
            except Fault as fault:
                if fault.code != "network-in-use":  # a container has joined it since
                    raise
            else:
                removed.append(record.name)
    if removed:
        print("Deleted Networks:")
        print("".join(f"{name}\n" for name in removed), end="")
    store.wake_agent(paths)
    return 0
