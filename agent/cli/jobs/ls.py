"""Effects: `stead job ls`: a row for each job, by name. It answers whether an agent runs or not."""

from __future__ import annotations

import time

from agent.cli import formatting, table
from agent.cli.main import need_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from agent.view import JobView
    from runtime.paths import Paths

HEADS = {
    "Name": "NAME",
    "Schedule": "SCHEDULE",
    "State": "STATE",
    "Last": "LAST RUN",
    "Took": "TOOK",
    "Result": "RESULT",
    "Success": "LAST SUCCESS",
    "Next": "NEXT",
    "Source": "SOURCE",
    "Held": "HELD",
}
COLUMNS = ("Name", "Schedule", "State", "Last", "Took", "Result", "Next")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", default="", metavar="FORMAT", help='"table", "json" or a template')
    parser.add_argument("--json", action="store_const", dest="format", const="json", help="--format json")
    parser.add_argument("-q", "--quiet", action="store_true", help="names only")


def run(options: argparse.Namespace, paths: Paths) -> int:
    from agent.runs import read_jobs
    from agent.stores import jobs

    need_root()
    now = time.time()
    views = jobs(read_jobs(paths.journal), now)
    if options.quiet:
        print("".join(f"{view.name}\n" for view in views), end="")
        return 0
    for line in formatting.lines([row(view, now) for view in views], options.format, HEADS, COLUMNS):
        print(line)
    return 0


def row(view: JobView, now: float) -> dict[str, Any]:
    code = "" if view.last_exit_code in (0, None) else f" ({view.last_exit_code})"
    return {
        "Name": view.name,
        "Schedule": view.schedule,
        "State": view.state,
        "Last": _ago(view.last_began, now),
        "Took": f"{view.last_ended - view.last_began:.1f}s" if view.last_ended else "-",
        "Result": view.last_result + code or "-",
        "Success": _ago(view.last_success, now),
        "Next": "-" if view.next_at is None else f"in {table.age(view.next_at - now)}",
        "Source": view.source,
        "Held": view.held,
    }


def _ago(at: float, now: float) -> str:
    return f"{table.age(now - at)} ago" if at else "never"
