"""Decisions: what is remembered of a step that succeeded, besides that it did. Memory in, Memory out."""

from __future__ import annotations

from dataclasses import replace

from agent.planner.jobs import begun
from agent.planner.model import (
    BackedUp,
    Backup,
    BackupVolume,
    Built,
    BuiltImage,
    CollectImages,
    DrillBackup,
    Drilled,
    Look,
    Looked,
    LookUpImage,
    Measured,
    MeasureImage,
    Memory,
    PullImage,
    Result,
    RunJob,
    Sized,
    Step,
)
from runtime.build.request import BASE_PART, BuildInputs


def learned(memory: Memory, step: Step, result: Result, now: float) -> Memory:
    name = step.subject.name
    match step.action, result:
        case PullImage(sources=sources), _:
            measured = {key: value for key, value in memory.measured.items() if key != name}
            looks = {**memory.looks, name: Look(now)}
            return replace(memory, pulled=_pulled(memory, sources, name), looks=looks, measured=measured)
        case LookUpImage(sources=sources), Looked(digest=digest):
            looks = {**memory.looks, name: Look(now, digest)}
            return replace(memory, pulled=_pulled(memory, sources, name), looks=looks)
        case MeasureImage(), Sized(size=size):
            return replace(memory, measured={**memory.measured, name: Measured(step.basis, size)})
        case _, BuiltImage(key=key, image=image):
            return replace(memory, built={**memory.built, name: Built(key, image)})
        case BackupVolume(volume=volume), BackedUp(made=made):
            last = memory.backups.get(volume, Backup())
            first = last.first_at or made.at
            kept = replace(
                last, at=made.at, seconds=made.seconds, bytes=made.bytes, path=made.path, first_at=first
            )
            return replace(memory, backups={**memory.backups, volume: kept})
        case DrillBackup(volume=volume), Drilled(done=done):
            last = memory.backups.get(volume, Backup())
            kept = replace(last, drilled_at=done.begun, drill_seconds=done.seconds)
            return replace(memory, backups={**memory.backups, volume: kept})
        case RunJob(name=container, due=due), _:
            return replace(memory, jobs=begun(memory.jobs, container, due))
        case CollectImages(), _:
            return replace(memory, collected=now)
        case _:
            return memory


def key_of_build(before: BuildInputs, after: BuildInputs, *, pull: bool) -> str:
    """The key of what was built, from what was there before it and after it.

    A build brings base images that were not here (with `pull`, newer ones as well): they are what it was made
    from. Whatever else changed meanwhile may have come too late for it: then it is built again.
    """
    names = before.parts.keys() | after.parts.keys()
    changed = {name for name in names if before.parts.get(name) != after.parts.get(name)}
    brought = {
        name
        for name in changed
        if name.startswith(BASE_PART) and (pull or not before.parts.get(name)) and after.parts.get(name)
    }
    return after.key if changed and changed == brought else before.key


def _pulled(memory: Memory, sources: tuple[str, ...], name: str) -> frozenset[tuple[str, str]]:
    return memory.pulled | {(source, name) for source in sources}
