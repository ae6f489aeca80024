"""Decisions: which backups of volumes are due, and which of them are to be restored aside and compared.

A run that was missed, because the machine was off or the agent did not live, is made up for once. A volume
that was never backed up counts from when it was made. Drills count from the first backup.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from agent.planner.decision import Decision, chain
from agent.planner.model import Backup, BackupVolume, Cause, DrillBackup, Step, Subject, World
from specs.desired import DesiredBackup, DesiredVolume
from specs.schedule import Schedule

NONE = Backup()


def decide(world: World, owners: dict[str, str]) -> Iterator[Decision]:
    """One at most for each volume that has a schedule and exists: its backup, then its drill."""
    if not world.backing_up:
        return
    for name, source in sorted(owners.items()):
        want, have = world.desired[source].volumes.get(name), world.observed.volumes.get(name)
        if want is None or want.backup is None or have is None or have.fingerprint != want.fingerprint:
            continue
        last = world.memory.backups.get(name, NONE)
        yield _decide(world, source, want, want.backup, last, have.created_at)


def _decide(
    world: World, source: str, want: DesiredVolume, backup: DesiredBackup, last: Backup, created: float
) -> Decision:
    at, drill_at = next_times(backup, last, created, world)
    make = BackupVolume(want.name, backup, world.revisions.get(source, ""))
    coming: list[Due] = []
    if at is not None:
        coming.append((at, make, backup.schedule))
    if drill_at is not None:
        coming.append((drill_at, DrillBackup(want.name, backup), backup.drill))
    due = sorted((item for item in coming if item[0] <= world.clock), key=lambda item: item[0])
    if not due:
        times = [at for at, _, _ in coming]
        return Decision(next_look=world.now + min(times) - world.clock if times else None)
    found = [_run(world, source, want, last, item) for item in due]  # what waits longest comes first
    return next((decision for decision in found if decision.steps), found[0])


Due = tuple[float, BackupVolume | DrillBackup, Schedule | None]


def _run(world: World, source: str, want: DesiredVolume, last: Backup, due: Due) -> Decision:
    """Every run is another one than the last that went well, however soon it comes (planner.backoff)."""
    at, action, schedule = due
    since = datetime.fromtimestamp(at, world.zone).strftime("%Y-%m-%d %H:%M")
    cause = Cause("schedule", f"is due since {since} ({schedule})", want.place)
    done = last.drilled_at if isinstance(action, DrillBackup) else last.at
    basis = f"{action.backup.to} {action.backup.quiesce} {done}"
    return chain(world, Step(Subject("backup", want.name), action, cause, source=source, basis=basis))


def next_times(
    backup: DesiredBackup, last: Backup, created: float, world: World
) -> tuple[float | None, float | None]:
    """When the next backup and the next drill are due, in seconds since the epoch; None: never."""
    return (
        _next(backup.schedule, last.at or created, world),
        _next(backup.drill, last.drilled_at or last.first_at or last.at, world) if last.at else None,
    )


def _next(schedule: Schedule | None, after: float, world: World) -> float | None:
    if schedule is None:
        return None
    try:
        return schedule.next(after, world.zone)
    except ValueError:  # not in our time
        return None
