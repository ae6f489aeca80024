"""Decisions: who is started anew because what it depends on was (`depends_on.NAME.restart`).

A dependent follows when it runs since before the present run of the dependency, and the dependency is what
it is waited for (started, healthy, completed): then its own start, which comes later than both, ends the
matter. It makes no difference who started the dependency anew: the agent, its shim, or a person.

Which of two runs is the older one is told by their processes' start since boot (proc(5), starttime), which no
change of the clock moves. Of a dependency that has completed only the time of its end is left; one that lies
in the future, as after the clock was set back, says nothing.
"""

from __future__ import annotations

from agent.planner.model import World
from agent.planner.waiting import met
from runtime.observations import ObservedContainer, Phase
from specs.desired import Dependency, DesiredContainer


def reason(world: World, want: DesiredContainer, have: ObservedContainer) -> str:
    """Why it is to be started anew; empty where it is not."""
    if have.phase is not Phase.RUNNING or want.job is not None:  # a run comes to its own end
        return ""
    for dependency in want.depends_on:
        other = world.observed.containers.get(dependency.container)
        if dependency.restart and other is not None and _is_newer(dependency, other, have, world.clock):
            return f"container {dependency.container}, which it depends on, was started anew"
    return ""


def _is_newer(
    dependency: Dependency, other: ObservedContainer, have: ObservedContainer, clock: float
) -> bool:
    if not met(dependency, other):
        return False
    if dependency.condition == "completed":
        return have.started_at < other.finished_at <= clock
    return 0 < have.started_ticks < other.started_ticks
