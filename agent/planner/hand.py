"""Decisions: what people do by hand, and what they made by hand.

A declared container that a person stopped stays stopped until a person starts it: a step that would start it
is left out, one that runs all the same (its stop was begun and never done) is stopped. It may be replaced,
renamed or removed.

Of what no source declares only this is decided, by docker's rules:

    ended, and to be removed by itself (--rm)   remove; while somebody waits for it, not before he had time to
                                                look
    lost (its supervisor is gone: the machine   start, where its restart policy is always, unless-stopped or
    was restarted, or it was killed)            on-failure
    stopped, before the machine was started     start, where its restart policy is always

Nothing else is ever done to it: no repair, no replacement, no removal. And nothing while a person acts on it:
one that is about to be started looks lost for a moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from agent.planner.decision import Decision, chain
from agent.planner.model import (
    HELD,
    Blocked,
    Cause,
    RemoveContainer,
    StartContainer,
    Step,
    StopContainer,
    Subject,
    World,
)
from agent.planner.updates import hand_stopped
from runtime.observations import ObservedContainer, Phase
from specs.desired import DesiredContainer

#: seconds after its end in which whoever waits for a container removes it himself
ATTENDED = 10.0
_RUNS = frozenset({Phase.STARTING, Phase.RUNNING, Phase.BACKOFF})
_ENDED = frozenset({Phase.EXITED, Phase.STOPPED, Phase.LOST})
_COMES_BACK = frozenset({"always", "unless-stopped", "on-failure"})


def beside(
    world: World, source: str, want: DesiredContainer, have: ObservedContainer | None, decision: Decision
) -> Decision:
    """`decision` about a declared container, without what a person does not want."""
    stop = world.observed.hand_stops.get(want.name)
    if stop is None or want.desired == "stopped":
        return decision
    subject = Subject("container", want.name)
    blocked = Blocked(subject, hand_stopped(want.name, stop), None, HELD, source)
    if have is not None and have.phase in _RUNS:
        cause = Cause("phase", f"is {have.phase}, was stopped by hand")
        step = Step(subject, StopContainer(want.name), cause, source=source, basis=have.id)
        return replace(chain(world, step), blocked=blocked)
    steps = tuple(step for step in decision.steps if step.verb not in ("start", "stop"))
    return Decision(steps, decision.blocked or blocked, decision.next_look)


def unmanaged(world: World) -> Iterator[Decision]:
    """Of each container that no source declares."""
    if not world.by_hand:
        return
    for name, have in sorted(world.observed.containers.items()):
        if have.source or have.busy:
            continue
        subject = Subject("container", name)
        if have.auto_remove and have.phase in _ENDED:
            rest = have.finished_at + ATTENDED - world.clock if have.auto_remove == "attended" else 0.0
            if rest > 0 and have.phase is not Phase.LOST:
                yield Decision(next_look=world.now + rest)
                continue
            cause = Cause("ended", "has ended, and was to be removed then")
            action = RemoveContainer(name, volumes=True)
            yield chain(world, Step(subject, action, cause, basis=have.id))
        elif reason := _comes_back(world, have):
            basis = f"{have.id} {have.finished_at}"
            yield chain(world, Step(subject, StartContainer(name), Cause("phase", reason), basis=basis))


def _comes_back(world: World, have: ObservedContainer) -> str:
    policy = f"its restart policy is {have.restart_policy}"
    if have.phase is Phase.LOST and have.restart_policy in _COMES_BACK:
        return f"has no supervisor any more, {policy}"
    since = world.observed.booted_at
    if have.phase is Phase.STOPPED and have.restart_policy == "always" and 0 < have.finished_at < since:
        return f"was stopped before the machine was started, {policy}"
    return ""
