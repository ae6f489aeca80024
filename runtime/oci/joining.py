"""Effects: exec: a further process of a running container, by the code that shims use."""

from __future__ import annotations

import os
import select

from runtime.linux import jsontext, pidfd
from runtime.linux.cgroups_v2 import write
from runtime.oci import create, fields, gate, groups, records
from runtime.oci.failure import OciFailure, explain
from runtime.shim import launch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from runtime.linux.cgroups import Cgroups

    Process = dict[str, Any]


def process_of(
    record: records.Record, options: dict[str, Any], words: list[str], warn: Callable[[str], None]
) -> Process:
    """The container's own process with what the options change, or the file that --process names."""
    if options.get("process"):
        try:
            with open(options["process"], "rb") as file:
                process = jsontext.decode(file.read(create.MAX_DOCUMENT))
        except (OSError, ValueError) as error:
            raise OciFailure(f"exec failed: cannot read {options['process']}: {error}", 255) from None
    else:
        process = _changed({**record.config["process"]}, options, words)
    if not isinstance(process, dict) or not process.get("args"):
        raise OciFailure("exec failed: process args cannot be empty", 255)
    process["user"] = process.get("user") or {}
    process["cwd"] = process.get("cwd") or "/"
    try:
        for warning in fields.check_process(process, str(options.get("process") or "the options")):
            warn(warning)
    except OciFailure as failed:
        raise OciFailure(f"exec failed: {failed.message}", 255) from None
    for key in ("personality", "oomScoreAdj"):
        if key in record.config["process"]:
            process.setdefault(key, record.config["process"][key])
    return process


def _changed(process: Process, options: dict[str, Any], words: list[str]) -> Process:
    process["args"] = words
    process["terminal"] = bool(options.get("tty"))
    process.pop("consoleSize", None)
    process["env"] = [*(process.get("env") or ()), *(options.get("env") or ())]
    for option, key in (("cwd", "cwd"), ("process-label", "selinuxLabel"), ("apparmor", "apparmorProfile")):
        if options.get(option):
            process[key] = options[option]
    if options.get("no-new-privs"):
        process["noNewPrivileges"] = True
    for name in options.get("cap") or ():
        held = dict(process.get("capabilities") or {})
        for kind in ("bounding", "effective", "permitted"):
            held[kind] = [*(held.get(kind) or ()), name]
        process["capabilities"] = held
    user = dict(process.get("user") or {})
    if options.get("user"):
        uid, colon, gid = str(options["user"]).partition(":")
        user.update(uid=_id("user", uid), **({"gid": _id("user", gid)} if colon else {}))
    if options.get("additional-gids"):
        more = [_id("additional-gids", group) for group in options["additional-gids"]]
        user["additionalGids"] = [*(user.get("additionalGids") or ()), *more]
    process["user"] = user
    return process


def _id(option: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise OciFailure(f"exec failed: --{option}: {text!r} is no number", 255) from None


def join(
    record: records.Record,
    host: Cgroups,
    process: Process,
    root: str,
    *,
    console: int | None,
    preserved: int,
    groups_below: list[str],
    ignore_paused: bool,
) -> launch.Child:
    """The process runs when this returns. OciFailure with 255 when it does not."""
    status = record.status(host)
    if status == "paused" and not ignore_paused:
        raise OciFailure(
            "exec failed: cannot exec in a paused container (use --ignore-paused to override)", 255
        )
    if status not in ("running", "created", "paused"):
        raise OciFailure(f"exec failed: cannot exec in a {status} container", 255)
    program_filter, flags = create.read_filter(record.config, root)
    config = {**record.config, "process": process}
    launcher = launch.Launcher(config, str(record.document["bundle"]), record.cgroup, host)
    made = gate.ExecGate(
        keyring=False, preserved=preserved, program_filter=program_filter, filter_flags=flags
    )
    handle = pidfd.open_pidfd(record.pid)
    try:
        if not record.is_alive():
            raise OciFailure("exec failed: cannot exec in a stopped container", 255)
        child = launcher.join(process, handle, (0, 1, 2), console, gates=made)
    except OSError as error:
        raise OciFailure(f"exec failed: {explain(error)}", 255) from None
    finally:
        os.close(handle)
    for below in groups_below:
        _move(host, record.cgroup, below, child.pid)
    poll = select.poll()
    poll.register(child.report, select.POLLIN)
    poll.poll()
    failure = launch.read_report(child)
    if failure is not None:
        pidfd.wait(child.pidfd, create.END)
        raise OciFailure(f"exec failed: {create.explain_failure(failure, process)}", 255)
    return child


def _move(host: Cgroups, cgroup: str, below: str, pid: int) -> None:
    """`[controllers:]path`, a cgroup below the container's that is there."""
    controllers, colon, path = below.rpartition(":")
    path = os.path.normpath(f"/{path}").strip("/")
    roots = host.roots()
    if colon:
        if groups.is_v2(host) or host.v1 is None:
            raise OciFailure(f"exec failed: cgroup {below}: cgroup v2 has one hierarchy only", 255)
        missing = [name for name in controllers.split(",") if name not in host.v1.mounted]
        if missing:
            raise OciFailure(f"exec failed: cgroup {below}: this host has no {missing[0]} controller", 255)
        roots = [host.v1.mounted[name] for name in controllers.split(",")]
    for root in roots:
        try:
            write(f"{root}/{cgroup}/{path}/cgroup.procs", str(pid))
        except OSError as error:
            raise OciFailure(f"exec failed: cgroup {below}: {explain(error)}", 255) from None
