"""Decisions: which volumes to make, and which to remove. Volumes hold data: none goes with a commit.

What nothing declares any more is an orphan: that is written down with its size, and it stays until somebody
removes it, or for as long as its last spec, else the node, said (`prune`). A change that would leave its data
behind is blocked.
"""

from __future__ import annotations

from datetime import datetime

from agent.planner.decision import CONVERGED, Decision, chain
from agent.planner.model import (
    NEVER,
    Blocked,
    Cause,
    CreateVolume,
    Limits,
    OrphanVolume,
    RemoveVolume,
    Step,
    Subject,
    World,
)
from runtime.observations import ObservedVolume
from specs.desired import DesiredVolume
from specs.values import ByteSize, Duration
from specs.volumes import Backing, OptionMistake, backing


def decide(world: World, owners: dict[str, str]) -> dict[str, Decision]:
    """By full name, for every volume that a source declares."""
    found: dict[str, Decision] = {}
    for name, source in sorted(owners.items()):
        want = world.desired[source].volumes.get(name)
        if want is None:
            continue
        have = world.observed.volumes.get(name)
        if have is not None and have.fingerprint == want.fingerprint and not have.orphaned_at:
            found[name] = CONVERGED
            continue
        if have is not None and (loss := _loss(have, want)):
            place = f" ({want.place})" if want.place else ""
            reason = f"{loss}{place}; {_CURE}"
            found[name] = Decision(
                blocked=Blocked(Subject("volume", name), reason, None, "data-loss", source)
            )
            continue
        step = Step(
            Subject("volume", name),
            CreateVolume(want),
            _cause(have, want),
            source=source,
            basis=want.fingerprint,
        )
        found[name] = chain(world, step)
    for source, desired in sorted(world.desired.items()):
        for name, want in sorted(desired.externals.items()):
            found.setdefault(name, _external(world, source, want))
    return found


def _cause(have: ObservedVolume | None, want: DesiredVolume) -> Cause:
    if have is None:
        return Cause("missing", "does not exist", want.place)
    if have.orphaned_at:
        return Cause("changed", "is declared again, with the data that it has", want.place)
    return Cause("changed", _changed(want, have), want.place)


_CURE = "back it up, remove it with `stead volume rm`, and restore the backup; or write what was there before"


def _loss(have: ObservedVolume, want: DesiredVolume) -> str:
    """Why `want` would leave the data behind, or ""."""
    if have.empty:
        return ""
    try:
        old, new = backing(have.options), backing(want.options)
    except OptionMistake:
        return ""  # the step will say so
    return loss(old, new)


def loss(old: Backing, new: Backing) -> str:
    """Why data on `old` would not be there, or not fit, on `new`; "" where they would."""
    if not old.lasting:
        return ""
    for name in ("kind", "type", "device"):
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            return f"its data lie on a {_show(old)}, and the spec wants a {_show(new)}"
    if new.size and (not old.size or new.size < old.size):
        before = str(ByteSize(old.size)) if old.size else "no limit"
        return f"it has data, and its size would go from {before} to {ByteSize(new.size)}"
    return ""


def _show(found: Backing) -> str:
    match found.kind:
        case "directory":
            return "directory of this node"
        case "loop":
            return f"{found.type} file system in a file"
        case _:
            where = f" from {found.device}" if found.device != found.type else ""
            return f"mount of type {found.type}{where}"


def _changed(want: DesiredVolume, have: ObservedVolume) -> str:
    if dict(want.options) != dict(have.options):
        return "its driver_opts changed"
    if (want.keep, want.prune) != (have.keep, have.prune):
        return "keep or prune changed"
    return "its labels changed"


def _external(world: World, source: str, want: DesiredVolume) -> Decision:
    """Somebody else makes it: all that can be done is wait."""
    if want.name in world.observed.volumes:
        return CONVERGED
    reason = f"does not exist, and is external ({want.place}): stead volume create {want.name}"
    subject = Subject("volume", want.name)
    return Decision(blocked=Blocked(subject, reason, None, "volume-not-found", source))


def removals(world: World, owners: dict[str, str], containers: dict[str, Decision]) -> dict[str, Decision]:
    """Volumes that go because their source is taken down with them; after the containers that use them."""
    found: dict[str, Decision] = {}
    for name, have in sorted(world.observed.volumes.items()):
        source = owners.get(name, "")
        if source != have.source or not source:
            continue
        if _follows(world, source, have):
            continue
        if have.source not in world.drop_volumes or name in world.desired[source].volumes or have.keep:
            continue
        after, users = leaving(world, source, set(have.users), containers)
        subject = Subject("volume", name)
        if users:
            reason = f"is used by {', '.join(sorted(users))}"
            found[name] = Decision(blocked=Blocked(subject, reason, None, "volume-in-use", source))
            continue
        cause = Cause("undeclared", "is removed with its source")
        step = Step(subject, RemoveVolume(name), cause, after, source, basis=have.path)
        found[name] = chain(world, step)
    return found


def _follows(world: World, source: str, have: ObservedVolume) -> bool:
    """Whether an anonymous volume has a container whose fate is its own: one that is there, or that is being
    replaced."""
    name = have.container
    return bool(name) and (
        name in world.observed.containers
        or name in world.desired[source].containers
        or Subject("container", name) in world.in_flight
    )


def orphans(world: World, containers: dict[str, Decision]) -> dict[str, Decision]:
    """Volumes whose source is planned and declares them no more: noted, then kept until their time is up."""
    found: dict[str, Decision] = {}
    for name, have in sorted(world.observed.volumes.items()):
        source = have.source
        if source not in world.desired or source in world.drop_volumes or _follows(world, source, have):
            continue
        if any(name in {**desired.volumes, **desired.externals} for desired in world.desired.values()):
            continue
        after, users = leaving(world, source, set(have.users), containers)
        if users:
            continue
        subject = Subject("volume", name)
        if not have.orphaned_at:
            cause = Cause("undeclared", "nothing declares it any more; its data stay")
            step = Step(subject, OrphanVolume(name), cause, after, source, basis=have.path)
            found[name] = chain(world, step)
            continue
        at = goes_at(have, world.limits)
        if at is None:
            continue
        if at > world.clock:
            found[name] = Decision(next_look=world.now + at - world.clock)
            continue
        since = datetime.fromtimestamp(have.orphaned_at, world.zone).strftime("%Y-%m-%d %H:%M")
        text = f"nothing has declared it since {since}, and prune is {Duration(at - have.orphaned_at)}"
        cause = Cause("undeclared", text)
        found[name] = chain(world, Step(subject, RemoveVolume(name), cause, after, source, basis=have.path))
    return found


def goes_at(have: ObservedVolume, limits: Limits) -> float | None:
    """When an orphan is removed by itself, in seconds since the epoch; None: never."""
    prune = limits.prune if have.prune is None else have.prune
    if have.keep or prune == NEVER or not have.orphaned_at:
        return None
    return have.orphaned_at + prune


def leaving(
    world: World, source: str, users: set[str], containers: dict[str, Decision]
) -> tuple[frozenset[str], set[str]]:
    """(steps after which `users` are gone, users that will not go).

    Every step of a container of `source` that is in flight is waited for: the observation may be older.
    """
    after = {
        step.id
        for subject, step in world.in_flight.items()
        if subject.kind == "container" and step.source == source
    }
    staying: set[str] = set()
    for name in users:
        subject = Subject("container", name)
        remove = containers[name].step("remove") if name in containers else None
        if remove is not None:
            after.add(remove.id)
        elif subject not in world.in_flight and name in world.observed.containers:
            staying.add(name)
    return frozenset(after), staying
