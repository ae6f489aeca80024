"""Decisions: the whole plan. Pure: the same world gives the same plan, byte for byte.

The plan holds the whole graph so that it can be shown; only its `ready` steps are ever started, then the
world is observed and planned anew. Steps in flight are an input: their subjects get no second step before
they end.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from agent.planner import (
    backups,
    collect,
    containers,
    hand,
    images,
    networks,
    rollout,
    space,
    versions,
    volumes,
)
from agent.planner.decision import Decision, chain
from agent.planner.model import (
    FIREWALL,
    LEFTOVERS,
    Blocked,
    Cause,
    Plan,
    RepairFirewall,
    Step,
    Subject,
    Sweep,
    World,
)
from agent.planner.ownership import claims
from agent.planner.waiting import Waiting
from specs.desired import Place

#: How a reason ends that says its place.
_PLACE = re.compile(r" \(\S+:[0-9]+\)$")


class HasPlace(Protocol):
    @property
    def place(self) -> Place | None: ...


_KINDS = ("leftovers", "firewall", "store", "image", "network", "volume", "container", "rollout", "backup")


def plan(world: World) -> Plan:
    """What to do next, and all that follows from it as far as it can be seen now."""
    chosen = versions.choices(world)
    world = versions.in_force(world, chosen)
    network_owners, taken = claims(world, "network")
    volume_owners, more = claims(world, "volume")
    container_owners, most = claims(world, "container")
    blocked = [*taken, *more, *most]

    found = images.decide(world)
    pulls, lacking = space.fit(world, found.decisions)
    blocked += found.refused.values()
    fates = networks.fates(world, network_owners)
    stores = volumes.decide(world, volume_owners)
    ground = containers.Ground(
        images=pulls,
        refused_images=found.refused,
        volumes=stores,
        networks=fates,
        network_blocks=_network_blocks(world, network_owners, fates),
        network_owners=network_owners,
        external_networks={
            (source, name): place
            for source, desired in world.desired.items()
            for name, place in desired.external_networks.items()
        },
        there=world.observed.networks,
    )
    causes = containers.stale(world, container_owners, ground)
    moves = rollout.rollouts(world, chosen, causes)
    turns = {name: blocked for item in moves.values() for name, blocked in item.waits.items()}
    raw = containers.decide(world, container_owners, ground, causes, turns)
    runs = Waiting(world, container_owners, raw).settle()
    nets = networks.decide(world, network_owners, fates, runs)
    gone = volumes.removals(world, volume_owners, runs) | volumes.orphans(world, runs)

    decisions = [
        *_node(world),
        collect.decide(world, lacking),
        *repairs_after_stops(pulls, runs).values(),
        *nets.values(),
        *stores.values(),
        *gone.values(),
        *backups.decide(world, volume_owners),
        *runs.values(),
        *hand.unmanaged(world),
    ]
    steps = [step for decision in decisions for step in decision.steps]
    blocked += [decision.blocked for decision in decisions if decision.blocked is not None]
    blocked += [item.state for item in moves.values() if item.state is not None]
    steps, held = _without_suspended(world, steps)
    blocked += held
    looks = [decision.next_look for decision in decisions if decision.next_look is not None]
    looks += [item.next_look for item in moves.values() if item.next_look is not None]
    blocked = [_with_place(world, item) for item in blocked]
    return replace(_assemble(world, _after_sweep(world, steps), blocked), next_look=min(looks, default=None))


def _without_suspended(world: World, steps: list[Step]) -> tuple[list[Step], list[Blocked]]:
    """Of a source that a person suspended, nothing is done to what no container is, either."""
    held: dict[str, Blocked] = {}
    for source in world.desired:
        order = world.orders.suspended.get(f"source:{source}")
        if order is not None and order.holds(world.clock):
            text = f"source {source} is suspended by {order.who}: {order.reason or 'no reason given'}"
            until = None if order.until is None else world.now + order.until - world.clock
            held[source] = Blocked(Subject("rollout", source), text, until, "suspended", source)
    return [step for step in steps if step.source not in held], list(held.values())


def _with_place(world: World, blocked: Blocked) -> Blocked:
    """What failed says where it was asked for: who reads it has to change something there, often enough."""
    desired = world.desired.get(blocked.source)
    if not blocked.attempts or blocked.code in ("", "no-effect") or desired is None:
        return blocked
    things: Mapping[str, Mapping[str, HasPlace]] = {
        "volume": desired.volumes,
        "network": desired.networks,
        "container": desired.containers,
    }
    thing = things.get(blocked.subject.kind, {}).get(blocked.subject.name)
    if thing is None or thing.place is None or _PLACE.search(blocked.reason):
        return blocked
    return replace(blocked, reason=f"{blocked.reason} ({thing.place})")


def _network_blocks(
    world: World, owners: dict[str, str], fates: dict[str, networks.Fate]
) -> dict[str, Blocked]:
    found: dict[str, Blocked] = {}
    for name, fate in fates.items():
        want = world.desired[owners[name]].networks.get(name)
        if want is not None and fate is networks.Fate.CREATE:
            why = networks.creation(world, owners[name], want)[1]
            if why is not None:
                found[name] = why
    return found


def repairs_after_stops(pulls: Mapping[str, Decision], runs: Mapping[str, Decision]) -> dict[str, Decision]:
    """Layers come back while nothing has them mounted: what runs from a broken image is stopped first."""
    stops: dict[str, set[str]] = {}
    for decision in runs.values():
        start, stop = decision.step("start"), decision.step("stop")
        if start is not None and stop is not None:
            for id in start.after:
                stops.setdefault(id, set()).add(stop.id)
    return {
        name: replace(
            decision,
            steps=tuple(
                replace(step, after=step.after | stops.get(step.id, set()))
                if step.verb in ("repair", "build")
                else step
                for step in decision.steps
            ),
        )
        for name, decision in pulls.items()
    }


def _node(world: World) -> Iterable[Decision]:
    """What belongs to no source. While steps are in flight, leftovers may be things half made."""
    if world.observed.leftovers and set(world.in_flight) <= {LEFTOVERS}:
        text = "a crash left " + _some(world.observed.leftovers)
        basis = "\n".join(sorted(world.observed.leftovers))
        yield chain(world, Step(LEFTOVERS, Sweep(), Cause("leftovers", text), basis=basis))
    ours = all(defect.kind == "port" for defect in world.observed.firewall)
    if world.observed.firewall:
        text = "; ".join(sorted(defect.text for defect in world.observed.firewall))
        reason = "readiness" if ours else "drift"
        yield chain(world, Step(FIREWALL, RepairFirewall(), Cause(reason, text), basis=text))


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return ", ".join(ordered[:3]) + more


def _after_sweep(world: World, steps: list[Step]) -> list[Step]:
    """Nothing is made while half-made things of a crash are removed."""
    sweep = next((step.id for step in steps if step.subject == LEFTOVERS), None)
    if sweep is None and LEFTOVERS in world.in_flight:
        sweep = world.in_flight[LEFTOVERS].id
    if sweep is None:
        return steps
    return [
        replace(step, after=step.after | {sweep})
        if step.verb in ("create", "start", "adjust", "repair")
        else step
        for step in steps
    ]


def _assemble(world: World, steps: list[Step], blocked: list[Blocked]) -> Plan:
    """Leave out what is in flight, and order the rest."""
    waiting: list[Step] = []
    for step in steps:
        running = world.in_flight.get(step.subject)
        if running is None:
            waiting.append(step)
        elif running.id != step.id:
            waiting.append(replace(step, after=step.after | {running.id}))
    waiting, stuck = _without_dangling(world, waiting)
    known = {b.subject for b in blocked}
    blocked = [*blocked, *(b for b in stuck if b.subject not in known)]
    shown = [b for b in blocked if b.subject not in world.in_flight]
    return Plan(_ordered(world, waiting), tuple(sorted(shown, key=_blocked_key)))


def _without_dangling(world: World, steps: list[Step]) -> tuple[list[Step], list[Blocked]]:
    """Leave out every step that waits for one that cannot come now; its subject is blocked instead."""
    running = {step.id for step in world.in_flight.values()}
    blocked: dict[Subject, Blocked] = {}
    while True:
        known = {step.id for step in steps} | running
        dangling = [step for step in steps if not step.after <= known]
        if not dangling:
            return steps, list(blocked.values())
        for step in dangling:
            reason = f"waits for: {', '.join(sorted(step.after - known))}"
            blocked.setdefault(step.subject, Blocked(step.subject, reason, None, "waits", step.source))
        steps = [step for step in steps if step.after <= known]


def _blocked_key(blocked: Blocked) -> tuple[int, str, str, str]:
    return _KINDS.index(blocked.subject.kind), blocked.subject.name, blocked.source, blocked.reason


def _ordered(world: World, steps: list[Step]) -> tuple[Step, ...]:
    """Topological, ties broken by kind and name. A circle or a dangling wait is a bug and raises."""
    by_id = {step.id: step for step in steps}
    assert len(by_id) == len(steps), "two steps with one id"
    running = {step.id for step in world.in_flight.values()}
    followers: dict[str, list[Step]] = {}
    missing: dict[str, int] = {}
    for step in steps:
        inside = step.after & by_id.keys()
        assert step.after <= inside | running, f"{step.id} waits for what nobody will do"
        missing[step.id] = len(inside)
        for id in inside:
            followers.setdefault(id, []).append(step)
    heap = [(_step_key(step), step.id) for step in steps if not missing[step.id]]
    heapq.heapify(heap)
    done: list[Step] = []
    while heap:
        step = by_id[heapq.heappop(heap)[1]]
        done.append(step)
        for follower in followers.get(step.id, ()):
            missing[follower.id] -= 1
            if not missing[follower.id]:
                heapq.heappush(heap, (_step_key(follower), follower.id))
    assert len(done) == len(steps), "steps wait for each other in a circle"
    return tuple(done)


def _step_key(step: Step) -> tuple[int, str, str]:
    return _KINDS.index(step.subject.kind), step.subject.name, step.verb
