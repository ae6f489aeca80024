"""Decisions: whether what is to be pulled fits on the disk. What does not is blocked before it begins.

The pulls of one source are admitted together or not at all: half of what it needs would only fill the disk.
A pull counts with its download and its unpacked layers; steps in flight count in full, since how far they are
is not known. It is decided anew at every look, so room that is made is used at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agent.planner.decision import Decision
from agent.planner.model import KEPT, Blocked, PullImage, Step, World

#: seconds until the disk is looked at again while something does not fit
AGAIN = 10.0

_UNITS = ("B", "kB", "MB", "GB", "TB")


def size(count: int) -> str:
    """As docker writes it: powers of 1000, three digits."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.3g} {_UNITS[unit]}"


def fit(world: World, decisions: Mapping[str, Decision]) -> tuple[dict[str, Decision], int]:
    """(`decisions` about images without the pulls that have no room, bytes that the least of these lacks)"""
    disk = world.observed.disk
    found = dict(decisions)
    lacking: list[int] = []
    if not disk.total:
        return found, 0
    free = disk.free - world.limits.keep_free
    free -= sum(_need(world, step) for step in world.in_flight.values() if isinstance(step.action, PullImage))
    pulls: dict[str, list[tuple[str, Step]]] = {}
    for reference, decision in sorted(decisions.items()):
        step = decision.step("pull")
        if step is not None and step.subject not in world.in_flight and _need(world, step):
            pulls.setdefault(step.source, []).append((reference, step))
    for _, entries in sorted(pulls.items()):
        needed = sum(_need(world, step) for _, step in entries)
        if needed <= free:
            free -= needed
            continue
        lacking.append(needed - free)
        for reference, step in entries:
            found[reference] = _too_large(world, decisions[reference], step, len(entries), needed, free)
    return found, min(lacking, default=0)


def _need(world: World, step: Step) -> int:
    """Bytes; 0 while it was not measured."""
    measured = world.memory.measured.get(step.subject.name)
    return measured.size.total if measured is not None and measured.basis == step.basis else 0


def _too_large(world: World, decision: Decision, step: Step, count: int, needed: int, free: int) -> Decision:
    disk = world.observed.disk
    own = size(_need(world, step))
    more = "" if count == 1 else f" ({size(needed)} with {count - 1} more of source {step.source})"
    reason = (
        f"cannot pull image {step.subject.name}: needs {own}{more}, {size(max(0, free))} free on {disk.path}"
    )
    kept = step.cause.reason == "image"
    if kept:
        reason += "; the image in the store stays in use"
    code = KEPT if kept else "disk-full"
    blocked = Blocked(step.subject, reason, world.now + AGAIN, code, step.source)
    return replace(decision, steps=tuple(s for s in decision.steps if s.verb != "pull"), blocked=blocked)
