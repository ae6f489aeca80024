"""Decisions: whether a source is converged, is still on its way, or cannot get there, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from agent.planner.model import NOTES, Blocked, Plan, Step, Subject
from runtime.faults import TRANSIENT
from runtime.observations import Health, Observed, ObservedContainer, Phase
from specs.desired import Desired, DesiredContainer

#: restarts by the shim after which a container is said to be in a crash loop
LOOP = 3
#: seconds that a container must run after a restart until it is said to run
STEADY = 1.0
#: failures in a row after which something that should pass by itself is said not to
PATIENCE = 4


class Seen(Protocol):
    @property
    def observed(self) -> Observed: ...
    @property
    def plan(self) -> Plan: ...
    @property
    def in_flight(self) -> Mapping[Subject, Step]: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """Lines for people. Converged: nothing is pending and nothing failed."""

    pending: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def judge(desired: Desired, seen: Seen, restarts: dict[str, int], now: float) -> Verdict:
    """`restarts` is the caller's: restarts of each container at the first look, filled in here.

    `now` is in seconds since the epoch.
    """
    flying = [step for step in seen.in_flight.values() if _counts(step.subject, step.source, desired)]
    pending = [f"{step.id} is under way" for step in flying]
    coming = [step for step in seen.plan.steps if _counts(step.subject, step.source, desired)]
    pending += [f"{step.id} is to be done" for step in coming]
    failures: list[str] = []
    waits: list[str] = []
    notes: list[str] = []
    fallen: list[str] = []
    blocked = [b for b in seen.plan.blocked if _counts(b.subject, b.source, desired)]
    for item in blocked:
        {"pending": pending, "failed": failures, "waits": waits, "note": notes, "fallen": fallen}[
            _sort(item)
        ].append(f"{item.subject}: {item.reason}")
    known = {item.subject.name for item in blocked if item.subject.kind == "container"}
    known |= {subject.name for subject in seen.in_flight if subject.kind == "container"}
    for name, want in sorted(desired.containers.items()):
        have = seen.observed.containers.get(name)
        if name in known or have is None or want.desired != "running" or want.job is not None:
            continue
        if have.busy:  # what was seen may be half of what was done
            pending.append(f"container {name} was acted on while it was looked at")
            continue
        first = restarts.setdefault(have.id, have.own_restarts)
        state, text = _look(want, have, first, now)
        if state == "pending":
            pending.append(text)
        elif state == "failed":
            failures.append(text)
    failures += [text for text in fallen if not failures]  # else its containers say it already
    if waits and (pending or not failures):
        pending += waits
    else:
        failures += waits
    return Verdict(tuple(pending), tuple(failures), tuple(notes))


def _counts(subject: Subject, source: str, desired: Desired) -> bool:
    """A backup changes nothing of what is declared."""
    return source == desired.source and subject.kind != "backup"


def _sort(blocked: Blocked) -> str:
    if blocked.code in NOTES:
        return "note"
    if blocked.code in ("waits", "rollout-failed"):
        return "waits" if blocked.code == "waits" else "fallen"
    if blocked.code in ("no-effect", "rolling"):
        return "pending"
    if blocked.code in TRANSIENT:
        return "pending" if blocked.attempts < PATIENCE else "failed"
    return "failed"


def _look(want: DesiredContainer, have: ObservedContainer, first: int, now: float) -> tuple[str, str]:
    name = f"container {want.name}"
    killed = ", killed because it used too much memory" if have.oom_killed else ""
    if have.phase is Phase.EXITED:
        job = want.restart.policy in ("no", "on-failure")
        if job and have.completed:
            return "well", ""
        return "failed", f"{name} exited with code {have.exit_code}{killed}{_tail(have)}"
    backoff = have.phase is Phase.BACKOFF and have.own_restarts >= LOOP
    if backoff or have.own_restarts - first >= LOOP:
        return "failed", f"{name} keeps ending (exit code {have.exit_code}{killed}){_tail(have)}"
    if have.phase is not Phase.RUNNING:
        return "pending", f"{name} is {have.phase}"
    if have.own_restarts > first and now - have.started_at < STEADY:
        return "pending", f"{name} was restarted just now"
    if have.health is Health.UNHEALTHY:
        return "failed", f"{name} is unhealthy"
    if have.health is Health.STARTING:
        return "pending", f"{name} is not healthy yet"
    if not have.ready:
        return "pending", f"{name} is not ready"
    return "well", ""


def _tail(have: ObservedContainer) -> str:
    if have.error:
        return f": {have.error}"
    lines = have.log_tail.strip().splitlines()
    return f"; its last output: {lines[-1][:200]}" if lines else ""
