"""Decisions: what to do about each container.

The table, for a container that a source declares (`have` is what exists, S its source):

    nothing exists                       create, start
    identity, image or network differ    remove, create, start (not before the new one can be made);
                                         start-first: retire, create, start, and remove the retired one when
                                         the new one is ready (running, and healthy where it has a probe)
    only the list of networks differs    adjust in place, after new networks are made
    adjustable part differs              adjust in place, whatever its phase
    wanted stopped   running somehow     stop
    wanted running   created             start
                     stopped             start, unless a person stopped it: agent.planner.hand
                     lost                start: the supervisor is gone (killed, or the machine was rebooted)
                     exited              left alone when its restart policy says so; else start
                     backoff, stopping   left alone: that is the shim's matter
                     running             defects are repaired; those that need a new process: stop, start;
                                         so it is where it follows a dependency (agent.planner.following)
    with a schedule  running somehow     its run comes to its end before it is replaced or started anew
                     else                started when it is due (agent.planner.jobs), and at no other time

Not declared any more: removed, dependents first. Suspended, or paused by hand: blocked, nothing is touched.
A create waits for its image, networks, volumes and for ports and addresses to be given up by others; a start
waits for what the container depends on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from agent.planner import following, hand, jobs
from agent.planner.causes import changes
from agent.planner.decision import CONVERGED, Decision, chain
from agent.planner.images import short
from agent.planner.model import (
    KEPT,
    Action,
    AdjustContainer,
    Blocked,
    Cause,
    CreateContainer,
    RemoveContainer,
    RepairContainer,
    RetireContainer,
    StartContainer,
    Step,
    StopContainer,
    Subject,
    World,
)
from agent.planner.networks import Fate
from agent.planner.updates import suspended_until, suspension
from agent.planner.versions import basis as attempt_basis
from agent.planner.versions import image_of, is_ready
from runtime.observations import (
    NETWORK_KINDS,
    PROBE_STOPPED,
    ObservedContainer,
    Phase,
    retired,
    successor,
)
from specs.desired import DesiredContainer, Place
from specs.fingerprint import same_but_networks
from specs.values import ImageRef

ACTIVE = frozenset({Phase.STARTING, Phase.RUNNING, Phase.PAUSED, Phase.BACKOFF})

_LEAVES = frozenset({"remove", "stop"})
#: stale containers that are not to be replaced yet, and why: rollout.py
Turns = Mapping[str, Blocked]


@dataclass(frozen=True, slots=True)
class Ground:
    """What containers stand on: decided before them."""

    images: Mapping[str, Decision]
    refused_images: Mapping[tuple[str, str], Blocked]  # (source, reference): not as this source wants it
    volumes: Mapping[str, Decision]
    networks: Mapping[str, Fate]
    network_blocks: Mapping[str, Blocked]  # networks that cannot be made now
    network_owners: Mapping[str, str]
    external_networks: Mapping[tuple[str, str], Place]  # (source, network): somebody else makes it
    there: Collection[str]  # networks that exist


def stale(world: World, owners: Mapping[str, str], ground: Ground) -> dict[str, Cause]:
    """By full name: why a container that exists and is declared cannot be kept."""
    found: dict[str, Cause] = {}
    for name, source in sorted(owners.items()):
        want, have = world.desired[source].containers.get(name), world.observed.containers.get(name)
        if want is not None and have is not None and (cause := _stale(world, want, have, ground)):
            found[name] = cause
    return found


def decide(
    world: World, owners: Mapping[str, str], ground: Ground, causes: Mapping[str, Cause], turns: Turns
) -> dict[str, Decision]:
    """By full name, for every container that belongs to a planned source. `causes` are those of `stale`.
    Waiting for other containers is not in it yet."""
    found: dict[str, Decision] = {}
    for name, source in sorted(owners.items()):
        want, have = world.desired[source].containers.get(name), world.observed.containers.get(name)
        if by_hand := _suspended(world, name, source, want):
            found[name] = Decision(blocked=by_hand)
        elif have is not None and successor(name) in world.desired[source].containers:
            found[name] = _retired(world, source, have, ground)
        elif want is None:
            assert have is not None
            away = RemoveContainer(name, volumes=source in world.drop_volumes)
            step = _step(source, name, away, Cause("undeclared", "is no longer declared"), have.id)
            found[name] = chain(world, step)
        elif want.suspend:
            reason = f"suspended: {want.suspend}"
            found[name] = Decision(
                blocked=Blocked(Subject("container", name), reason, None, "suspended", source)
            )
        elif have is not None and have.phase is Phase.PAUSED:
            reason = f"was paused by hand; it goes on with: stead unpause {name}"
            found[name] = Decision(
                blocked=Blocked(Subject("container", name), reason, None, "paused", source)
            )
        else:
            decision = _declared(world, source, want, have, ground, causes.get(name), turns)
            decision = _beside_holds(world, want, source, decision)
            found[name] = hand.beside(world, source, want, have, decision)
    return found


def _suspended(world: World, name: str, source: str, want: DesiredContainer | None) -> Blocked | None:
    """What a person suspended by hand is not touched, declared or not."""
    name = successor(name) or name
    want = want or world.desired[source].containers.get(name)
    reason = suspension(world.orders, want, name, source, world.clock)
    if not reason:
        return None
    end = suspended_until(world.orders, want, name, source, world.clock)
    until = None if end is None else world.now + end - world.clock
    return Blocked(Subject("container", name), reason, until, "suspended", source)


def _beside_holds(world: World, want: DesiredContainer, source: str, decision: Decision) -> Decision:
    """Nothing is started while a volume of it is backed up or restored."""
    if decision.step("start") is None:
        return decision
    for mount in want.mounts:
        volume = world.observed.volumes.get(mount.source) if mount.kind == "volume" else None
        if volume is not None and volume.held:
            reason = f"volume {volume.name} is {volume.held}"
            return Decision(blocked=Blocked(Subject("container", want.name), reason, None, "waits", source))
    return decision


def _step(source: str, name: str, action: Action, cause: Cause, basis: str) -> Step:
    return Step(Subject("container", name), action, cause, source=source, basis=basis)


def _retired(world: World, source: str, have: ObservedContainer, ground: Ground) -> Decision:
    """One that runs on until the one that replaces it is ready; kept as it is until then."""
    name = successor(have.name)
    want, new = world.desired[source].containers[name], world.observed.containers.get(name)
    text = ""
    leaves = (step := world.in_flight.get(Subject("container", name))) is not None and step.verb in _LEAVES
    if have.phase not in ACTIVE:
        text = f"was replaced, and is {have.phase}"
    elif want.desired == "stopped":
        text = "was replaced, is wanted stopped"
    elif any(ground.networks.get(network) is Fate.REPLACE for network, _ in have.networks):
        text = "was replaced, and keeps its network from being so"
    elif new is not None and is_ready(new) and not leaves and not _stale(world, want, new, ground):
        text = "was replaced: the new one is ready"
    if not text:
        reason = f"runs on until the new {name} is ready"
        return Decision(blocked=Blocked(Subject("container", have.name), reason, None, "waits", source))
    action = RemoveContainer(have.name, replaced=True)
    return chain(world, _step(source, have.name, action, Cause("replaced", text), have.id))


def _side_by_side(world: World, want: DesiredContainer, have: ObservedContainer, cause: Cause) -> bool:
    """Whether the new one starts before the old one goes."""
    free = retired(have.name) not in world.observed.containers
    wanted = want.update.order == "start-first" and want.desired == "running"
    return wanted and free and cause.reason != "network" and have.phase in ACTIVE


def _declared(
    world: World,
    source: str,
    want: DesiredContainer,
    have: ObservedContainer | None,
    ground: Ground,
    cause: Cause | None,
    turns: Turns,
) -> Decision:
    if have is None:
        return _make(world, source, want, Cause("missing", "does not exist", want.place), None, ground)
    if cause is not None and want.job is not None and jobs.runs(world, have) and not jobs.is_service(have):
        found, waits = jobs.outlived(world, source, want, have, str(cause))
        decision = Decision(blocked=waits) if waits is not None else chain(world, *found)
        return replace(decision, next_look=jobs.next_look(world, want))
    if cause is not None:
        if (turn := turns.get(want.name)) is not None and cause.reason != "network":
            # until then it is what it was, and up
            was = f"{have.id} {have.identity} {have.adjustable}"
            kept = chain(world, *_phase_steps(world, source, want, have, was))
            return kept if kept.blocked is not None else replace(kept, blocked=turn)
        if Subject("container", retired(want.name)) in world.in_flight:
            reason = f"waits until {retired(want.name)} is gone"
            return Decision(blocked=Blocked(Subject("container", want.name), reason, None, "waits", source))
        if want.image_id:
            cause = Cause("rollback", f"goes back: {cause.text}", want.place)
        return _make(world, source, want, cause, have, ground)
    steps: list[Step] = []
    basis = f"{have.id} {attempt_basis(want)}"
    if have.adjustable != want.adjustable or have.identity != want.identity:
        text = changes(have.facets, want.facets) or "its definition changed"
        action = AdjustContainer(want, image_of(world.desired[source], want))
        adjust = _step(source, want.name, action, Cause("changed", text, want.place), basis)
        if have.identity != want.identity:  # the networks, or _stale would have said so
            after, waits = _networks_needed(source, want, ground)
            if waits is not None:
                return Decision(blocked=waits)
            adjust = replace(adjust, after=after)
        steps.append(adjust)
    image = image_of(world.desired[source], want)
    if image.build is not None:  # what is built anew replaces the container; until then it goes on
        have = replace(have, defects=tuple(item for item in have.defects if item.kind != "layer"))
    steps += _on_whole_image(world, _phase_steps(world, source, want, have, basis), want, ground)
    return replace(chain(world, *steps), next_look=jobs.next_look(world, want))


def _phase_steps(
    world: World, source: str, want: DesiredContainer, have: ObservedContainer, basis: str
) -> list[Step]:
    """The lower half of the table above."""
    start = StartContainer(want.name)
    if want.desired == "stopped":
        if have.phase in ACTIVE or have.phase is Phase.LOST:
            cause = Cause("phase", f"is {have.phase}, is wanted stopped", want.place)
            return [_step(source, want.name, StopContainer(want.name), cause, basis)]
        return []
    if want.job is not None:
        if found := jobs.steps(world, source, want, have):
            return found
        # a run is not cut short for what only another process would mend
        have = replace(have, defects=tuple(defect for defect in have.defects if not defect.restart))
    elif reason := start_reason(want, have):
        return [_step(source, want.name, start, Cause("phase", reason), basis)]
    if text := following.reason(world, want, have):
        cause, basis = Cause("dependency", text, want.place), f"{have.id} {text}"
        stop = StopContainer(want.name)
        return [_step(source, want.name, stop, cause, basis), _step(source, want.name, start, cause, basis)]
    if have.phase not in ACTIVE or not have.defects:
        return []
    text = "; ".join(sorted(defect.text for defect in have.defects))
    cause, basis = Cause("drift", text), f"{have.id} {text}"
    if any(defect.restart for defect in have.defects):
        stop = StopContainer(want.name)
        return [_step(source, want.name, stop, cause, basis), _step(source, want.name, start, cause, basis)]
    network = all(defect.kind in NETWORK_KINDS for defect in have.defects)
    return [_step(source, want.name, RepairContainer(want.name, network), cause, basis)]


def _on_whole_image(world: World, steps: list[Step], want: DesiredContainer, ground: Ground) -> list[Step]:
    """No start before its image is whole again."""
    image = world.observed.images.get(want.image)
    if image is None or not image.broken:
        return steps
    mending = frozenset(step.id for step in ground.images.get(want.image, CONVERGED).steps[-1:])
    return [replace(step, after=step.after | mending) if step.verb == "start" else step for step in steps]


def start_reason(want: DesiredContainer, have: ObservedContainer) -> str:
    """Why a container that is wanted running must be started; "" when it need not or must not be."""
    match have.phase:
        case Phase.CREATED:
            return f"its last start failed: {have.error}" if have.error else "was never started"
        case Phase.STOPPED:
            return "was stopped, is wanted running"
        case Phase.LOST:
            # its live record goes with the boot
            return (
                "has no supervisor any more" if have.started_at else "was not started since the machine was"
            )
        case Phase.EXITED:
            stopped = have.error == PROBE_STOPPED
            if have.error and not stopped:
                return f"its last start failed: {have.error}"
            stays = stopped and want.probe is not None and want.probe.on_failure == "stop"
            if want.restart.policy in ("always", "unless-stopped") and not stays:
                return f"exited with code {have.exit_code}, its restart policy is {want.restart.policy}"
            return ""
        case _:
            return ""


def _stale(world: World, want: DesiredContainer, have: ObservedContainer, ground: Ground) -> Cause | None:
    """Why this container cannot be kept, or None."""
    if have.identity != want.identity and not same_but_networks(have.facets, want.facets):
        text = changes(have.facets, want.facets) or "its definition changed"
        return Cause("changed", text, want.place)
    if have.identity != want.identity and (holder := _holder(world, want)):
        return Cause("changed", f"{changes(have.facets, want.facets)} ({holder} has the address)", want.place)
    if want.job is not None and jobs.is_service(have):
        return Cause("changed", "is a job now", want.place)
    image = world.observed.images.get(want.image)
    id = want.image_id or (image.id if image is not None else "")
    if id and id != have.image_id:
        name = image_of(world.desired[have.source], want).ref.familiar
        return Cause("image", f"image {name} went from {short(have.image_id)} to {short(id)}")
    for reference, id in have.mounted_images:
        mounted = world.observed.images.get(reference)
        if mounted is not None and mounted.id != id:
            name = ImageRef.parse(reference).familiar
            text = f"image {name}, which it mounts, went from {short(id)} to {short(mounted.id)}"
            return Cause("image", text)
    for attachment in want.networks:
        if ground.networks.get(attachment.network) is Fate.REPLACE:
            return Cause("network", f"network {attachment.network} is replaced")
    return None


def _holder(world: World, want: DesiredContainer) -> str:
    """Another container that has an address which is asked for: it must give it up first, and two that swap
    theirs cannot do so in place."""
    asked = {
        (one.network, address) for one in want.networks for address in (one.ipv4_address, one.ipv6_address)
    }
    others = world.observed.containers.values()
    return next((c.name for c in others if c.name != want.name and asked & set(c.networks)), "")


def _make(
    world: World,
    source: str,
    want: DesiredContainer,
    cause: Cause,
    have: ObservedContainer | None,
    ground: Ground,
) -> Decision:
    """Create and start `want`, instead of `have` if there is one, which goes first: away, or into retirement
    until the new one is ready (_retired)."""
    name = want.name
    after, waits = _prerequisites(source, want, ground)
    if want.image_id and want.image_id not in world.observed.image_ids:
        reason = f"waits for image {short(want.image_id)}, which it was made from, and which was removed"
        waits = Blocked(Subject("container", name), reason, None, "image-not-found", source)
    if waits:
        replacing = "its replacement " if have else ""
        return Decision(
            blocked=replace(waits, subject=Subject("container", name), reason=replacing + waits.reason)
        )
    basis = attempt_basis(want)
    create = _step(source, name, CreateContainer(want, image_of(world.desired[source], want)), cause, basis)
    steps = [replace(create, after=after)]
    if have is not None:
        own = [] if want.image_id else [want.image]
        images = [*own, *(mount.source for mount in want.mounts if mount.kind == "image")]
        pulls = frozenset(id for name in images for id in _last(ground.images.get(name, CONVERGED)))
        away: Action = RemoveContainer(name, replaced=True)
        if _side_by_side(world, want, have, cause):
            away = RetireContainer(name)
        steps.insert(0, replace(_step(source, name, away, cause, f"{have.id} {basis}"), after=pulls))
    if want.desired == "running" and want.job is None:
        started = Cause(cause.reason, "is wanted running", want.place)
        steps.append(_step(source, name, StartContainer(name), started, basis))
    return chain(world, *steps)


def _last(decision: Decision) -> list[str]:
    return [step.id for step in decision.steps[-1:]]


def _prerequisites(
    source: str, want: DesiredContainer, ground: Ground
) -> tuple[frozenset[str], Blocked | None]:
    """(steps that must come before the create, why it cannot come at all for now)"""
    subject = Subject("container", want.name)
    after: set[str] = set()
    if (refused := ground.refused_images.get((source, want.image))) is not None:
        return frozenset(), _because(subject, source, refused)
    pinned = want.image_id != ""  # it was kept, and nobody need bring it
    needs = [] if pinned else [("image", want.image, ground.images.get(want.image))]
    for mount in want.mounts:
        if mount.kind == "volume" and mount.source:
            needs.append(("volume", mount.source, ground.volumes.get(mount.source)))
        elif mount.kind == "image":
            needs.append(("image", mount.source, ground.images.get(mount.source)))
    for kind, name, decision in needs:
        if decision is None and pinned:
            continue
        if decision is None:
            reason = f"waits for {kind} {name}, which belongs to another source"
            return frozenset(), Blocked(subject, reason, None, "name-taken", source)
        if decision.blocked is not None and decision.blocked.code != KEPT:
            return frozenset(), _because(subject, source, decision.blocked)
        after |= {step.id for step in decision.steps[-1:]}  # which waits for those before it
    networks, waits = _networks_needed(source, want, ground)
    return frozenset(after) | networks, waits


def _networks_needed(
    source: str, want: DesiredContainer, ground: Ground
) -> tuple[frozenset[str], Blocked | None]:
    """(steps that make the networks that it joins, why one of them cannot be had)"""
    subject = Subject("container", want.name)
    after: set[str] = set()
    for attachment in want.networks:
        network = attachment.network
        place = ground.external_networks.get((source, network))
        making = ground.networks.get(network) in (Fate.CREATE, Fate.REPLACE)
        if place is not None and network not in ground.there and not making:
            reason = f"waits for network {network}, which does not exist, and is external ({place})"
            hint = f": stead network create {network}"
            return frozenset(), Blocked(subject, reason + hint, None, "network-not-found", source)
        if place is None and ground.network_owners.get(network) != source:
            reason = f"waits for network {network}, which belongs to another source"
            return frozenset(), Blocked(subject, reason, None, "name-taken", source)
        if network in ground.network_blocks:
            return frozenset(), _because(subject, source, ground.network_blocks[network])
        if making:
            after.add(f"create {Subject('network', network)}")
    return frozenset(after), None


def _because(subject: Subject, source: str, blocked: Blocked) -> Blocked:
    reason = f"waits for {blocked.subject}: {blocked.reason}"
    return Blocked(subject, reason, blocked.until, blocked.code, source, blocked.attempts)
