"""Effects: an operation that changes limits and restart policy of a container that no source declares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from agent import byhand
from agent.operations import naming
from runtime import events
from runtime.faults import Fault
from runtime.local import LocalRuntime
from runtime.records import ContainerRecord
from runtime.wishes import ContainerRequest, LimitsRequest
from specs.values import ImageRef

#: limits that can be asked for; all others stay
KEYS = (
    "cpus", "cpu_weight", "cpuset", "memory", "memory_reservation", "memory_swap", "pids", "io_weight",
)  # fmt: skip


def update(runtime: LocalRuntime, args: Mapping[str, Any]) -> dict[str, str]:
    """`table` has keys of [container.NAME] that change; they hold at once where it runs, and for every later
    start. Faults request-invalid, also for what a source declares and for a limit below what is in use;
    limit-unsupported with what the kernel said, and then nothing has changed."""
    record = naming.container(runtime, str(args["name"]), "update container")
    if record.source:
        hint = f"change it there: {place(runtime, record)}"
        cause = f"source {record.source} declares it, and would change it back"
        raise Fault("request-invalid", "update container", record.name, cause, hint)
    table: dict[str, Any] = dict(args["table"])
    runtime.containers.update(naming.surely(record), lambda before: _changed(record, before, table))
    events.tell_container(runtime.paths.root, "update", record)
    return {"id": record.id, "name": record.name}


def _changed(record: ContainerRecord, before: ContainerRequest, table: Mapping[str, Any]) -> ContainerRequest:
    have = {key: getattr(before.limits, key) for key in KEYS}
    asked = {
        **{key: value for key, value in have.items() if value},
        **table,
        "command": ["true"],
        "network_mode": "none",
    }
    try:
        parsed = byhand.request(record.name, asked, byhand.Around(ImageRef.parse(record.image)))
    except Fault as fault:
        raise Fault(fault.code, "update container", record.name, fault.cause, fault.hint) from None
    limits = replace(before.limits, **{key: getattr(parsed.limits, key) for key in KEYS})
    _check(limits, record)
    restart = parsed.restart if "restart" in table else before.restart
    if before.auto_remove and restart.policy != "no":  # as `run --rm --restart` is refused
        cause = f"it is removed when it has ended (--rm): it cannot have the restart policy {restart.policy}"
        raise Fault("request-invalid", "update container", record.name, cause)
    return replace(before, limits=limits, restart=restart)


def _check(limits: LimitsRequest, record: ContainerRecord) -> None:
    """What docker refuses, too."""
    if 0 < limits.memory_swap < limits.memory:
        cause = f"memory ({limits.memory}) would be more than memory and swap together ({limits.memory_swap})"
        hint = "change memory-swap at the same time"
        raise Fault("request-invalid", "update container", record.name, cause, hint)


def place(runtime: LocalRuntime, record: ContainerRecord) -> str:
    """The file and line that declare it, where the source's last revision still does."""
    from agent.desired import Shelf, Surroundings, resolve
    from agent.settings import SettingsError, load

    try:
        settings = load()
        revision = Shelf(runtime.paths, record.source).get()
    except (SettingsError, Fault, OSError):
        return "its spec"
    if revision is None:
        return "its spec"
    variables = next((one.variables for one in settings.source if one.label == record.source), {})
    around = Surroundings(variables, settings.node_name, settings.node.labels)
    desired = resolve(record.source, revision, around, kept=True).desired
    want = desired.containers.get(record.name) if desired is not None else None
    return str(want.place) if want is not None else "its spec"


OPERATIONS: Mapping[str, Callable[[LocalRuntime, Mapping[str, Any]], Any]] = {"update": update}
