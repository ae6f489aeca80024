"""Effects: operations that pause containers and let them go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from runtime.local import LocalRuntime


def pause(runtime: LocalRuntime, args: Mapping[str, Any]) -> None:
    """`name` is a full name or an id."""
    runtime.pause_container(str(args["name"]))


def unpause(runtime: LocalRuntime, args: Mapping[str, Any]) -> None:
    """`name` is a full name or an id."""
    runtime.unpause_container(str(args["name"]))


OPERATIONS: Mapping[str, Callable[[LocalRuntime, Mapping[str, Any]], Any]] = {
    "pause": pause,
    "unpause": unpause,
}
