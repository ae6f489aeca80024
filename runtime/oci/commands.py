"""Effects: what is asked of containers: state, list, ps, kill, delete, pause, resume, update."""

from __future__ import annotations

import os

from runtime.linux import cgroups, jsontext, pidfd, signals
from runtime.oci import groups, hooks, records
from runtime.oci.failure import OciFailure, explain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

#: Seconds that a killed container is given to be gone.
END = 10.0


def signal_number(text: str) -> int:
    """ "TERM", "SIGTERM", "15", "RTMIN+3"; 0 asks whether it is there. OciFailure when there is none such."""
    try:
        return 0 if text == "0" else signals.number_of(text or "-")
    except ValueError:
        raise OciFailure(f"unknown signal {text!r}") from None


def state(record: records.Record, host: cgroups.Cgroups) -> dict[str, Any]:
    status = record.status(host)
    return {
        "ociVersion": records.OCI_VERSION,
        "id": record.id,
        "pid": 0 if status == "stopped" else record.pid,
        "status": status,
        "bundle": record.document["bundle"],
        "rootfs": os.path.join(str(record.document["bundle"]), str(record.config["root"]["path"])),
        "created": record.document["created"],
        "annotations": record.config.get("annotations") or {},
        "owner": record.document["owner"],
    }


def kill(record: records.Record, host: cgroups.Cgroups, number: int, *, all: bool) -> None:
    """The first process; with `all`, or where it is not alone in its pid namespace and is killed, all."""
    alive = record.is_alive()
    if all or (record.shares_pids and number == signals.SIGKILL):
        for pid in host.pids(record.cgroup):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        if not alive and not all:
            raise OciFailure("container not running")
    elif not alive or not pidfd.kill(record.pid, int(record.document["start"]), number):
        raise OciFailure("container not running")
    if number == signals.SIGKILL and host.is_frozen(record.cgroup):
        host.thaw(record.cgroup)


def delete(
    record: records.Record, host: cgroups.Cgroups, warn: Callable[[str], None], *, force: bool
) -> None:
    """Repeatable: what a crash left is found through the record, which goes last."""
    status = record.status(host)
    if status not in ("stopped", "created") and not force:
        raise OciFailure(f"cannot delete container {record.id} that is not stopped: {status}")
    if record.is_alive():
        host.thaw(record.cgroup)
        pidfd.kill(record.pid, int(record.document["start"]))
    try:
        _await_end(record)
        own = bool(record.document["own_cgroup"])
        groups.remove(host, record.cgroup, parents=own, kill=record.shares_pids)
    except OSError as error:
        raise OciFailure(f"cannot delete container {record.id}: {explain(error)}") from None
    wanted = (record.config.get("hooks") or {}).get("poststop") or ()
    told = {**records.state_for_hooks(record), "pid": 0, "status": "stopped"}
    hooks.run_all("poststop", wanted, told, warn)
    record.remove()


def _await_end(record: records.Record) -> None:
    try:
        handle = pidfd.open_pidfd(record.pid) if record.pid else -1
    except OSError:
        return
    try:
        if handle >= 0 and record.is_alive() and not pidfd.wait(handle, END):
            raise OciFailure(f"cannot delete container {record.id}: its first process does not end")
    finally:
        if handle >= 0:
            os.close(handle)


def pause(record: records.Record, host: cgroups.Cgroups) -> None:
    status = record.status(host)
    if status not in ("created", "running"):
        raise OciFailure(f"cannot pause: container not running or created: {status}")
    try:
        host.freeze(record.cgroup)
    except OSError as error:
        raise OciFailure(f"cannot pause: {explain(error)}") from None


def resume(record: records.Record, host: cgroups.Cgroups) -> None:
    status = record.status(host)
    if status != "paused":
        raise OciFailure(f"cannot resume: container not paused: {status}")
    host.thaw(record.cgroup)


def update(record: records.Record, host: cgroups.Cgroups, change: dict[str, Any]) -> None:
    """Limits of a container that is not stopped; the record has them afterwards."""
    status = record.status(host)
    if status == "stopped":
        raise OciFailure("cannot update: container not running")
    if record.document.get("scope"):
        from runtime.oci import scopes

        scopes.change(str(record.document["scope"]), change)
    groups.apply(host, record.cgroup, change)
    if change.get("devices"):
        groups.allow_devices(host, record.cgroup, change)
    linux = record.config["linux"]
    merged = {**(linux.get("resources") or {})}
    for key, value in change.items():
        merged[key] = {**(merged.get(key) or {}), **value} if isinstance(value, dict) else value
    record.save(config={**record.config, "linux": {**linux, "resources": merged}})


def change_of(options: dict[str, Any], warn: Callable[[str], None]) -> dict[str, Any]:
    """The options of `update` as the object that --resources takes."""
    if "resources" in options:
        path = options["resources"]
        try:
            with open(0 if path == "-" else path, "rb") as file:
                document = jsontext.decode(file.read())
        except (OSError, ValueError) as error:
            raise OciFailure(f"cannot read resources from {path}: {error}") from None
        from runtime.oci import fields

        for warning in fields.check_resources(document, "standard input" if path == "-" else str(path)):
            warn(warning)
        return document  # type: ignore[no-any-return]
    for name in ("l3-cache-schema", "mem-bw-schema"):
        if options.get(name):
            raise OciFailure(f"cannot update {name}: cache and memory bandwidth are not divided (resctrl)")
    found: dict[str, Any] = {}
    for name, value in options.items():
        group, key = _UPDATES[name]
        found.setdefault(group, {})[key] = value
    return found


_UPDATES = {
    "blkio-weight": ("blockIO", "weight"),
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-burst": ("cpu", "burst"),
    "cpu-share": ("cpu", "shares"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "cpu-idle": ("cpu", "idle"),
    "cpuset-cpus": ("cpu", "cpus"),
    "cpuset-mems": ("cpu", "mems"),
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
    "pids-limit": ("pids", "limit"),
}


# ---------------------------------------------------------------- tables


def list_text(root: str, host: cgroups.Cgroups, *, quiet: bool, format: str) -> str:
    states = [state(record, host) for record in records.every(root)]
    if quiet:
        return "".join(f"{item['id']}\n" for item in states)
    if format == "json":
        return jsontext.encode(states or None).decode()
    if format not in ("", "table"):
        raise OciFailure(f"cannot list: invalid format option {format!r}")
    keys = ("id", "pid", "status", "bundle", "created", "owner")
    return _columns([[key.upper() for key in keys], *([str(item[key]) for key in keys] for item in states)])


def ps_text(record: records.Record, host: cgroups.Cgroups, words: Sequence[str], format: str) -> str:
    pids = host.pids(record.cgroup)
    if format == "json":
        return jsontext.encode(pids).decode()
    if format not in ("", "table"):
        raise OciFailure(f"cannot ps: invalid format option {format!r}")
    import subprocess  # as long to import as all else together

    result = subprocess.run(["ps", *(words or ("-ef",))], capture_output=True, text=True)
    if result.returncode:
        raise OciFailure(f"cannot ps: {result.stderr.strip()}")
    head, *lines = result.stdout.splitlines()
    names = head.split()
    if "PID" not in names:
        raise OciFailure("cannot ps: its options leave out the column PID")
    at = names.index("PID")
    own = [line for line in lines if line.split()[at].isdigit() and int(line.split()[at]) in pids]
    return "".join(f"{line}\n" for line in [head, *own])


def _columns(rows: list[list[str]]) -> str:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = ("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "".join(f"{line.rstrip()}\n" for line in lines)
