"""Decisions: what the agent knows becomes one View. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from agent.planner.model import NOTES, Blocked, Plan, Step
from agent.view import BlockedView, StepView, View
from runtime.observations import Observed


def with_round(
    view: View,
    *,
    at: float,
    monotonic: float,
    observed: Observed,
    plan: Plan,
    flights: Sequence[tuple[Step, float]],
) -> View:
    """`view` after a round. `monotonic` is the clock of the plan, `at` the same moment since the epoch."""
    flying = {step.subject for step, _ in flights}
    return replace(
        view,
        at=at,
        observed=observed,
        observed_at=at,
        plan=tuple(step_view(step) for step in plan.steps if step.subject not in flying),
        in_flight=tuple(step_view(step, begun) for step, begun in flights),
        blocked=blocked_views(plan.blocked, monotonic),
        state=state(plan, any(subject.kind != "backup" for subject in flying)),
        error="",
    )


def with_flights(view: View, flights: Sequence[tuple[Step, float]]) -> View:
    """`view` with these steps under way, between two rounds; as it is where there are none."""
    if not flights:
        return view
    under_way = tuple(step_view(step, begun) for step, begun in flights)
    return replace(view, in_flight=under_way, state="progressing")


def state(plan: Plan, busy: bool) -> str:
    if busy or any(step.subject.kind != "backup" for step in plan.ready):
        return "progressing"
    codes = {blocked.code for blocked in plan.blocked} - NOTES
    if "rolling" in codes:
        return "progressing"
    return "blocked" if codes else "converged"


def step_view(step: Step, begun: float = 0.0) -> StepView:
    return StepView(
        id=step.id,
        verb=step.verb,
        kind=step.subject.kind,
        name=step.subject.name,
        source=step.source,
        reason=step.cause.reason,
        cause=str(step.cause),
        started_at=begun,
        after=tuple(sorted(step.after)),
    )


def blocked_views(blocked: Iterable[Blocked], monotonic: float) -> tuple[BlockedView, ...]:
    return tuple(
        BlockedView(
            kind=item.subject.kind,
            name=item.subject.name,
            source=item.source,
            code=item.code,
            reason=item.reason,
            retry_in=None if item.until is None else max(0.0, item.until - monotonic),
            attempts=item.attempts,
        )
        for item in blocked
    )
