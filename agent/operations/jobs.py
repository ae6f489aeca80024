"""Effects: operations on jobs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from agent import runs
from runtime.faults import Fault
from runtime.local import LocalRuntime


def run(runtime: LocalRuntime, args: Mapping[str, Any]) -> float:
    """`name` is the full name of a job. It is written down, for the next round of the agent that lives or
    that comes. Returns when it was asked for, by which its line in the history is known (`due`)."""
    name, at = str(args["name"]), time.time()
    job = runs.read_jobs(runtime.paths.journal).get(name)
    if job is None:
        raise Fault("container-not-found", "run job", name, "no source declares such a job")
    if job.orphan:
        raise Fault("request-invalid", "run job", name, job.held)
    runs.ask(runtime.paths.journal, name, at)
    return at


OPERATIONS: Mapping[str, Callable[[LocalRuntime, Mapping[str, Any]], Any]] = {"job-run": run}
