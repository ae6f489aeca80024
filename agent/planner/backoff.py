"""Decisions: when a step that failed, or that did not last, may be tried again. Memory in, Memory out.

Kinds of waiting, both by step id and basis (what exactly was attempted):

- a failure waits 1 s doubling to 60 s when it passes by itself (faults.TRANSIENT), else 5 s doubling to
  300 s;
- a backup that failed waits 60 s doubling to an hour: it reads all of a volume, and may stop containers;
- a look at a tag that failed waits as long as what does not pass by itself: what there is goes on meanwhile;
- a success that is needed again at once is allowed twice, then paced 1 s doubling to 60 s, so that a repair
  that cures nothing, or somebody who keeps killing a thing, never makes a busy loop;
- what holds networks together costs little and is missed at once: its repair is allowed ten times, then paced
  1 s doubling to 5 s.

Another basis (a corrected spec, another defect, a new container of the same name) starts afresh.
"""

from __future__ import annotations

from dataclasses import replace

from agent.planner.learning import learned
from agent.planner.model import (
    Attempt,
    Blocked,
    Limits,
    LookUpImage,
    Memory,
    RepairContainer,
    RepairFirewall,
    RepairNetwork,
    Result,
    Step,
)
from runtime.faults import TRANSIENT

#: successes in a row that cost no waiting
FREE, FREE_OF_NETWORKS = 2, 10
#: the longest pause between two such repairs of networks, in seconds
NETWORKS_MAX = 5.0
#: kinds of things that containers wait for, which tell what they wait for with the line that asks for it
_SHARED = ("volume", "network")
#: seconds without a repetition after which the count starts afresh (at least twice the wait)
QUIET = 60.0


def failure_delay(
    code: str, count: int, limits: Limits, *, patient: bool = False, heavy: bool = False
) -> float:
    """Seconds to wait after the `count`th failure in a row (count >= 1). `patient`: nothing waits for it,
    `heavy`: an attempt costs much."""
    if heavy:
        return _doubled(limits.backup_initial, count, limits.backup_max)
    if code in TRANSIENT and not patient:
        return _doubled(limits.transient_initial, count, limits.transient_max)
    return _doubled(limits.failure_initial, count, limits.failure_max)


def _doubled(initial: float, count: int, maximum: float) -> float:
    return min(maximum, initial * 2.0 ** min(count - 1, 30))


def failed(memory: Memory, step: Step, code: str, reason: str, now: float, limits: Limits) -> Memory:
    """What is remembered after `step` failed with `code`."""
    last = memory.attempts.get(step.id)
    count = last.count + 1 if last and last.basis == step.basis and last.code else 1
    patient = isinstance(step.action, LookUpImage)  # registries count requests
    heavy = step.subject.kind == "backup"
    until = now + failure_delay(code, count, limits, patient=patient, heavy=heavy)
    attempt = Attempt(step.subject, step.basis, count, now, until, code, reason, step.source)
    return _with(memory, step, attempt, now)


def succeeded(memory: Memory, step: Step, now: float, limits: Limits, result: Result = None) -> Memory:
    """What is remembered after `step` succeeded and found out `result`. A removal forgets all about its
    subject."""
    memory = learned(memory, step, result, now)
    if step.verb == "remove":
        kept = {key: a for key, a in memory.attempts.items() if a.subject != step.subject}
        memory = replace(memory, attempts=kept)
        if step.subject.kind != "container":
            return memory
        depends = {name: on for name, on in memory.depends.items() if name != step.subject.name}
        return replace(memory, depends=depends)
    last = memory.attempts.get(step.id)
    repeated = last is not None and last.basis == step.basis and not last.code
    count = last.count + 1 if last and repeated and now < last.at + _quiet(last) else 1
    free, longest = FREE, limits.transient_max
    if _is_of_networks(step):
        free, longest = FREE_OF_NETWORKS, min(NETWORKS_MAX, limits.transient_max)
    wait = 0.0 if count <= free else _doubled(limits.transient_initial, count - free, longest)
    attempt = Attempt(step.subject, step.basis, count, now, now + wait, source=step.source)
    return _with(memory, step, attempt, now)


def _is_of_networks(step: Step) -> bool:
    match step.action:
        case RepairFirewall() | RepairNetwork():
            return True
        case RepairContainer(network=network):
            return network
        case _:
            return False


def _quiet(attempt: Attempt) -> float:
    return max(QUIET, 2 * (attempt.until - attempt.at))


def _with(memory: Memory, step: Step, attempt: Attempt, now: float) -> Memory:
    """Old attempts that nobody repeated are dropped here, so that memory stays as small as the work."""
    kept = {key: a for key, a in memory.attempts.items() if now < a.until + 10 * QUIET}
    return replace(memory, attempts={**kept, step.id: attempt})


def new_revision(memory: Memory, source: str, depends: dict[str, frozenset[str]]) -> Memory:
    """`source` has a new revision: its failures are tried at once, its `pull = always` images pulled again.

    `depends` (container -> containers it depends on) is kept for the order in which they are removed later.
    """
    attempts = {key: a for key, a in memory.attempts.items() if a.source != source or not a.code}
    pulled = frozenset(entry for entry in memory.pulled if entry[0] != source)
    return replace(memory, attempts=attempts, pulled=pulled, depends={**memory.depends, **depends})


def gate(memory: Memory, step: Step, now: float) -> Blocked | None:
    """Why `step` may not be started now, or None."""
    last = memory.attempts.get(step.id)
    if last is None or last.basis != step.basis or now >= last.until:
        return None
    if last.code:
        reason = last.reason
        if step.cause.place is not None and step.subject.kind in _SHARED:
            reason += f" ({step.cause.place})"
        return Blocked(step.subject, reason, last.until, last.code, step.source, last.count)
    reason = f"was done {last.count} times in a row and is needed again: {step.cause.text}"
    return Blocked(step.subject, reason, last.until, "no-effect", step.source, last.count)
