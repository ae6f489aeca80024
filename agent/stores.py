"""Decisions: what people are shown of volumes (orphans, backups and their next times) and of jobs. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from agent.planner.backups import NONE, next_times
from agent.planner.model import World
from agent.planner.runs import Job
from agent.planner.volumes import goes_at
from agent.view import BackupView, JobView, OrphanView


def orphans(world: World) -> tuple[OrphanView, ...]:
    return tuple(
        OrphanView(name, have.source, have.orphaned_at, have.orphan_size, goes_at(have, world.limits))
        for name, have in sorted(world.observed.volumes.items())
        if have.orphaned_at
    )


def backups(world: World) -> tuple[BackupView, ...]:
    """Of every volume that exists and has a schedule."""
    found = []
    for source, desired in sorted(world.desired.items()):
        for name, want in sorted(desired.volumes.items()):
            have, last = world.observed.volumes.get(name), world.memory.backups.get(name, NONE)
            if want.backup is None or have is None:
                continue
            times = next_times(want.backup, last, have.created_at, world)
            view = BackupView(
                name,
                source,
                last.at,
                last.seconds,
                last.bytes,
                last.path,
                times[0],
                last.drilled_at,
                last.drill_seconds,
                times[1],
                _error(world, name),
            )
            found.append(view)
    return tuple(found)


def _error(world: World, volume: str) -> str:
    """Why the last backup or drill failed, where the last one did."""
    failed = [
        attempt
        for attempt in world.memory.attempts.values()
        if attempt.code and attempt.subject.kind == "backup" and attempt.subject.name == volume
    ]
    return max(failed, key=lambda item: item.at).reason if failed else ""


def jobs(known: Mapping[str, Job], clock: float) -> tuple[JobView, ...]:
    """Of every job that is remembered, by name."""
    return tuple(job(name, item, clock) for name, item in sorted(known.items()))


def job(name: str, known: Job, clock: float) -> JobView:
    waits = known.queue[0] if known.queue else None
    state = "running" if known.run is not None else "waiting" if waits is not None else "idle"
    state = "orphan" if known.orphan else state
    last = known.last
    return JobView(
        name=name,
        source=known.source,
        schedule=known.schedule,
        state=state,
        next_at=known.next_at,
        began=known.run.began if known.run is not None else 0.0,
        retry_at=waits.begin if waits is not None and waits.begin > clock else None,
        last_result=last.result if last is not None else "",
        last_exit_code=last.exit_code if last is not None else None,
        last_began=last.began if last is not None else 0.0,
        last_ended=last.ended if last is not None else 0.0,
        last_success=known.last_success,
        results=dict(known.results),
        held=known.held,
    )
