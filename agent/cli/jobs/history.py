"""Effects: `stead job history NAME`: the last runs of a job, newest last, and times when it did not run."""

from __future__ import annotations

import time
from datetime import datetime

from agent.cli import formatting
from agent.cli.jobs import known
from agent.cli.main import need_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from agent.planner.runs import Ended
    from runtime.paths import Paths

HEADS = {
    "Due": "DUE",
    "Trigger": "TRIGGER",
    "Attempt": "ATTEMPT",
    "Began": "BEGAN",
    "Took": "TOOK",
    "Result": "RESULT",
    "ExitCode": "EXIT",
    "Text": "",
    "Since": "SINCE",
    "Until": "UNTIL",
}
COLUMNS = ("Due", "Trigger", "Attempt", "Began", "Took", "Result", "ExitCode", "Text")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", "--limit", type=int, default=20, metavar="N", help="at most so many runs")
    parser.add_argument("--format", default="", metavar="FORMAT", help='"table", "json" or a template')
    parser.add_argument("--json", action="store_const", dest="format", const="json", help="--format json")
    parser.add_argument("name", metavar="NAME")


def run(options: argparse.Namespace, paths: Paths) -> int:
    from agent.runs import read_runs

    need_root()
    name, job = known.find(paths, options.name)
    lines = list(reversed(read_runs(paths.journal, name, options.limit)))
    rows = [row(line) for line in lines]
    if job.run is not None and job.run.began and options.format in ("", "table"):
        due = job.run.due
        rows.append(row(_so_far(name, due.at, due.trigger, due.attempt, job.run.began)))
    for text in formatting.lines(rows, options.format, HEADS, COLUMNS):
        print(text)
    return 0


def _so_far(name: str, due: float, trigger: str, attempt: int, began: float) -> Ended:
    from agent.planner.runs import Ended

    return Ended(name, "", due, trigger, attempt, began, time.time(), None, "running")


def row(line: Ended) -> dict[str, Any]:
    """`Since` and `Until` are where its output lies: as `stead logs` takes them."""
    return {
        "Due": _clock(line.due),
        "Trigger": line.trigger,
        "Attempt": str(line.attempt),
        "Began": _clock(line.began) if line.began else "-",
        "Took": f"{line.ended - line.began:.1f}s" if line.began else "-",
        "Result": line.result,
        "ExitCode": "-" if line.exit_code is None else str(line.exit_code),
        "Text": line.text,
        "Since": f"{line.began:.3f}" if line.began else "",
        "Until": f"{line.ended:.3f}" if line.began else "",
    }


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
