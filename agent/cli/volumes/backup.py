"""Effects: `stead volume backup NAME`: the volume's data as one file. With or without an agent."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from agent.cli import formatting
from agent.cli.images.store import wake_agent
from agent.cli.main import Problem, need_root
from agent.cli.volumes.names import alone, meant

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.backups.backups import Made
    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "volume", metavar="NAME", help="of the volume: shop/data, or data where that is unique"
    )
    parser.add_argument(
        "-o",
        "--output",
        default=".",
        metavar="FILE|DIR",
        help="a file that is not there yet, or a directory (default: this one)",
    )
    parser.add_argument(
        "--quiesce",
        choices=("freeze", "stop", "none"),
        default="freeze",
        help="what containers that write to it do meanwhile (default: freeze)",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print the path only")


def run(options: argparse.Namespace, paths: Paths) -> int:
    from runtime.local import LocalRuntime

    need_root()
    into = Path(options.output).absolute()
    if options.output.endswith("/") and not into.is_dir():
        raise Problem(f"cannot write to {options.output}: there is no such directory")
    with alone(paths, needed=options.quiesce == "stop") as foreign, LocalRuntime(paths) as runtime:
        volume = meant(options.volume, [item.name for item in runtime.volumes.list()])
        made = runtime.backups.backup(volume, into, now=time.time(), quiesce=options.quiesce, foreign=foreign)
    wake_agent(paths)
    print(made.path if options.quiet else _line(made))
    if made.summary.changed:
        count = made.summary.changed
        print(
            f"note: {count} entr{'ies' if count > 1 else 'y'} changed while they were read", file=sys.stderr
        )
    return 0


def _line(made: Made) -> str:
    summary = made.summary
    users = f"; {', '.join(summary.users)} stood still for {made.held:.1f} s" if summary.users else ""
    return (
        f"{made.path}: {formatting.size(summary.size)} in {summary.entries} entries,"
        f" {formatting.size(made.bytes)} compressed, sha256:{summary.digest}, {made.seconds:.1f} s{users}"
    )
