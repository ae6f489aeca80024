"""Decisions: which version of each service is in force: the declared one, or one to which it went back.

What is learned at each look, for the version V that is to be in force of a service (rollout.py replaces the
containers; this file only judges):

    all of its replicas are ready, and did well for `monitor`,    V stands, is good, and is not bad any more
    but for max_failure_ratio of them, which fail
    V does not stand yet, and more than max_failure_ratio of its
    replicas fail (failing() says what that is):
        failure_action rollback or pause                          V is bad
        continue                                                  nothing

    the declared version is bad, its action is rollback:
        there was a good one                    the newest good one is in force
        none is known to be good                the newest that ran and is not known to be bad
        there was none                          the declared one stays: nothing to go back to
    a person pinned a version                   that one, whatever the rest says

A bad version is not tried again: it stays bad until its specs say something else (that is another version),
or a person releases it. What happens to a version that stands is never taken for the fault of an update:
then its shim heals it, as long as it takes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from agent.planner.model import Memory, Subject, World
from agent.planner.ownership import claims
from agent.planner.updates import REVISIONS, VERSIONS, Key, Notice, Spec, Version, Watch
from runtime.observations import Health, ObservedContainer, Phase
from specs.desired import Desired, DesiredContainer, DesiredImage, Probe
from specs.values import Duration, ImageRef

#: restarts since it was put in force after which a container is failing
LOOP = 3
#: failed attempts at a create or start, which a person or another version must mend
ATTEMPTS = 2
#: codes of such failures that may be the version's own fault; all others are the machine's
BLAMED = frozenset({"start-failed", "request-invalid", "mount-source-missing", "limit-unsupported"})

Services = dict[str, tuple[DesiredContainer, ...]]


@dataclass(frozen=True, slots=True)
class Choice:
    """What is in force of a service. `declared`: what its specs ask for, where it is known; `version` is
    another one that is in force instead. `pinned` says by whom."""

    service: str
    source: str
    wants: tuple[DesiredContainer, ...]  # as declared
    declared: Version | None = None
    version: Version | None = None
    pinned: str = ""

    @property
    def known(self) -> Version | None:
        return self.version or self.declared


def services(desired: Desired) -> Services:
    """The containers of each service that is replaced by rollouts."""
    found: Services = {}
    for name, want in sorted(desired.containers.items()):
        if want.job is None:  # a job: each of its runs is a new one anyway
            service = want.service or name
            found[service] = (*found.get(service, ()), want)
    return found


def key_of(world: World, want: DesiredContainer) -> Key | None:
    """None while nobody knows which image it gets."""
    id = want.image_id
    if not id:
        image = world.observed.images.get(want.image)
        id = image.id if image is not None else ""
    return Key(want.identity, want.adjustable, id) if id else None


# ---------------------------------------------------------------- which is in force


def choices(world: World) -> dict[str, Choice]:
    """By service, for every source that is planned; of a name that several of them declare, for the one that
    it belongs to."""
    found: dict[str, Choice] = {}
    for source, desired in sorted(world.desired.items()):
        for service, wants in services(desired).items():
            if service in found and claims(world, "container")[0].get(wants[0].name) != source:
                continue
            known = [v for v in world.memory.versions.get(service, ()) if v.source == source]
            key = key_of(world, wants[0])
            declared = next((version for version in known if version.key == key), None)
            found[service] = _choice(world, Choice(service, source, wants, declared), known)
    return found


def _choice(world: World, asked: Choice, known: list[Version]) -> Choice:
    pin = world.orders.pins.get(asked.service)
    if pin is not None:
        version = next((version for version in known if version.key == pin.key), None)
        if version is not None:
            return replace(asked, version=version, pinned=pin.who)
    declared = asked.declared
    if (source := world.orders.sources.get(asked.source)) is not None:
        version = _of_revision(asked, known, source.revision)
        if version is not None and version != declared:
            return replace(asked, version=version, pinned=source.who)
    if declared is None or not declared.bad or asked.wants[0].update.failure_action != "rollback":
        return asked
    return replace(asked, version=before(known, declared, world.observed.image_ids))


def _of_revision(asked: Choice, known: list[Version], revision: str) -> Version | None:
    """What a service was at `revision` of its source: with the image that it had then."""
    want = asked.wants[0]
    ours = [version for version in known if revision in version.revisions]
    return next((v for v in reversed(ours) if v.key[:2] == (want.identity, want.adjustable)), None)


def before(known: Iterable[Version], bad: Version, images: Collection[str]) -> Version | None:
    """What to go back to from `bad`. Of one whose image is not among `images` (ids) nothing can be made."""
    others = [version for version in known if version.key != bad.key and not version.bad]
    others.sort(key=lambda v: (v.key.image in images, v.good, v.at, v.number))
    return others[-1] if others else None


def in_force(world: World, chosen: Mapping[str, Choice]) -> World:
    """`world` with what is in force in the place of what is declared."""
    desired = dict(world.desired)
    for choice in chosen.values():
        if choice.version is not None:
            desired[choice.source] = _instead(desired[choice.source], choice.wants, choice.version)
    return replace(world, desired=desired)


def _instead(desired: Desired, wants: tuple[DesiredContainer, ...], version: Version) -> Desired:
    """The containers of `version`, with what they need, where `wants` were."""
    gone = {want.name for want in wants}
    containers = {name: want for name, want in desired.containers.items() if name not in gone}
    first = wants[0]
    for want in version.spec.containers:
        containers[want.name] = replace(
            want,
            image_id=version.key.image,
            update=first.way_back,
            way_back=first.way_back,
            desired=first.desired,
            suspend=first.suspend,
            place=first.place,
        )
    for name, want in containers.items():
        if any(dependency.container not in containers for dependency in want.depends_on):
            kept = tuple(item for item in want.depends_on if item.container in containers)
            containers[name] = replace(want, depends_on=kept)
    networks = {item.name: item for item in version.spec.networks} | dict(desired.networks)
    volumes = {item.name: item for item in version.spec.volumes} | dict(desired.volumes)
    return replace(desired, containers=containers, networks=networks, volumes=volumes)


def image_of(desired: Desired, want: DesiredContainer) -> DesiredImage:
    """What `want` is made from; of a version that its specs do not know any more, what was kept."""
    known = desired.images.get(want.image)
    return known or DesiredImage(ImageRef.parse(want.image), pull="never")


# ---------------------------------------------------------------- what a look teaches


def look(world: World) -> Memory:
    """`world.memory` with what can be seen now."""
    watched = _watch(world)
    memory = replace(world.memory, watched=watched)
    world = replace(world, memory=memory)
    versions = dict(memory.versions)
    running = {(have.source, Key.of(have)) for have in world.observed.containers.values()}
    for service, choice in choices(world).items():
        known = _with_declared(world, choice, versions.get(service, ()), running)
        if known:
            versions[service] = _judged(world, choice, known)
    declared = {source: services(desired).keys() for source, desired in world.desired.items()}
    for service, known in memory.versions.items():
        source = known[-1].source
        if source in declared and service not in declared[source] and _is_gone(world, known):
            del versions[service]
    return replace(memory, versions=versions) if versions != memory.versions else memory


def reread(memory: Memory, known: Mapping[str, tuple[Version, ...]]) -> Memory:
    """`memory` with the versions that another process left. What a person released is judged by what it does
    from now on, and tried at once."""
    bad = {(service, one.key) for service, kept in memory.versions.items() for one in kept if one.bad}
    freed = {
        want.name
        for service, kept in known.items()
        for one in kept
        if not one.bad and (service, one.key) in bad
        for want in one.spec.containers
    }
    attempts = {
        key: one
        for key, one in memory.attempts.items()
        if one.subject.kind != "container" or one.subject.name not in freed
    }
    watched = {name: watch for name, watch in memory.watched.items() if name not in freed}
    return replace(memory, versions=known, attempts=attempts, watched=watched)


def _is_gone(world: World, known: tuple[Version, ...]) -> bool:
    """Nothing is left of a service that nothing declares."""
    names = {want.name for version in known for want in version.spec.containers}
    return not names & world.observed.containers.keys()


def _watch(world: World) -> dict[str, Watch]:
    """Of what exists, and of what is declared and was there until a moment ago."""
    found = {
        name: _watched(world, have, world.memory.watched.get(name))
        for name, have in world.observed.containers.items()
        if have.source in world.desired
    }
    for name, last in world.memory.watched.items():
        if name not in found and any(name in desired.containers for desired in world.desired.values()):
            found[name] = last
    return found


def _watched(world: World, have: ObservedContainer, last: Watch | None) -> Watch:
    key, ready = Key.of(have), is_ready(have)
    if last is None or last.id != have.id or last.key != key:
        other = last is not None and last.id != have.id
        counts = (0, 0) if other else (have.own_restarts, _unhealthy(have))
        # who looks for the first time at all takes it that it is ready since it runs
        ran = 0.0 if last is not None else max(0.0, world.clock - have.started_at)
        since = world.now - ran if ready else None
        return Watch(have.id, key, have.started_at, world.now, since, *counts)
    if last.started_at != have.started_at:
        since = world.now if ready else None
        return replace(last, started_at=have.started_at, at=world.now, since=since)
    if not ready:
        return last if last.since is None else replace(last, since=None)
    return last if last.since is not None else replace(last, since=world.now)


def _unhealthy(have: ObservedContainer) -> int:
    return dict(have.restart_reasons).get("unhealthy", 0)


def news(
    before: Mapping[str, tuple[Version, ...]],
    after: Mapping[str, tuple[Version, ...]],
    images: Collection[str],
) -> list[Notice]:
    """What became of updates between two looks, of which the later one saw `images` (ids)."""
    found: list[Notice] = []
    for service, known in after.items():
        last = {version.key: version for version in before.get(service, ())}
        for version in known:
            was = last.get(version.key)
            if version.bad and not (was is not None and was.bad):
                found.append(_fell(known, version, images))
            elif version.standing and was is not None and not was.standing and _is_newest(known, was):
                found.append(Notice("updated", service, version.source, version.revision))
    return found


def _is_newest(known: tuple[Version, ...], version: Version) -> bool:
    """Whether it came after another one, and is not what one that was bad went back to."""
    others = [other for other in known if other.key != version.key]
    last = all(other.number < version.number for other in others)  # also what was released has no time
    return bool(others) and (last or all(other.bad_at < version.at for other in others))


def _fell(known: tuple[Version, ...], bad: Version, images: Collection[str]) -> Notice:
    action = bad.spec.containers[0].update.failure_action
    good = before(known, bad, images)
    if action == "rollback" and good is not None:
        return Notice("rolled-back", bad.service, bad.source, bad.revision, good.revision, bad.bad)
    kind = "paused" if good is not None else "failed"
    return Notice(kind, bad.service, bad.source, bad.revision, "", bad.bad)


def is_ready(have: ObservedContainer) -> bool:
    """It runs, is healthy where it has a probe, and ready where it has one for that."""
    if have.phase is not Phase.RUNNING or have.health not in (Health.NONE, Health.HEALTHY):
        return False
    return have.ready


def did_well(want: DesiredContainer, have: ObservedContainer) -> bool:
    """It ran to its end, as it should."""
    job = want.restart.policy in ("no", "on-failure")
    return job and have.completed


def _is_moved(world: World, have: ObservedContainer) -> bool:
    """Something is done with it, or was while it was looked at: what was seen may be half of that, such as
    the end of its last run while it is being started. It is looked at again when that is done."""
    return have.busy or Subject("container", have.name) in world.in_flight


def settled(world: World, want: DesiredContainer, have: ObservedContainer) -> bool:
    """It did well for as long as it is to be looked at."""
    if _is_moved(world, have):
        return False
    if did_well(want, have):
        return True
    watch = world.memory.watched.get(have.name)
    if not is_ready(have) or watch is None or watch.since is None:
        return False
    return world.now - watch.since >= want.update.monitor


def _with_declared(
    world: World, choice: Choice, known: tuple[Version, ...], running: set[tuple[str, Key]]
) -> tuple[Version, ...]:
    """`known`, and what is declared now, once there was an attempt to make it."""
    wants, last = choice.wants, choice.declared
    key, revision = key_of(world, wants[0]), world.revisions.get(choice.source, "")
    if key is None or not ((choice.source, key) in running or any(_refused(world, want) for want in wants)):
        return known
    if last is None:
        number = max((version.number for version in known), default=0) + 1
        named = (revision,) if revision else ()
        spec = _spec(world.desired[choice.source], wants)
        made = Version(choice.service, choice.source, key, spec, number, named, world.clock)
        return _newest((*known, made), choice)
    now = last
    if wants != last.spec.containers:
        now = replace(now, spec=_spec(world.desired[choice.source], wants))
    if revision and revision not in last.revisions:
        now = replace(now, revisions=(*last.revisions, revision)[-REVISIONS:])
    if known[-1] is not last:  # declared once more, after others: what was before it are those
        others = tuple(version for version in known if version is not last)
        return (*others, replace(now, number=known[-1].number + 1))
    return known if now is last else (*known[:-1], now)


def _newest(known: tuple[Version, ...], choice: Choice) -> tuple[Version, ...]:
    """At most VERSIONS; what is in force, and the newest good ones, are never among those that go."""
    while len(known) > VERSIONS:
        good = [version.number for version in known if version.good][-2:]
        kept = {known[-1].number, *good, *([choice.version.number] if choice.version else [])}
        gone = next(version.number for version in known if version.number not in kept)
        known = tuple(version for version in known if version.number != gone)
    return known


def _spec(desired: Desired, wants: tuple[DesiredContainer, ...]) -> Spec:
    image = desired.images[wants[0].image]
    networks = {one.network for want in wants for one in want.networks}
    volumes = {mount.source for want in wants for mount in want.mounts if mount.kind == "volume"}
    return Spec(
        wants,
        replace(image, build=None, pull="never"),
        tuple(item for name, item in sorted(desired.networks.items()) if name in networks),
        tuple(
            replace(item, backup=None) for name, item in sorted(desired.volumes.items()) if name in volumes
        ),
    )


def _judged(world: World, choice: Choice, known: tuple[Version, ...]) -> tuple[Version, ...]:
    asked = choice.version.spec.containers if choice.version is not None else choice.wants
    key = choice.version.key if choice.version is not None else key_of(world, choice.wants[0])
    return tuple(
        _target(world, choice, asked, version) if version.key == key else _other(world, version)
        for version in known
    )


def _target(world: World, choice: Choice, wants: tuple[DesiredContainer, ...], version: Version) -> Version:
    """The version that is to be in force."""
    active = [want for want in wants if want.desired == "running"]
    if not active or version.standing:
        return version
    have = {want.name: world.observed.containers.get(want.name) for want in active}
    ours = {name: item for name, item in have.items() if item is not None and Key.of(item) == version.key}
    action, ratio = wants[0].update.failure_action, wants[0].update.max_failure_ratio
    others = [w for w in active if w.name not in ours or not settled(world, w, ours[w.name])]
    tolerated = len(others) < len(active) and len(others) <= ratio * len(active)
    if tolerated and all(failing(world, want, version.key) for want in others):  # none is on its way
        return replace(version, standing=True, good=True, bad="", bad_at=0.0, at=world.clock)
    if choice.version is not None or version.bad or action == "continue":
        return version
    failed = [text for want in active if (text := failing(world, want, version.key))]
    if len(failed) <= ratio * len(active):
        return version
    return replace(version, bad=failed[0], bad_at=world.clock)


def _other(world: World, version: Version) -> Version:
    """One that is not to be in force, and may still run: what does well is good to come back to."""
    if version.standing:
        return replace(version, standing=False)
    if version.good or version.bad:
        return version
    wants = {want.name: want for want in version.spec.containers}
    here = [
        have
        for name, have in world.observed.containers.items()
        if have.source == version.source and Key.of(have) == version.key and name in wants
    ]
    well = bool(here) and all(settled(world, wants[have.name], have) for have in here)
    return replace(version, good=True) if well else version


def failing(world: World, want: DesiredContainer, key: Key) -> str:
    """Why the version `key` is at fault for how this container does; empty while it is not known to be."""
    have, name = world.observed.containers.get(want.name), f"container {want.name}"
    if have is not None and Key.of(have) != key:
        return ""
    if refused := _refused(world, want):
        return refused
    watch = world.memory.watched.get(want.name)
    if have is None or watch is None or _is_moved(world, have):
        return ""
    killed = ", killed because it used too much memory" if have.oom_killed else ""
    if have.phase is Phase.EXITED and not did_well(want, have):
        return f"{name} exited with code {have.exit_code}{killed}"
    if have.own_restarts - watch.restarts >= LOOP:
        return f"{name} keeps ending (exit code {have.exit_code}{killed})"
    if have.health is Health.UNHEALTHY or _unhealthy(have) > watch.unhealthy:
        return f"{name} is unhealthy"
    up = have.phase in (Phase.RUNNING, Phase.STARTING)
    if up and not is_ready(have) and world.now - watch.at >= patience(want, have):
        return f"{name} was not ready within {Duration(patience(want, have))}"
    return ""


def patience(want: DesiredContainer, have: ObservedContainer) -> float:
    """Seconds after its start within which a container must be ready: what its probes may take, and `monitor`
    besides. Its image may have a probe, too, of which only its health tells."""
    plain = have.phase is Phase.RUNNING and have.health is Health.NONE and want.readiness is not None
    probes = (want.probe or (None if plain else Probe()), want.startup, want.readiness)
    return want.update.monitor + sum(
        probe.start_period + (probe.interval + probe.timeout) * probe.retries
        for probe in probes
        if probe is not None
    )


def _refused(world: World, want: DesiredContainer) -> str:
    """Why it cannot be made or started, where that is its own fault."""
    for verb in ("create", "start"):
        attempt = world.memory.attempts.get(f"{verb} container {want.name}")
        if attempt is None or attempt.code not in BLAMED or attempt.count < ATTEMPTS:
            continue
        if attempt.basis.endswith(basis(want)):
            return attempt.reason
    return ""


def basis(want: DesiredContainer) -> str:
    """What an attempt to make or start it depends on."""
    return f"{want.identity} {want.adjustable} {want.image_id}".rstrip()
