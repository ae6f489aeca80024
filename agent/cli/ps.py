"""Effects: `stead ps`, from the records and the shims' own state: it answers whether an agent runs or not."""

from __future__ import annotations

import json
import re
import shlex
import sys
import time

from agent.cli import formatting
from agent.cli.containers import choosing, seen
from runtime import attend
from runtime.loosened import loosened

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from agent.cli.containers.seen import Seen
    from runtime.paths import Paths
    from runtime.records import ContainerRecord

#: seconds between two looks of --watch
PERIOD = 1.0
SHORT_ID = 12
LONGEST_COMMAND = 20
HEADS = {
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "CreatedAt": "CREATED AT",
    "RunningFor": "CREATED",
    "Ports": "PORTS",
    "State": "STATE",
    "Status": "STATUS",
    "Size": "SIZE",
    "Names": "NAMES",
    "Labels": "LABELS",
    "Mounts": "MOUNTS",
    "LocalVolumes": "LOCAL VOLUMES",
    "Networks": "NETWORKS",
    "Health": "HEALTH",
    "Phase": "PHASE",
    "Restarts": "RESTARTS",
    "Source": "SOURCE",
    "Project": "PROJECT",
}
#: the row itself, as in {{json .}}; it may be in the text beside, which costs but a query
_WHOLE = re.compile(r"\.(?!\w)|\$(?!\w)")
COLUMNS = ("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-a", "--all", action="store_true", help="also those that do not run")
    parser.add_argument("-f", "--filter", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--format", default="", metavar="FORMAT", help='"table", "json" or a template')
    parser.add_argument(
        "-n", "--last", type=int, default=-1, metavar="N", help="the N newest, whatever they do"
    )
    parser.add_argument("-l", "--latest", action="store_true", help="the newest, whatever it does")
    parser.add_argument("--no-trunc", action="store_true", help="show whole ids and commands")
    parser.add_argument("-q", "--quiet", action="store_true", help="ids only")
    parser.add_argument("-s", "--size", action="store_true", help="how much each wrote, and with its image")
    parser.add_argument("--json", action="store_true", help="all of them as JSON, one list with more of each")
    parser.add_argument("-w", "--watch", action="store_true", help="go on showing them until Ctrl-C")


def run(options: argparse.Namespace, paths: Paths) -> int:
    if options.json:
        print(json.dumps(describe_all(paths), indent=1))
        return 0
    filters = choosing.read(options.filter)
    if options.watch:
        return watch(lambda: "\n".join(_lines(options, paths, filters)))
    for line in _lines(options, paths, filters):
        print(line)
    return 0


def watch(look: Any) -> int:
    """A table that is drawn anew every second; where there is no terminal, a new one at each change."""
    if sys.stdout.isatty():
        from rich.live import Live
        from rich.text import Text

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


def _lines(options: argparse.Namespace, paths: Paths, filters: dict[str, list[str]]) -> Iterable[str]:
    found = _chosen(options, paths, filters)
    if options.quiet:
        return [item.record.id if options.no_trunc else item.record.id[:SHORT_ID] for item in found]
    wanted = _wanted(options)
    now = time.time()
    rows = [_row(item, now, options, wanted) for item in found]
    if ".Label " in options.format:
        from agent.cli.template_functions import Labelled

        rows = [Labelled(row, item.labels) for row, item in zip(rows, found, strict=True)]
    columns = (*COLUMNS, "Size") if options.size else COLUMNS
    return formatting.lines(rows, options.format, HEADS, columns)


def _chosen(options: argparse.Namespace, paths: Paths, filters: dict[str, list[str]]) -> list[Seen]:
    """The newest first. Without a wish for more, those that run; a filter for a state or exit code is one."""
    everything = seen.look(paths, attend.read_all(paths))
    everything.sort(key=lambda item: (-item.record.created_at, item.record.name))
    found = choosing.chosen(filters, everything)
    last = 1 if options.latest else options.last
    if last >= 0:
        return found[:last]
    if options.all or {"status", "exited"} & filters.keys():
        return found
    return [item for item in found if item.docker_state in ("running", "paused", "restarting")]


def _wanted(options: argparse.Namespace) -> frozenset[str]:
    """The fields that are to be shown: some cost a query each."""
    form = options.format.strip()
    if form in ("", "table"):
        return frozenset((*COLUMNS, *(("Size",) if options.size else ())))
    named = frozenset(name for name in HEADS if name in form or (options.size and name == "Size"))
    return named | (frozenset(HEADS) - {"Size"}) if form == "json" or _WHOLE.search(form) else named


def _row(item: Seen, now: float, options: argparse.Namespace, wanted: frozenset[str]) -> dict[str, Any]:
    record, whole = item.record, options.no_trunc
    made: Mapping[str, Any] = {
        "ID": lambda: record.id if whole else record.id[:SHORT_ID],
        "Image": lambda: _image(item, whole),
        "Command": lambda: _command(item.words, whole),
        "CreatedAt": lambda: time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(record.created_at)),
        "RunningFor": lambda: f"{formatting.duration(now - record.created_at)} ago",
        "Ports": lambda: ", ".join(_ports(item)),
        "State": lambda: item.docker_state,
        "Status": lambda: status(item, now),
        "Size": lambda: _size(item),
        "Names": lambda: record.name,
        "Labels": lambda: ",".join(f"{key}={value}" for key, value in sorted(item.labels.items())),
        "Mounts": lambda: ",".join(_short(str(m.get("source") or ""), whole) for m in item.mounts),
        "LocalVolumes": lambda: str(sum(1 for mount in item.mounts if mount.get("kind") == "volume")),
        "Networks": lambda: ",".join(item.networks),
        "Health": lambda: item.health,
        "Phase": lambda: item.phase,
        "Restarts": lambda: str(item.state.restarts if item.state else 0),
        "Source": lambda: record.source or choosing.UNMANAGED,
        "Project": lambda: record.project,
    }
    return {name: make() if name in wanted else "" for name, make in made.items()}


def _image(item: Seen, whole: bool) -> str:
    """As it was written, unless that means another image by now, or none: then its id is shown, as docker
    does. A digest is for those who want all of it."""
    id, written = item.record.image_id, item.image
    digits = written.removeprefix("sha256:")
    if id.startswith((written, f"sha256:{digits}")):
        return written if whole else digits[:SHORT_ID]
    if item.names.get(item.record.image) != id:
        return id if whole else id.removeprefix("sha256:")[:SHORT_ID]
    return written if whole else written.partition("@")[0]


def _short(text: str, whole: bool) -> str:
    return text if whole else formatting.ellipsis(text, 15)


def _command(words: Sequence[str], whole: bool) -> str:
    text = " ".join([*words[:1], *map(shlex.quote, words[1:])])
    return f'"{text if whole else formatting.ellipsis(text, LONGEST_COMMAND)}"'


def status(item: Seen, now: float) -> str:
    """As docker says it: Up 5 minutes (healthy), Exited (1) 2 hours ago, Restarting (1) 3 seconds ago."""
    state = item.state
    started, finished = (state.started_at, state.finished_at) if state is not None else (0.0, 0.0)
    up = f"Up {formatting.duration(now - started)}" if started else "Up Less than a second"
    ended = f" {formatting.duration(now - finished)} ago" if finished else ""
    match item.docker_state:
        case "running":
            health = {"starting": "health: starting", "none": ""}.get(item.health, item.health)
            words = [health] if health else []
            words += ["not ready"] if state is not None and not state.ready else []
            return f"{up} ({', '.join(words)})" if words else up
        case "paused":
            return f"{up} (Paused)"
        case "restarting":
            next_at = state.next_start_at if state is not None else 0.0
            again = f", again in {formatting.duration(max(0.0, next_at - now))}" if next_at else ""
            loop = " (crash loop)" if item.crash_loop else ""
            return f"Restarting ({item.exit_code}){ended}{again}{loop}"
        case "exited":
            return f"Exited ({item.exit_code}){ended}"
        case "created":
            return "Created"
        case _:
            return "Dead"


def _ports(item: Seen) -> list[str]:
    """Published ones, and those that are only exposed."""
    if not item.live:
        return []
    shown = [ports([port]) for port in item.ports]
    published = {f"{port['container_port']}/{port['protocol']}" for port in item.ports}
    return shown + [port for port in item.exposed if port not in published]


def _size(item: Seen) -> str:
    from contextlib import closing

    from runtime.database import connect
    from runtime.images.listing import read_images
    from runtime.usage import tree_size

    own = tree_size(item.paths.container(item.record.id) / "upper")
    with closing(connect(item.paths.database, readonly=True)) as connection:
        images = read_images(connection, item.record.image_id)
    virtual = own + (images[0].size if images else 0)
    return f"{formatting.size(own)} (virtual {formatting.size(virtual)})"


def ports(published: list[dict[str, Any]]) -> str:
    """As Docker shows them: 127.0.0.1:8080->80/tcp."""
    return ", ".join(
        f"{_host(item['host_ip'])}:{item['host_port']}->{item['container_port']}/{item['protocol']}"
        for item in published
    )


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address or "0.0.0.0"


def describe_all(paths: Paths) -> list[dict[str, Any]]:
    from agent.cli.jobs import known

    stops, jobs = attend.read_hand_stops(paths), known.told(paths)
    found = [_description(item) for item in seen.look(paths, attend.read_all(paths))]
    further = [{"stopped_by_hand": stops.get(item["name"]), "job": jobs.get(item["name"])} for item in found]
    return [{**item, **more} for item, more in zip(found, further, strict=True)]


def describe(paths: Paths, record: ContainerRecord) -> dict[str, Any]:
    return _description(seen.Seen(paths, record, []))


def _description(item: Seen) -> dict[str, Any]:
    """One container as JSON; `phase` as in runtime.observations.Phase."""
    record, last = item.record, item.state
    return {
        "name": record.name,
        "id": record.id,
        "image": record.image,
        "source": record.source,
        "ports": item.published,
        "phase": item.phase,
        "pid": last.pid if item.live and last is not None else 0,
        "health": last.health if item.live and last is not None else "",
        "ready": bool(item.live and last is not None and last.ready),
        "crash_loop": item.crash_loop,
        "next_start_at": last.next_start_at if item.live and last is not None else 0.0,
        "started_at": last.started_at if last else None,
        "exit_code": last.exit_code if last else None,
        "oom_killed": bool(last and last.oom_killed),
        "loosened": loosened(json.loads(record.request)),
        "restarts": last.restarts if last else 0,
        "log_dropped": last.log_dropped if last else 0,
        "error": last.error if last else "",
    }
