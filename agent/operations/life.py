"""Effects: operations on the life of containers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from runtime.local import LocalRuntime


def stop(runtime: LocalRuntime, args: Mapping[str, Any]) -> None:
    """`name` is a full name or an id."""
    runtime.stop_container(str(args["name"]))


def start(runtime: LocalRuntime, args: Mapping[str, Any]) -> None:
    """`name` is a full name or an id."""
    runtime.start_container(str(args["name"]))


OPERATIONS: Mapping[str, Callable[[LocalRuntime, Mapping[str, Any]], Any]] = {"start": start, "stop": stop}
