"""Decisions: which networks to make, mend, replace and remove.

A network whose definition changed is replaced: its containers go first, then the network, then all come back.
New labels are written down, and nothing else happens.
What is decided here in two halves, because containers stand between them: `fates` before the containers are
decided, `decide` after.
"""

from __future__ import annotations

from enum import StrEnum

from agent.planner.backoff import gate
from agent.planner.decision import CONVERGED, Decision, chain
from agent.planner.model import (
    AdjustContainer,
    Blocked,
    Cause,
    CreateNetwork,
    RemoveNetwork,
    RepairNetwork,
    Step,
    Subject,
    World,
)
from agent.planner.volumes import leaving
from runtime.observations import ObservedNetwork
from specs.desired import DesiredNetwork
from specs.fingerprint import same_network


class Fate(StrEnum):
    KEEP = "keep"
    CREATE = "create"
    RELABEL = "relabel"  # only its labels differ
    REPLACE = "replace"
    STUCK = "stuck"  # would be replaced, but a suspended container uses it
    REMOVE = "remove"


def fates(world: World, owners: dict[str, str]) -> dict[str, Fate]:
    """By full name, for every network of a source that is planned."""
    found: dict[str, Fate] = {}
    for name, source in sorted(owners.items()):
        want, have = world.desired[source].networks.get(name), world.observed.networks.get(name)
        if want is None:
            found[name] = Fate.REMOVE
        elif have is None:
            found[name] = Fate.CREATE
        elif have.fingerprint == want.fingerprint:
            found[name] = Fate.KEEP
        elif same_network(have.fingerprint, want.fingerprint):
            found[name] = Fate.RELABEL
        else:
            containers = world.desired[source].containers
            suspended = any(m in containers and containers[m].suspend for m in attached(world, have))
            found[name] = Fate.STUCK if suspended else Fate.REPLACE
    return found


def attached(world: World, have: ObservedNetwork) -> set[str]:
    """Names of the containers that are known to be on this network."""
    containers = world.observed.containers.values()
    return set(have.members) | {c.name for c in containers if any(n == have.name for n, _ in c.networks)}


def creation(world: World, source: str, want: DesiredNetwork) -> tuple[Step, Blocked | None]:
    """The step that makes `want`, and why it may not be taken now."""
    have = world.observed.networks.get(want.name)
    if have is None:
        cause = Cause("missing", "does not exist", want.place)
    else:
        cause = Cause("changed", "its definition changed", want.place)
    action, subject = CreateNetwork(want), Subject("network", want.name)
    step = Step(subject, action, cause, source=source, basis=want.fingerprint)
    running = world.in_flight.get(subject)
    return step, None if running and running.id == step.id else gate(world.memory, step, world.now)


def decide(
    world: World, owners: dict[str, str], fate: dict[str, Fate], containers: dict[str, Decision]
) -> dict[str, Decision]:
    """By full name. `containers` are the decisions about containers, whose removals come first."""
    found: dict[str, Decision] = {}
    for name in sorted(fate):
        source = owners[name]
        want, have = world.desired[source].networks.get(name), world.observed.networks.get(name)
        match fate[name]:
            case Fate.CREATE:
                assert want is not None
                found[name] = chain(world, creation(world, source, want)[0])
            case Fate.RELABEL:
                assert want is not None
                found[name] = _relabel(world, source, want)
            case Fate.KEEP:
                assert have is not None
                found[name] = _repair(world, source, have)
            case Fate.REPLACE | Fate.REMOVE | Fate.STUCK:
                assert have is not None
                found[name] = _remove(world, source, want, have, containers)
    return found


def _relabel(world: World, source: str, want: DesiredNetwork) -> Decision:
    cause = Cause("changed", "its labels changed", want.place)
    subject = Subject("network", want.name)
    return chain(world, Step(subject, CreateNetwork(want), cause, source=source, basis=want.fingerprint))


def _repair(world: World, source: str, have: ObservedNetwork) -> Decision:
    if not have.defects:
        return CONVERGED
    text = "; ".join(sorted(defect.text for defect in have.defects))
    step = Step(
        Subject("network", have.name),
        RepairNetwork(have.name),
        Cause("drift", text),
        source=source,
        basis=text,
    )
    return chain(world, step)


def _moving(network: str, containers: dict[str, Decision]) -> dict[str, str]:
    """Containers that leave this network while they run -> the step by which they do."""
    found: dict[str, str] = {}
    for name, decision in containers.items():
        step = decision.step("adjust")
        if step is None or not isinstance(step.action, AdjustContainer) or decision.step("remove"):
            continue
        if all(item.network != network for item in step.action.container.networks):
            found[name] = step.id
    return found


def _remove(
    world: World,
    source: str,
    want: DesiredNetwork | None,
    have: ObservedNetwork,
    containers: dict[str, Decision],
) -> Decision:
    subject = Subject("network", have.name)
    moving = _moving(have.name, containers)
    after, staying = leaving(world, source, attached(world, have) - moving.keys(), containers)
    after |= frozenset(moving.values())
    if staying:
        reason = f"is used by {', '.join(sorted(staying))}"
        return Decision(blocked=Blocked(subject, reason, None, "network-in-use", source))
    basis = f"{have.fingerprint} {have.bridge}"
    if want is None:
        cause = Cause("undeclared", "is no longer declared")
        return chain(world, Step(subject, RemoveNetwork(have.name), cause, after, source, basis))
    cause = Cause("changed", "its definition changed", want.place)
    remove = Step(subject, RemoveNetwork(have.name), cause, after, source, basis)
    return chain(world, remove, creation(world, source, want)[0])
