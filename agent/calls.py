"""Effects: what people may ask of whoever holds the root, by name: JSON in, JSON out, one function an
operation.

An operation takes the runtime and its arguments, does one thing, and returns what can be written as JSON. It
is an ensure: who asked may die meanwhile and ask again. It raises Fault, which crosses the socket as data.
The functions themselves live in agent/operations, a room a module; they are the same whether the agent runs
them or a command that found none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from agent.operations import creation, freezing, jobs, life, limits, naming
from runtime.faults import Fault
from runtime.local import LocalRuntime

Operation = Callable[[LocalRuntime, Mapping[str, Any]], Any]

#: containers that one request is about at once: what takes long is that they end
AT_ONCE = 100
#: its threads are made when they are first needed, and stay: each has a connection to the database
_SIDE_BY_SIDE = ThreadPoolExecutor(AT_ONCE, "each")

#: operation -> what does it
OPERATIONS: Mapping[str, Operation] = {
    **creation.OPERATIONS,
    **life.OPERATIONS,
    **freezing.OPERATIONS,
    **limits.OPERATIONS,
    **jobs.OPERATIONS,
}

#: after these a container runs: not before one does whose namespaces it has
_RUNS = frozenset({"start", "restart"})


def perform(runtime: LocalRuntime, op: str, args: Mapping[str, Any]) -> Any:
    """Fault request-invalid for an operation or an argument that is not there; else as the operation says."""
    operation = each if op == "each" else OPERATIONS.get(op)
    if operation is None:
        raise Fault("request-invalid", "call", op, "there is no such operation", "is the agent an older one?")
    return operation(runtime, _Arguments(op, args))


class _Arguments(dict[str, Any]):
    """Says which one an operation needs and did not get."""

    def __init__(self, op: str, args: Mapping[str, Any]) -> None:
        super().__init__(args)
        self._op = op

    def __missing__(self, name: str) -> Any:
        raise Fault("request-invalid", "call", self._op, f"argument {name!r} is missing")


def each(runtime: LocalRuntime, args: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One operation `op` with `args` on each of `names`, side by side; an answer each, as it crosses the
    socket. The name of a service means its replicas."""
    op, more, asked = args["op"], args.get("args", {}), args["names"]
    if not isinstance(op, str):
        raise Fault("request-invalid", "call", "each", "its op is a word")
    if op == "each":  # its threads would wait for each other
        raise Fault("request-invalid", "call", "each", "it cannot be done on each")
    if not isinstance(asked, list) or not isinstance(more, dict):
        raise Fault("request-invalid", "call", "each", "its names are a list, its args a table")
    names = naming.meant(runtime, [str(name) for name in asked])

    def one(name: str) -> dict[str, Any]:
        try:
            done = perform(runtime, op, {**more, "name": name})
        except Fault as fault:
            return {"name": name, "fault": document(fault)}
        return {"name": name, "result": done}

    if len(names) < 2:
        return [one(name) for name in names]
    first = names if op not in _RUNS else naming.free(runtime, names)
    found = dict(zip(first, _SIDE_BY_SIDE.map(one, first), strict=True))
    return [found[name] if name in found else one(name) for name in names]


def document(fault: Fault) -> dict[str, str]:
    """A fault as it crosses the socket; runtime.faults.Fault(**document) is the same again."""
    return {
        "code": fault.code,
        "operation": fault.operation,
        "subject": fault.subject,
        "cause": fault.cause,
        "hint": fault.hint,
    }
