"""Effects: what outlives the agent of the planner's memory, kept in the journal: looks at tags, builds,
backups, the last collection. Losing it costs a request, a cached build, an early backup and collection.

The planner counts on a monotonic clock, the journal in seconds since the epoch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import astuple, replace
from typing import TypeVar

from agent.clock import Clock
from agent.execute import Outcome
from agent.journal import BACKUP, Journal
from agent.planner.model import Backup, Built, Look, Memory

LOOK, BUILT, COLLECTED = "look", "built", "collected"


Remembered = Callable[[str], Mapping[str, tuple[str, float]]]
T = TypeVar("T")


def recall(remembered: Remembered, clock: Clock, memory: Memory) -> Memory:
    """`memory` with what the journal remembers. What was written by a clock that is ahead counts as now."""
    now, monotonic = clock.time(), clock.monotonic()

    def when(at: float) -> float:
        return monotonic - max(0.0, now - at)

    looks = {name: Look(when(at), digest) for name, (digest, at) in remembered(LOOK).items()}
    built = _read(Built, remembered(BUILT))
    backups = _read(Backup, remembered(BACKUP))
    collected = [when(at) for _, at in remembered(COLLECTED).values()]
    memory = replace(memory, looks=looks, built=built, backups=backups)
    return replace(memory, collected=max(collected, default=None))


def _read(kind: type[T], kept: Mapping[str, tuple[str, float]]) -> dict[str, T]:
    """What no release can read any more is left out."""
    found = {}
    for name, (value, _) in kept.items():
        try:
            found[name] = kind(*json.loads(value))
        except (ValueError, TypeError):
            continue
    return found


def keep(journal: Journal, clock: Clock, memory: Memory, outcome: Outcome) -> None:
    """Write down what `outcome`, which succeeded, changed of `memory`."""
    now, name = clock.time(), outcome.step.subject.name
    match outcome.step.verb:
        case "pull" | "look-up":
            journal.remember(LOOK, name, memory.looks[name].digest, now)
        case "build":
            built = memory.built[name]
            journal.remember(BUILT, name, json.dumps([built.key, built.image]), now)
        case "run" | "drill":
            journal.remember(BACKUP, name, json.dumps(astuple(memory.backups[name])), now)
        case "collect":
            journal.remember(COLLECTED, "", "", now)
        case _:
            pass
