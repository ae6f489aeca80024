"""Effects: `stead ps`, from the records and the shims' own state: it answers whether an agent runs or not."""

from __future__ import annotations

import json
import sys
import time

from agent.cli import table
from runtime import attend
from runtime.shim import client

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from typing import Any

    from runtime.paths import Paths
    from runtime.records import ContainerRecord

#: seconds between two looks of --watch
PERIOD = 1.0


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON, one list")
    parser.add_argument("-w", "--watch", action="store_true", help="go on showing them until Ctrl-C")


def run(options: argparse.Namespace, paths: Paths) -> int:
    if options.watch:
        return watch(paths)
    rows = describe_all(paths)
    print(json.dumps(rows, indent=1) if options.json else shown(rows, time.time()))
    return 0


def watch(paths: Paths) -> int:
    """A table that is drawn anew every second; where there is no terminal, a new one at each change."""
    from rich.live import Live
    from rich.text import Text

    def look() -> str:
        return shown(describe_all(paths), time.time())

    if sys.stdout.isatty():
        with Live(Text(look()), auto_refresh=False, transient=True) as live:
            while True:
                time.sleep(PERIOD)
                live.update(Text(look()), refresh=True)
    last = ""
    while True:
        if (text := look()) != last:
            print(text, flush=True)
        last = text
        time.sleep(PERIOD)


def shown(rows: list[dict[str, Any]], now: float) -> str:
    head = ("NAME", "IMAGE", "STATE", "HEALTH", "FOR", "RESTARTS", "PORTS", "SOURCE")
    lines = []
    for row in rows:
        since = float(row["started_at"] or 0.0)
        lasted = table.age(now - since) if row["phase"] == "running" and since else "-"
        code = f"{row['exit_code']}, out of memory" if row["oom_killed"] else str(row["exit_code"])
        state = f"{row['phase']} ({code})" if row["exit_code"] is not None else str(row["phase"])
        health = str(row["health"]) if row["health"] not in ("", "none") else "-"
        image = str(row["image"]).removeprefix("docker.io/library/").removeprefix("docker.io/")
        phase = str(row["phase"]) if row["phase"] == "running" else state
        published = ports(row["ports"]) or "-"
        cells = (row["name"], image, phase, health, lasted, row["restarts"], published, row["source"])
        lines.append([str(cell) for cell in cells])
    return table.columns(head, lines)


def ports(published: list[dict[str, Any]]) -> str:
    """As Docker shows them: 127.0.0.1:8080->80/tcp."""
    return ", ".join(
        f"{_host(item['host_ip'])}:{item['host_port']}->{item['container_port']}/{item['protocol']}"
        for item in published
    )


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address or "0.0.0.0"


def describe_all(paths: Paths) -> list[dict[str, Any]]:
    published = attend.read_ports(paths)
    return [describe(paths, record, published) for record in attend.read_all(paths)]


def describe(
    paths: Paths, record: ContainerRecord, published: Mapping[str, list[dict[str, Any]]] | None = None
) -> dict[str, Any]:
    """One container as JSON; `phase` as in runtime.observations.Phase. `published`: see attend.read_ports."""
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
        "ports": (published or {}).get(record.id, []),
        "phase": phase,
        "pid": state.pid if state else 0,
        "health": state.health if state else "",
        "started_at": last.started_at if last else None,
        "exit_code": last.exit_code if last else None,
        "oom_killed": bool(last and last.oom_killed),
        "restarts": last.restarts if last else 0,
        "error": last.error if last else "",
    }
