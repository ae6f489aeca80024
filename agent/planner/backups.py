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
    subject, wakes = Subject("backup", want.name), []
    times = next_times(backup, last, created, world)
    for action, at, schedule in (
        (BackupVolume(want.name, backup, world.revisions.get(source, "")), times[0], backup.schedule),
        (DrillBackup(want.name, backup), times[1], backup.drill),
    ):
        if at is None or schedule is None:
            continue
        if at > world.clock:
            wakes.append(world.now + at - world.clock)
            continue
        due = datetime.fromtimestamp(at, world.zone).strftime("%Y-%m-%d %H:%M")
        cause = Cause("schedule", f"is due since {due} ({schedule})", want.place)
        basis = f"{backup.to} {backup.quiesce} {last.at if isinstance(action, DrillBackup) else ''}"
        return chain(world, Step(subject, action, cause, source=source, basis=basis))
    return Decision(next_look=min(wakes, default=None))


def next_times(
    backup: DesiredBackup, last: Backup, created: float, world: World
) -> tuple[float | None, float | None]:
    """When the next backup and the next drill are due, in seconds since the epoch; None: never."""
    return (
        _next(backup.schedule, last.at or created, world),
        _next(backup.drill, last.drilled_at or last.at, world) if last.at else None,
    )


def _next(schedule: Schedule | None, after: float, world: World) -> float | None:
    if schedule is None:
        return None
    try:
        return schedule.next(after, world.zone)
    except ValueError:  # not in our time
        return None
