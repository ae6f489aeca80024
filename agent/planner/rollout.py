"""Decisions: whose turn it is to be replaced, among the replicas of one service.

    replica        what exists                                 counts as
    -------        -----------                                 ---------
    absent         nothing, or only a retired one              moving
    moving         of the version in force, and not settled    moving
    settled        of the version in force, did well for       done
                   `monitor` seconds after it was ready
    failed         of the version in force, and at fault       done, as far as that is tolerated
    idle           suspended, paused, or to be stopped         not counted
    stale, down    of another version, not ready               first to be replaced
    stale, up      of another version, ready                   replaced as the promise allows

    what is seen                                               then the next stale ones
    ------------                                               ------------------------
    something is moving                                        wait for it
    the version failed: failure_action pause                   wait until a person releases it
    the last one settled less than `delay` ago                 wait until then
    else                                                       `parallelism` of them, the down ones first

The promise: with stop-first there are never fewer ready replicas than replicas - parallelism on account of a
rollout, with start-first never fewer than there are replicas. What is down already costs nothing, and goes
first; a batch begins only where none is moving, so that no more than `parallelism` replicas are on their way
at once. With start-first the old one goes when the new one is ready (containers.py), which needs no count.

Nothing of this is remembered: where a rollout stands is what exists. So it goes on after the agent was killed
at any step, and a machine that lost its memory begins nothing twice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from agent.planner.images import short
from agent.planner.model import Blocked, Subject, World
from agent.planner.updates import Key, Version, suspension
from agent.planner.versions import Choice, did_well, failing, is_ready, patience, services, settled
from runtime.observations import ObservedContainer, Phase, retired
from specs.desired import DesiredContainer
from specs.values import Duration

#: what changes whether a container runs, while it is in flight
MOVES = frozenset({"retire", "remove", "create", "start", "stop"})


@dataclass(frozen=True, slots=True)
class Rollout:
    """`waits`: why a stale container of the service is not replaced yet, and until when that is known.
    `state` is for people and metrics: rolling, paused-rollout, rolled-back, rollout-failed, pinned; empty
    where there is nothing to tell. `next_look`: when it may be otherwise although nothing happens."""

    waits: Mapping[str, Blocked] = field(default_factory=dict)
    state: Blocked | None = None
    next_look: float | None = None


@dataclass(slots=True)
class _Count:
    """The replicas of one service by what they count as."""

    moving: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    down: list[str] = field(default_factory=list)
    up: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)  # of those that are done
    until: float | None = None  # when one that is moving is done, if nothing happens
    recovery: float | None = None  # when one that failed, and does well now, has done so for long enough

    @property
    def total(self) -> int:
        return len(self.moving) + len(self.done) + len(self.down) + len(self.up)


def rollouts(world: World, chosen: Mapping[str, Choice], stale: Collection[str]) -> dict[str, Rollout]:
    """By service. `world` has what is in force; `stale` are the names of containers that cannot be kept."""
    found: dict[str, Rollout] = {}
    for source, desired in sorted(world.desired.items()):
        for service, wants in services(desired).items():
            if (choice := chosen.get(service)) is not None and choice.source == source:
                found[service] = decide(world, choice, wants, stale)
    return found


def decide(
    world: World, choice: Choice, wants: Collection[DesiredContainer], stale: Collection[str]
) -> Rollout:
    """`wants` are the containers that are in force of the service, `stale` the names of those among them that
    exist and cannot be kept."""
    count = _counted(world, choice, wants, stale)
    update = next(iter(wants)).update
    paused = _is_paused(choice, count)
    waits, reason, until = [*count.down, *count.up], "", None
    if paused:
        reason = "waits: the rollout is paused"
    elif count.moving:
        reason, until = f"waits for its turn after {_some(count.moving)}", count.until
    elif (due := _last_settled(world, count) + update.delay) > world.now:
        reason, until = f"waits for its turn, {Duration(update.delay)} after the last one", due
    else:
        waits, reason = waits[update.parallelism or len(waits) :], "waits for its turn"
    blocked = {
        name: Blocked(Subject("container", name), reason, until, "waits", choice.source) for name in waits
    }
    going = bool(count.moving) or until is not None
    settles = _earliest(count.until, count.recovery)
    next_look = settles if settles is not None and settles > world.now else None
    return Rollout(blocked, _state(world, choice, count, going), next_look)


def _is_paused(choice: Choice, count: _Count) -> bool:
    """Whether no more are to be replaced, since those that were are at fault."""
    if choice.version is None:
        return choice.declared is not None and bool(choice.declared.bad)
    back = choice.wants[0].way_back
    many = len(count.failed) > back.max_failure_ratio * count.total
    return back.failure_action == "pause" and many


def _counted(
    world: World, choice: Choice, wants: Collection[DesiredContainer], stale: Collection[str]
) -> _Count:
    count, known = _Count(), choice.known
    for want in sorted(wants, key=lambda item: item.name):
        name, have = want.name, world.observed.containers.get(want.name)
        old = world.observed.containers.get(retired(name))
        running = world.in_flight.get(Subject("container", name))
        if have is not None and have.source != choice.source:
            continue  # the name is another's
        if _is_idle(world, choice.source, want, have) and running is None:
            continue
        if (running is not None and running.verb in MOVES) or have is None:
            count.moving.append(name)
        elif name in stale:
            (count.up if is_ready(have) or did_well(want, have) else count.down).append(name)
        elif old is None and settled(world, want, have):
            count.done.append(name)
        elif known is not None and not known.standing and failing(world, want, known.key):
            count.done.append(name)
            count.failed.append(name)
            watch = world.memory.watched.get(name)
            if watch is not None and watch.since is not None:
                count.recovery = _earliest(count.recovery, watch.since + want.update.monitor)
        elif known is not None and known.standing and Key.of(have) == known.key:
            count.done.append(name)  # what happens to it is no matter of the rollout
        else:
            count.moving.append(name)
            count.until = _earliest(count.until, _due(world, want, have))
    return count


def _is_idle(world: World, source: str, want: DesiredContainer, have: ObservedContainer | None) -> bool:
    if want.desired != "running" or want.suspend or want.name in world.observed.hand_stops:
        return True
    if have is not None and have.phase is Phase.PAUSED:
        return True
    return bool(suspension(world.orders, want, want.name, source, world.clock))


def _due(world: World, want: DesiredContainer, have: ObservedContainer) -> float | None:
    """When it is settled, or is at fault for not being ready, if nothing happens until then."""
    watch = world.memory.watched.get(want.name)
    if watch is None:
        return None
    if watch.since is not None:
        return watch.since + want.update.monitor
    return watch.at + patience(want, have) if have.phase in (Phase.RUNNING, Phase.STARTING) else None


def _earliest(one: float | None, other: float | None) -> float | None:
    return min((time for time in (one, other) if time is not None), default=None)


def _last_settled(world: World, count: _Count) -> float:
    watched = [world.memory.watched.get(name) for name in count.done]
    return max((w.since for w in watched if w is not None and w.since is not None), default=float("-inf"))


# ---------------------------------------------------------------- what is told


def _state(world: World, choice: Choice, count: _Count, going: bool) -> Blocked | None:
    """`going`: something is on its way, after which the next ones have their turn."""
    subject, declared = Subject("rollout", choice.service), choice.declared
    cure = f"stead release {choice.service}"

    def told(code: str, reason: str) -> Blocked:
        return Blocked(subject, reason, None, code, choice.source)

    if choice.version is not None and choice.pinned:
        if count.moving:
            done = f"{len(count.done)} of {count.total} are back"
            text = f"goes back to {named(choice.version.revision)}, {done}: {choice.pinned} said so"
            return told("rolling", text)
        text = f"{named(choice.version.revision)} is kept in force by {choice.pinned}"
        text += f" and fails: {_some(count.failed)}" if count.failed else ""
        return told("pinned", f"{text}, whatever its specs say, until: {cure}")
    if choice.version is not None and declared is not None:
        back, bad = names(choice.version, declared)
        if going and (count.down or count.up):
            done = f"{len(count.done)} of {count.total} are back"
            return told("rolling", f"goes back to {back}, {done}: {declared.bad}")
        text = f"was rolled back to {back}: {declared.bad}"
        if count.failed:
            text += f"; what it went back to fails, too: {_some(count.failed)}"
        return told("rolled-back", f"{text}; {bad} is not tried again before its specs change, or: {cure}")
    others = [v for v in world.memory.versions.get(choice.service, ()) if v is not declared and not v.bad]
    if declared is not None and declared.bad and (others or count.down or count.up):
        number = _replaced(world, choice.wants, declared.key)
        text = f"is paused, {number} of {count.total} replaced: {declared.bad}"
        return told("paused-rollout", f"{text}; it goes on with other specs, or: {cure}")
    if declared is not None and declared.bad:
        return told("rollout-failed", f"{declared.bad}; there is no good version to go back to")
    return _progress(world, choice, count)


def _replaced(world: World, wants: Collection[DesiredContainer], key: Key) -> int:
    """How many are of that version, however they do."""
    have = (world.observed.containers.get(want.name) for want in wants)
    return sum(one is not None and Key.of(one) == key for one in have)


def _progress(world: World, choice: Choice, count: _Count) -> Blocked | None:
    """Of an update that is under way, and not of what was never there before."""
    known, left = world.memory.versions.get(choice.service, ()), len(count.down) + len(count.up)
    stands = choice.known is not None and choice.known.standing
    if not count.moving or not (left or (len(known) > 1 and not stands)):
        return None
    many = "are" if len(count.moving) > 1 else "is"
    monitor = choice.wants[0].update.monitor
    well = f", and to do well for {Duration(monitor)}" if monitor else ""
    reason = (
        f"{len(count.done)} of {count.total} are replaced; {_some(count.moving)} {many} to be ready{well}"
    )
    return Blocked(Subject("rollout", choice.service), reason, count.until, "rolling", choice.source)


def names(good: Version, bad: Version) -> tuple[str, str]:
    """How people tell the two apart: by revision, or by image where one revision had both."""
    if good.revision != bad.revision:
        return named(good.revision), named(bad.revision)
    return f"image {short(good.key.image)}", f"image {short(bad.key.image)}"


def named(revision: str) -> str:
    return f"revision {revision[:12]}" if revision else "the version before"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(names[:2]) + more
