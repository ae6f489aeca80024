"""Effects: operations on the life of containers, whoever made them: start, stop, kill, rename, remove.

`name` is what people type: a full name, its last part, an id or the beginning of one. What a source declares
and a person stops stays stopped until a person starts it: that is written down first, so that nobody starts
it between.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from agent.operations import naming
from runtime import attend, events
from runtime.faults import Fault
from runtime.linux import signals
from runtime.local import LocalRuntime
from runtime.observations import HandStop, Phase
from runtime.records import ContainerRecord

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")
_LONGEST = 200
#: Seconds of a grace period: what select(2), and so everybody who waits for it, takes.
_GRACE = 10**9


def start(runtime: LocalRuntime, args: Mapping[str, Any]) -> dict[str, str]:
    """From whatever phase to running; a source that declares it decides about it again. Returns id and name.

    Faults of runtime.interface.Runtime.start_container.
    """
    record = naming.container(runtime, str(args["name"]), "start container")
    if record.source:
        runtime.containers.hand_back(record.name)
    runtime.start_container(naming.surely(record))
    return _who(record)


def stop(runtime: LocalRuntime, args: Mapping[str, Any]) -> dict[str, str]:
    """Signal, grace, SIGKILL. `signal` and `timeout` (seconds) are its own where left out; `who`, `terminal`
    and `reason` are kept with what a source declares. What is removed by itself is gone when this
    returns."""
    record, timeout = naming.container(runtime, str(args["name"]), "stop container"), _timeout(args, "stop")
    if record.source:
        said = {key: str(args.get(key) or "") for key in ("who", "terminal", "reason")}
        runtime.containers.stop_by_hand(record.name, HandStop(time.time(), **said))
    signal = _signal(args, record)
    if timeout == 0:
        _hurry(runtime, record)
    runtime.containers.stop(naming.surely(record), signal=signal, timeout=timeout)
    _remove_by_itself(runtime, record)
    return _who(record)


def restart(runtime: LocalRuntime, args: Mapping[str, Any]) -> dict[str, str]:
    """Stop and start; of what a source declares and a person stopped, that is the end of it."""
    record, timeout = (
        naming.container(runtime, str(args["name"]), "restart container"),
        _timeout(args, "restart"),
    )
    signal = _signal(args, record)
    if record.source:
        runtime.containers.hand_back(record.name)
    runtime.containers.restart(naming.surely(record), signal=signal, timeout=timeout)
    events.tell_container(runtime.paths.root, "restart", record)
    return _who(record)


def kill(runtime: LocalRuntime, args: Mapping[str, Any]) -> dict[str, str]:
    """A signal (SIGKILL unless said otherwise) to its first process.

    Whether it runs again is its source's matter, or that of its restart policy; what no source declares stays
    ended after SIGKILL, as docker has it. Fault container-not-running.
    """
    record = naming.container(runtime, str(args["name"]), "kill container")
    signal = _signal({"signal": args.get("signal") or "KILL"}, record)
    if signals.number_of(signal) == 9 and not record.source and attend.is_up(runtime.paths, record):
        runtime.containers.stop(naming.surely(record), signal="SIGKILL", timeout=0.0)
        _remove_by_itself(runtime, record)
    else:
        runtime.containers.kill(naming.surely(record), signal)
    return _who(record)


def rename(runtime: LocalRuntime, args: Mapping[str, Any]) -> dict[str, str]:
    """Fault request-invalid for a name that is none, and for what a source declares; container-exists."""
    record = naming.container(runtime, str(args["name"]), "rename container")
    new = str(args["new"]).removeprefix("/")
    if record.source:
        hint = "change its name there"
        raise Fault("request-invalid", "rename container", record.name, declared(record), hint)
    if not _NAME.match(new) or len(new) > _LONGEST:
        cause = f"{new!r} is no name: letters, digits, _ . -, at least two"
        raise Fault("request-invalid", "rename container", record.name, cause)
    if new == record.name:
        raise Fault("request-invalid", "rename container", record.name, "it is called that already")
    runtime.containers.rename(record.id, new)
    return {"id": record.id, "name": new}


def remove(runtime: LocalRuntime, args: Mapping[str, Any]) -> dict[str, str]:
    """`force` kills what runs, and takes what a source declares (which makes it anew); `volumes`: with its
    anonymous volumes. Faults container-not-found, container-running, request-invalid."""
    record = naming.container(runtime, str(args["name"]), "remove container")
    force = bool(args.get("force"))
    if record.source and not force:
        hint = "take it out of the spec; -f removes it all the same, and it is made anew"
        raise Fault("request-invalid", "remove container", record.name, declared(record), hint)
    if force:
        _hurry(runtime, record)
    volumes = bool(args.get("volumes"))
    runtime.containers.remove(naming.surely(record), volumes=volumes, kill=force, ended=not force)
    return _who(record)


def discard(runtime: LocalRuntime, args: Mapping[str, Any]) -> dict[str, str]:
    """`remove` with force; a name that is gone is no fault, and then nothing is returned."""
    try:
        return remove(runtime, {**args, "force": True})
    except Fault as fault:
        if fault.code != "container-not-found" or "fit" in fault.cause:
            raise
        return {}


def declared(record: ContainerRecord) -> str:
    return f"source {record.source} declares it"


def _hurry(runtime: LocalRuntime, record: ContainerRecord) -> None:
    """The grace period of a stop that is under way is no one's who gives none."""
    state = attend.live_state(runtime.paths, record)
    if state is not None and state.phase == Phase.STOPPING:
        with suppress(Fault):  # it has ended meanwhile
            runtime.containers.kill(naming.surely(record), "SIGKILL")


def _remove_by_itself(runtime: LocalRuntime, record: ContainerRecord) -> None:
    """One that goes when it has ended, and that nobody waits for."""
    if record.decode().auto_remove == "now":
        runtime.containers.remove(record.id)


def _timeout(args: Mapping[str, Any], op: str) -> float | None:
    """None: the container's own. Raises Fault request-invalid."""
    found = args.get("timeout")
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= _GRACE:
        raise Fault("request-invalid", "call", op, f"its timeout is no number of seconds up to {_GRACE}")
    return float(found)


def _signal(args: Mapping[str, Any], record: ContainerRecord) -> str:
    """As the shim takes it. Fault request-invalid for one that is none."""
    name = str(args.get("signal") or "").upper()
    try:
        if name:
            signals.number_of(name)
    except ValueError:
        raise Fault("request-invalid", "signal container", record.name, f"{name!r} is no signal") from None
    return name


def _who(record: ContainerRecord) -> dict[str, str]:
    return {"id": record.id, "name": record.name}


OPERATIONS: Mapping[str, Callable[[LocalRuntime, Mapping[str, Any]], Any]] = {
    "start": start,
    "stop": stop,
    "restart": restart,
    "kill": kill,
    "rename": rename,
    "remove": remove,
    "discard": discard,
}
