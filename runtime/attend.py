"""Effects: what people do with a running container without the agent: find it, run a program in it, read of
it.

Opened by the command line directly on `root` and `run`; imports neither networking nor image code, so that it
answers at once. Everything here only reads the records.
"""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from runtime import frozen
from runtime.database import connect
from runtime.faults import Fault, from_oserror
from runtime.linux.regular import read_regular
from runtime.paths import Paths
from runtime.records import RUNNING, ContainerRecord, read_containers
from runtime.shim import client, messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, NamedTuple
else:
    from runtime.shim.tuples import NamedTuple


class ExecOptions(NamedTuple):
    """How `exec` differs from the container's own process; empty: as that one."""

    command: tuple[str, ...]
    environment: Mapping[str, str | None]  # None: not there, also where the container's process has it
    working_dir: str = ""
    user: str = ""
    tty: bool = False
    privileged: bool = False


def read_all(paths: Paths) -> list[ContainerRecord]:
    """Every record; an empty list where nothing was ever made under this root."""
    if not paths.database.exists():
        return []
    try:
        with closing(connect(paths.database, readonly=True)) as connection:
            return read_containers(connection)
    except sqlite3.OperationalError:  # made, and not yet migrated
        return []


def read_ports(paths: Paths) -> dict[str, list[dict[str, Any]]]:
    """Published ports by container id, as they are: with the ports of the host that were chosen."""
    if not paths.database.exists():
        return {}
    found: dict[str, list[dict[str, Any]]] = {}
    try:
        with closing(connect(paths.database, readonly=True)) as connection:
            rows = connection.execute(
                "SELECT container, host_ip, host_port, container_port, protocol FROM published_ports"
                " ORDER BY container_port, protocol, host_ip, host_port"
            )
            for row in rows:
                port = {key: row[key] for key in ("host_ip", "host_port", "container_port", "protocol")}
                found.setdefault(row["container"], []).append(port)
    except sqlite3.OperationalError:  # made, and not yet migrated
        return {}
    return found


def read_hand_stops(paths: Paths) -> dict[str, dict[str, Any]]:
    """Who stopped which declared container by hand, when and why: by full name, as runtime.stops has it."""
    if not paths.database.exists():
        return {}
    try:
        with closing(connect(paths.database, readonly=True)) as connection:
            rows = connection.execute("SELECT container, at, who, terminal, reason FROM hand_stops")
            return {row["container"]: dict(row) for row in rows}
    except sqlite3.OperationalError:  # made, and not yet migrated
        return {}


def find(paths: Paths, name: str) -> ContainerRecord:
    """By full name, by the name without its project where that is unique, by id or a unique prefix of one.

    Raises Fault container-not-found, also when several fit, naming them.
    """
    records = read_all(paths)
    for record in records:
        if name in (record.name, record.id):
            return record
    short = [record for record in records if record.name.rpartition("/")[2] == name]
    fits = short or [record for record in records if len(name) >= 3 and record.id.startswith(name)]
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise Fault(
            "container-not-found",
            "find container",
            name,
            f"{len(fits)} containers fit: {', '.join(record.name for record in fits[:5])}",
            "write the full name",
        )
    raise Fault(
        "container-not-found",
        "find container",
        name,
        "there is no container of this name",
        "see `stead ps`",
    )


def log_directory(paths: Paths, name: str) -> Path:
    """Where runtime.logs reads a container's output."""
    return paths.container(find(paths, name).id) / "log"


def live_state(paths: Paths, record: ContainerRecord) -> client.State | None:
    """What a living shim last said, None when there is none."""
    state = client.read_state(paths.live(record.id))
    return state if state is not None and client.is_alive(state) else None


def is_up(paths: Paths, record: ContainerRecord) -> bool:
    """Whether it runs, or is about to run again: not where its shim has said its last word and is about to
    go."""
    if record.wanted != RUNNING or client.read_exit(paths.container(record.id)) is not None:
        return False
    return live_state(paths, record) is not None


def exec_process(paths: Paths, record: ContainerRecord, options: ExecOptions) -> dict[str, Any]:
    """The OCI `process` of an exec session: the container's own with what was asked for changed.

    Raises Fault container-not-running.
    """
    state = live_state(paths, record)
    if state is None or not state.pid:
        raise Fault("container-not-running", "exec in container", record.name, "it is not running")
    if frozen.is_paused(paths.live(record.id)):
        hint = f"stead unpause {record.name}"
        raise Fault("container-paused", "exec in container", record.name, "it is paused", hint)
    process: dict[str, Any] = dict(read_config(paths, record)["process"])
    environment: dict[str, str | None] = dict(entry.partition("=")[::2] for entry in process["env"])
    if options.tty:
        environment.setdefault("TERM", "xterm")
    if options.user:
        process["user"], environment["HOME"] = _user(state.pid, options.user, process["user"])
    environment.update(options.environment)
    bounding = process["capabilities"]["bounding"]
    if options.privileged:
        from runtime.linux.capabilities import bounding as all_of_them

        bounding = list(all_of_them())
    held = bounding if process["user"]["uid"] == 0 or options.privileged else []
    process.update(
        args=list(options.command),
        env=[f"{key}={value}" for key, value in environment.items() if value is not None],
        cwd=options.working_dir or process["cwd"],
        terminal=options.tty,
        capabilities={
            **process["capabilities"],
            "bounding": bounding,
            "effective": held,
            "permitted": held,
        },
    )
    return process


def read_config(paths: Paths, record: ContainerRecord) -> dict[str, Any]:
    """The container's config.json as it was last started. FileNotFoundError; Fault kernel-error when it
    cannot be read."""
    path = paths.container(record.id) / "config.json"
    try:
        document: dict[str, Any] = json.loads(read_regular(path))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise from_oserror(error, "read", "config.json of " + record.name) from error
    except ValueError as error:
        cause = f"it is not what was written ({path})"
        raise Fault("kernel-error", "read", "config.json of " + record.name, cause) from error
    return document


def inspect_container(paths: Paths, name: str) -> dict[str, Any]:
    """Record, request, state and bundle in one JSON document."""
    record = find(paths, name)
    home = paths.container(record.id)
    state = live_state(paths, record) or client.read_exit(home)
    return {
        "id": record.id,
        "name": record.name,
        "source": record.source,
        "project": record.project,
        "image": record.image,
        "image_id": record.image_id,
        "created_at": record.created_at,
        "wanted": record.wanted,
        "stopped_by_hand": read_hand_stops(paths).get(record.name),
        "identity": record.identity,
        "adjustable": record.adjustable,
        "request": json.loads(record.request),
        "ports": read_ports(paths).get(record.id, []),
        "state": messages.state_document(state) if state is not None else None,
        "config": read_config(paths, record) if os.path.lexists(home / "config.json") else None,
        "paths": {
            "home": str(home),
            "log": str(home / "log"),
            "rootfs": str(paths.rootfs(record.id)),
            "netns": str(paths.netns(record.id)),
        },
    }


def _user(pid: int, spec: str, own: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """An OCI `user` and its home, from the files that the running container has now."""
    from runtime import bundle
    from runtime.faults import faults
    from runtime.inside import read_in_root
    from runtime.users import find_user

    root = Path(f"/proc/{pid}/root")
    with faults("read accounts of the container for", spec):
        texts: Sequence[str] = [read_in_root(root, name) for name in ("etc/passwd", "etc/group")]
    user = find_user(spec, (), *texts)
    fields = {"uid": user.uid, "gid": user.gid, "additionalGids": bundle.additional_groups(user)}
    return {**own, **fields}, user.home
