"""Effects: `stead explain NAME`: from the journal, what was done to a thing and why (newest last), what
became of its updates, and what keeps it from being done.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict

from agent.cli import table
from agent.journal import read_actions, read_reasons
from agent.runs import read_runs
from runtime import attend
from runtime.faults import Fault
from specs.values import ImageRef

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence
    from typing import Any

    from agent.journal import Entry, Reason
    from agent.planner.runs import Ended
    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--limit", type=table.count, default=20, metavar="N", help="at most so many steps")
    parser.add_argument("--json", action="store_true")


def run(options: argparse.Namespace, paths: Paths) -> int:
    name = full_name(paths, options.name)
    actions = read_actions(paths.journal, name=name, limit=options.limit)
    reasons = read_reasons(paths.journal, name=name, limit=options.limit)
    runs = read_runs(paths.journal, name, options.limit)
    if options.json:
        found = {
            "actions": [*map(asdict, actions)],
            "reasons": [*map(asdict, reasons)],
            "runs": [*map(asdict, runs)],
        }
        print(json.dumps(found, indent=1))
        return 0
    stop = attend.read_hand_stops(paths).get(name)
    if not actions and not reasons and not runs and stop is None:
        print(f"the journal knows nothing of {name}")
        return 1
    now = time.time()
    for entry in sorted(actions, key=lambda entry: entry.id):
        print(line(entry, now))
    for item in reversed(runs):
        print(of_job(item, now))
    for past in verdicts(reasons, now):
        print(past)
    for reason in reasons:
        if reason.until is None:
            print(f"{table.age(now - reason.at)} ago: blocked: {reason.reason} [{reason.code}]")
    if stop is not None:
        print(held(stop, now))
    return 0


def verdicts(reasons: Sequence[Reason], now: float) -> list[str]:
    """What became of updates that is not so any more, oldest first; `reasons` are newest first."""
    found: dict[str, str] = {}
    still = {reason.reason for reason in reasons if reason.until is None}
    for reason in reversed(reasons):
        if reason.kind != "rollout" or reason.code == "rolling" or reason.reason in still:
            continue
        if reason.until is not None:
            found.pop(reason.reason, None)  # it was told before, with a step in between
            lasted = f"{table.age(now - reason.at)} ago until {table.age(now - reason.until)} ago"
            found[reason.reason] = f"{lasted}: {reason.reason} [{reason.code}]"
    return list(found.values())


def held(stop: Mapping[str, Any], now: float) -> str:
    """What a person did, in one line."""
    where = f" on {stop['terminal']}" if stop["terminal"] else ""
    why = f": {stop['reason']}" if stop["reason"] else ""
    cure = f"`stead start {stop['container']}` hands it back"
    return f"{table.age(now - stop['at'])} ago: stopped by hand: {stop['who']}{where}{why}; {cure}"


def of_job(item: Ended, now: float) -> str:
    """A run of a job, or why there was none."""
    what = f"run of {item.name} ({item.trigger}"
    what += f", attempt {item.attempt})" if item.attempt > 1 else ")"
    lasted = f" in {item.ended - item.began:.1f} s" if item.began else ""
    code = f", exit code {item.exit_code}" if item.exit_code is not None else ""
    text = f": {item.text}" if item.text else ""
    return f"{table.age(now - item.ended)} ago: {what} -> {item.result}{code}{lasted}{text}"


def line(entry: Entry, now: float) -> str:
    """One step: when, what, why, how it ended."""
    lasted = f" in {entry.seconds * 1000:.0f} ms" if entry.seconds is not None else ""
    text = f"{table.age(now - entry.started)} ago: {entry.verb} {entry.kind} {entry.name}: {entry.cause}"
    end = f"{entry.result}{lasted}"
    return f"{text} -> {end}" + (f": {entry.message}" if entry.message else "")


def full_name(paths: Paths, name: str) -> str:
    """The full name of a container that fits; else the canonical name of an image that the journal knows;
    else the name as it is: of a network, or of what is gone."""
    try:
        return attend.find(paths, name).name
    except Fault:
        pass
    try:
        reference = str(ImageRef.parse(name))
    except ValueError:
        return name
    known = read_actions(paths.journal, name=reference, limit=1)
    return reference if known or read_reasons(paths.journal, name=reference, limit=1) else name
