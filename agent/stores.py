"""Decisions: what people are shown of volumes: orphans, and backups with their next times. Pure."""

from __future__ import annotations

from agent.planner.backups import NONE, next_times
from agent.planner.model import World
from agent.planner.volumes import goes_at
from agent.view import BackupView, OrphanView


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
