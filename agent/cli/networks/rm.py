"""Effects: `stead network rm`: networks that were made by hand go; each of several on its own."""

from __future__ import annotations

import sys

from agent.cli.images import store
from agent.cli.main import Problem, need_root
from agent.cli.networks import rows
from runtime.faults import Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.net.records import NetworkRecord
    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NETWORK")
    parser.add_argument(
        "-f", "--force", action="store_true", help="those of a source, too; no matter if one is gone"
    )


def run(options: argparse.Namespace, paths: Paths) -> int:
    from runtime.local import LocalRuntime

    need_root()
    failed = False
    with LocalRuntime(paths) as runtime:
        for name in options.names:
            try:
                known = rows.networks(runtime.database.read())
                if options.force and name not in known and not _fits(known, name):
                    continue
                record = rows.meant(known, name)
                _refuse(record, options.force)
                runtime.remove_network(record.name)
                print(name)
            except (Problem, Fault) as error:
                print(f"stead: {error}", file=sys.stderr)
                failed = True
    store.wake_agent(paths)
    return 1 if failed else 0


def _fits(known: dict[str, NetworkRecord], text: str) -> bool:
    return any(
        name.rpartition("/")[2] == text or rows.id_of(record).startswith(text)
        for name, record in known.items()
    )


def _refuse(record: NetworkRecord, force: bool) -> None:
    """What a source declares would be made again."""
    if record.source and not force:
        cure = "take it out of the specs, or use -f to have it made anew"
        raise Problem(f"network {record.name} belongs to source {record.source}; {cure}")
