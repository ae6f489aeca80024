"""Effects: operations that pause containers and let them go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agent.operations import naming
from runtime.local import LocalRuntime


def pause(runtime: LocalRuntime, args: Mapping[str, Any]) -> None:
    """Faults of runtime.freezer."""
    record = naming.container(runtime, str(args["name"]), "pause container")
    runtime.pause_container(naming.surely(record))


def unpause(runtime: LocalRuntime, args: Mapping[str, Any]) -> None:
    """Faults of runtime.freezer."""
    record = naming.container(runtime, str(args["name"]), "unpause container")
    runtime.unpause_container(naming.surely(record))


OPERATIONS: Mapping[str, Callable[[LocalRuntime, Mapping[str, Any]], Any]] = {
    "pause": pause,
    "unpause": unpause,
}
