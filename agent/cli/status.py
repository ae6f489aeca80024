"""Effects: `stead status`, asked of the agent over its socket. Exit 0: converged, 1: not, or no agent
runs.
"""

from __future__ import annotations

import json
import os
import socket
import time

from agent.cli import table
from agent.cli.main import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from runtime.paths import Paths

TIMEOUT = 10.0


class NoAgent(Problem):
    """Nobody listens."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="all that the agent says")


#: code -> what is said instead of "blocked"
WORDS = {
    "image-kept": "note",
    "suspended": "suspended",
    "pinned": "pinned",
    "rolling": "rollout",
    "rolled-back": "rolled back",
}


def run(options: argparse.Namespace, paths: Paths) -> int:
    found = ask(paths, "/v1/status")
    print(json.dumps(found, indent=1) if options.json else text(found, time.time()))
    return 0 if found["state"] == "converged" and not any(item["errors"] for item in found["sources"]) else 1


def ask(paths: Paths, path: str) -> Any:
    """A document of the agent's. Problem when none answers, NoAgent where there is none."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
            connection.settimeout(TIMEOUT)
            directory = os.open(paths.run, os.O_PATH | os.O_CLOEXEC)
            try:
                connection.connect(f"/proc/self/fd/{directory}/{paths.agent_socket.name}")
            finally:
                os.close(directory)
            # HTTP/1.0: one answer, up to the end. To import http.client takes longer than all of this
            connection.sendall(f"GET {path} HTTP/1.0\r\nHost: agent\r\n\r\n".encode())
            with connection.makefile("rb") as answer:
                head, _, body = answer.read().partition(b"\r\n\r\n")
    except (FileNotFoundError, ConnectionError) as error:
        hint = "start it with `systemctl start stead` or `stead agent`; `stead ps` works without it"
        raise NoAgent(f"no agent runs on {paths.root}: {hint}") from error
    except PermissionError as error:
        raise Problem("this needs root, or the group that listen.group names") from error
    except TimeoutError as error:
        cause = f"it said nothing for {TIMEOUT:.0f} s; see its log"
        raise Problem(f"cannot ask the agent on {paths.root}: {cause}") from error
    try:
        return json.loads(body)
    except ValueError as error:
        said = head.partition(b"\r\n")[0].decode("utf-8", "replace") or "nothing"
        raise Problem(f"cannot ask the agent on {paths.root}: it answered {said}; see its log") from error


def text(found: Any, now: float) -> str:
    """Sources with their errors, then what is under way and what is blocked."""
    lines = [f"{found['state']}, agent {found['version']} for {table.age(now - found['started_at'])}"]
    rows = []
    for source in found["sources"]:
        good = table.age(now - source["last_success"]) + " ago" if source["last_success"] else "never"
        bad = len(source["errors"])
        errors = f"{bad} error{'s' if bad > 1 else ''} in {source['seen'][:12]}"
        held = f"{source['seen'][:12]} is held back" if source.get("held") else ""
        state = errors if bad else source["fetch_error"] or held or "good"
        rows.append((source["name"], source["revision"][:12] or "-", str(source["containers"]), good, state))
    lines += ["", table.columns(("SOURCE", "IN FORCE", "CONTAINERS", "CONVERGED", "NEWEST"), rows)]
    for source in found["sources"]:
        lines += [f"  {error}" for error in source["errors"]]
        if source.get("held"):
            lines.append(f"held: source {source['name']}: revision {source['seen'][:12]}: {source['held']}")
    lines += [f"now: {step['id']}: {step['cause']}" for step in found["in_flight"]]
    for item in found["blocked"]:
        again = ""
        if item["retry_in"] is not None:
            again = f" (again in {max(0.0, found['at'] + item['retry_in'] - now):.0f} s)"
        word = WORDS.get(item["code"], "blocked")
        lines.append(f"{word}: {item['kind']} {item['name']}: {item['reason']} [{item['code']}]{again}")
    lines += [_crash_loop(item, now) for item in found.get("crash_loops", ())]
    told = {item["name"] for item in found["blocked"] if item["code"] == "rollout-failed"}
    lines += [_ended(item, now) for item in found.get("ended", ()) if item["name"] not in told]
    lines += [_orphan(item, now) for item in found.get("orphans", ())]
    lines += [_backup(item, now) for item in found.get("backups", ())]
    lines += [_job(item, now) for item in found.get("jobs", ())]
    walls = found.get("loosened") or {}
    lines += [f"loosened: container {name}: {', '.join(words)}" for name, words in walls.items()]
    if found.get("apparmor"):
        lines.append(f"apparmor: no profile on this machine: {found['apparmor']}")
    if unmanaged := found.get("unmanaged"):
        shown = ", ".join(unmanaged[:5]) + (f" and {len(unmanaged) - 5} more" if len(unmanaged) > 5 else "")
        lines.append(f"unmanaged: {shown}")
    if found["error"]:
        lines.append(f"error: {found['error']}")
    return "\n".join(lines)


def _crash_loop(item: Any, now: float) -> str:
    """Its last end, the last line that it wrote, and when it is tried again."""
    end = "out of memory" if item["oom_killed"] else item["error"] or f"exit code {item['exit_code']}"
    again = (
        f"started again in {_until(item['next_start_at'], now)}" if item["next_start_at"] else "just started"
    )
    said = item["log_tail"].rpartition("\n")[2]
    tail = f"; its last output: {said[:200]}" if said else ""
    restarts = f"{item['restarts']} restarts"
    if item.get("unhealthy"):
        restarts += f" ({item['unhealthy']} by its probes: stead inspect {item['name']} has what they said)"
    return f"crash loop: container {item['name']}: {end}, {restarts}, {again}{tail}"


def _ended(item: Any, now: float) -> str:
    """How, and when: its restart policy does not start it again."""
    killed = ", killed because it used too much memory" if item["oom_killed"] else ""
    how = f": {item['error']}" if item["error"] else f" exited with code {item['exit_code']}{killed}"
    return f"ended: container {item['name']}{how}, {table.age(now - item['finished_at'])} ago"


def _orphan(item: Any, now: float) -> str:
    size = "size not known" if item["size"] < 0 else table.size(item["size"])
    goes = "" if item["goes_at"] is None else f" (by itself in {_until(item['goes_at'], now)})"
    since = f"nothing declares it since {table.age(now - item['since'])}"
    cure = f"it goes with: stead volume rm {item['name']}{goes}"
    return f"orphan: volume {item['name']}: {size}, {since}; {cure}"


def _backup(item: Any, now: float) -> str:
    """Its last good one, its last drill, and what comes next."""
    words = [f"{table.size(item['bytes'])}, {table.age(now - item['at'])} ago" if item["at"] else "none yet"]
    if item["drilled_at"]:
        words.append(f"found well {table.age(now - item['drilled_at'])} ago")
    if item["next_at"] is not None:
        words.append(f"next in {_until(item['next_at'], now)}")
    if item["error"]:
        words.append(f"FAILED: {item['error']}")
    return f"backup: volume {item['volume']}: {'; '.join(words)}"


def _job(item: Any, now: float) -> str:
    """Whether it runs, how the last run went, and what comes next."""
    words = [item["state"]] if item["state"] != "idle" else []
    if item["state"] == "orphan":
        words = [f"orphan: {item['held']}", f"it goes with: stead rm -f {item['name']}"]
    if item["last_ended"]:
        code = "" if item["last_result"] == "ok" else f" (exit code {item['last_exit_code']})"
        took = f"in {item['last_ended'] - item['last_began']:.1f} s"
        words.append(f"{item['last_result']}{code} {table.age(now - item['last_ended'])} ago {took}")
    if item["retry_at"] is not None:
        words.append(f"again in {_until(item['retry_at'], now)}")
    if item["next_at"] is not None:
        words.append(f"next in {_until(item['next_at'], now)}")
    return f"job: {item['name']}: {item['schedule']}; {'; '.join(words) or 'no run yet'}"


def _until(at: float, now: float) -> str:
    return str(table.age(max(0.0, at - now)))
