"""Effects: `stead history`: the journal's last steps, newest last."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

from agent.cli import table
from agent.cli.explain import line
from agent.journal import read_actions

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", default="", help="only of this source")
    parser.add_argument("--limit", type=table.count, default=50, metavar="N")
    parser.add_argument("--json", action="store_true")


def run(options: argparse.Namespace, paths: Paths) -> int:
    entries = sorted(
        read_actions(paths.journal, source=options.source, limit=options.limit), key=lambda entry: entry.id
    )
    if options.json:
        print(json.dumps([*map(asdict, entries)], indent=1))
    elif entries:
        now = time.time()
        print("\n".join(line(entry, now) for entry in entries))
    else:
        print("nothing was done yet")
    return 0
