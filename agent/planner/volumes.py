"""Decisions: which volumes to make. Volumes hold data: none is removed unless `drop_volumes` says so."""

from __future__ import annotations

from agent.planner.decision import CONVERGED, Decision, chain
from agent.planner.model import Blocked, Cause, CreateVolume, RemoveVolume, Step, Subject, World
from runtime.interface import ObservedVolume
from specs.desired import DesiredVolume


def decide(world: World, owners: dict[str, str]) -> dict[str, Decision]:
    """By full name, for every volume that a source declares. Of an existing one only labels can change."""
    found: dict[str, Decision] = {}
    for name, source in sorted(owners.items()):
        want = world.desired[source].volumes.get(name)
        if want is None:
            continue
        have = world.observed.volumes.get(name)
        if have is not None and have.fingerprint == want.fingerprint:
            found[name] = CONVERGED
            continue
        missing = Cause("missing", "does not exist", want.place)
        cause = missing if have is None else Cause("changed", _changed(want, have), want.place)
        step = Step(Subject("volume", name), CreateVolume(want), cause, source=source, basis=want.fingerprint)
        found[name] = chain(world, step)
    for source, desired in sorted(world.desired.items()):
        for name, want in sorted(desired.externals.items()):
            found.setdefault(name, _external(world, source, want))
    return found


def _changed(want: DesiredVolume, have: ObservedVolume) -> str:
    if dict(want.options) != dict(have.options):
        return "its driver_opts changed"
    return "keep changed" if want.keep != have.keep else "its labels changed"


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
        if have.anonymous:
            if _nobodys(world, source, have):
                cause = Cause("undeclared", f"its container {have.container} is gone")
                step = Step(
                    Subject("volume", name), RemoveVolume(name), cause, source=source, basis=have.path
                )
                found[name] = chain(world, step)
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


def _nobodys(world: World, source: str, have: ObservedVolume) -> bool:
    """Of an anonymous volume: its container went to be replaced, and its successor is not wanted any more."""
    name = have.container
    return (
        bool(name)
        and name not in world.observed.containers
        and name not in world.desired[source].containers
        and Subject("container", name) not in world.in_flight
    )


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
