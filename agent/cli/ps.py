"""Effects: `stead ps`, from the records and the shims' own state: it answers whether an agent runs or not."""

from __future__ import annotations

import json
import time

from agent.cli import table
from runtime import attend
from runtime.shim import client

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths
    from runtime.records import ContainerRecord


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON, one list")


def run(options: argparse.Namespace, paths: Paths) -> int:
    rows = [describe(paths, record) for record in attend.read_all(paths)]
    if options.json:
        print(json.dumps(rows, indent=1))
        return 0
    head = ("NAME", "IMAGE", "STATE", "HEALTH", "FOR", "RESTARTS", "SOURCE")
    now = time.time()
    lines = []
    for row in rows:
        since = float(row["started_at"] or 0.0)
        lasted = table.age(now - since) if row["phase"] == "running" and since else "-"
        state = f"{row['phase']} ({row['exit_code']})" if row["exit_code"] is not None else str(row["phase"])
        health = str(row["health"]) if row["health"] not in ("", "none") else "-"
        image = str(row["image"]).removeprefix("docker.io/library/").removeprefix("docker.io/")
        shown = str(row["phase"]) if row["phase"] == "running" else state
        cells = (row["name"], image, shown, health, lasted, row["restarts"], row["source"])
        lines.append([str(cell) for cell in cells])
    print(table.columns(head, lines))
    return 0


def describe(paths: Paths, record: ContainerRecord) -> dict[str, str | int | float | None]:
    """One container as JSON; `phase` as in runtime.interface.Phase."""
    state = attend.live_state(paths, record)
    ended = None if state else client.read_exit(paths.container(record.id))
    last = state or ended
    if state is not None:
        phase = state.phase
    elif record.wanted == "running":
        phase = "exited" if ended else "lost"
    else:
        phase = record.wanted
    return {
        "name": record.name,
        "id": record.id,
        "image": record.image,
        "source": record.source,
        "phase": phase,
        "pid": state.pid if state else 0,
        "health": state.health if state else "",
        "started_at": last.started_at if last else None,
        "exit_code": last.exit_code if last else None,
        "oom_killed": bool(last and last.oom_killed),
        "restarts": last.restarts if last else 0,
        "error": last.error if last else "",
    }
