"""Effects: the jobs that the journal knows, by the names that people give."""

from __future__ import annotations

import time

from agent.cli.main import Problem
from agent.runs import read_jobs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agent.planner.runs import Job
    from runtime.paths import Paths


def find(paths: Paths, name: str) -> tuple[str, Job]:
    """The full name, and what is remembered; `name` may be its last part. Problem when there is none."""
    jobs = read_jobs(paths.journal)
    fits = [full for full in jobs if name in (full, full.rpartition("/")[2])]
    if len(fits) == 1:
        return fits[0], jobs[fits[0]]
    if fits:
        raise Problem(f"there are several jobs {name}: {', '.join(fits)}")
    known = ", ".join(sorted(jobs)[:5]) or "none; an agent keeps them, of what its sources declare"
    raise Problem(f"there is no job {name} (there: {known})")


def told(paths: Paths) -> dict[str, dict[str, Any]]:
    """What `ps --json` and `inspect` have of each job, by container; nothing of an unreadable journal, which
    keeps nobody from looking at containers."""
    from runtime.faults import Fault

    try:
        jobs = read_jobs(paths.journal)
    except Fault:
        return {}
    if not jobs:
        return {}
    from dataclasses import asdict

    from agent.stores import job

    now = time.time()
    return {name: asdict(job(name, item, now)) for name, item in jobs.items()}
