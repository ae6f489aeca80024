"""Decisions: what is remembered of a step that succeeded, besides that it did. Memory in, Memory out."""

from __future__ import annotations

from dataclasses import replace

from agent.planner.model import (
    Built,
    BuiltImage,
    CollectImages,
    Look,
    Looked,
    LookUpImage,
    Measured,
    MeasureImage,
    Memory,
    PullImage,
    Result,
    Sized,
    Step,
)


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
        case CollectImages(), _:
            return replace(memory, collected=now)
        case _:
            return memory


def _pulled(memory: Memory, sources: tuple[str, ...], name: str) -> frozenset[tuple[str, str]]:
    return memory.pulled | {(source, name) for source in sources}
