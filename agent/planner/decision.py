"""Values: what was decided about one subject: a chain of steps, and why it goes no further."""

from __future__ import annotations

from dataclasses import dataclass, replace

from agent.planner import backoff
from agent.planner.model import Blocked, Step, World


@dataclass(frozen=True, slots=True)
class Decision:
    """`steps` run one after another. `blocked` says why the subject is not converged after them."""

    steps: tuple[Step, ...] = ()
    blocked: Blocked | None = None
    next_look: float | None = None  # when it is to be decided anew, at the latest

    @property
    def converged(self) -> bool:
        return not self.steps and self.blocked is None

    def step(self, verb: str) -> Step | None:
        return next((step for step in self.steps if step.verb == verb), None)


CONVERGED = Decision()


def chain(world: World, *steps: Step) -> Decision:
    """Link `steps` one after another and cut the chain at the first one that must wait for its backoff.

    A subject's step that is in flight is known to be under way; it is not held back by an older failure.
    """
    linked: list[Step] = []
    for step in steps:
        running = world.in_flight.get(step.subject)
        blocked = None if running and running.id == step.id else backoff.gate(world.memory, step, world.now)
        if blocked:
            return Decision(tuple(linked), blocked)
        after = step.after | {linked[-1].id} if linked else step.after
        linked.append(replace(step, after=after))
    return Decision(tuple(linked))
