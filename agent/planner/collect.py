"""Decisions: when images that nobody needs are removed, and which ones stay.

Kept are the images of all that is in force, of the revision before it and the last good versions of every
service (a rollback needs no network), and of every container. What is being pulled or built holds the store
by itself.
"""

from __future__ import annotations

from dataclasses import replace

from agent.planner.decision import CONVERGED, Decision, chain
from agent.planner.model import STORE, Cause, CollectImages, Step, World
from agent.planner.space import size
from agent.planner.updates import images_of_rollbacks
from runtime.images.garbage import Limits as CollectLimits
from runtime.observations import Disk
from specs.desired import DesiredImage
from specs.values import ImageRef

#: seconds between two collections for want of room
AGAIN = 300.0


def decide(world: World, lacking: int = 0) -> Decision:
    """`lacking`: bytes that a pull has no room for."""
    policy, memory, disk = world.collecting, world.memory, world.observed.disk
    if policy is None or any(subject.kind == "image" for subject in world.in_flight):
        return CONVERGED
    last, limits = memory.collected, policy.limits
    waited = world.now - last if last is not None else policy.interval
    above = bool(disk.total) and disk.used > limits.high
    if (above or lacking) and waited >= min(AGAIN, policy.interval):
        why = f"a pull needs {size(lacking)} more" if lacking else f"{limits.high:.0%} may be"
        cause = Cause("space", f"{disk.used:.0%} of {disk.path} are used, {why}")
        limits = _with_room(limits, disk, lacking)
    elif waited >= policy.interval:
        cause = Cause("interval", "images that nothing needs are removed now and then")
    else:
        return Decision(next_look=None if last is None else last + policy.interval)
    return chain(world, Step(STORE, CollectImages(keep(world), limits), cause, basis=f"{last}"))


def _with_room(limits: CollectLimits, disk: Disk, lacking: int) -> CollectLimits:
    """Marks low enough for what is lacking."""
    if not lacking:
        return limits
    target = max(0.0, disk.used - lacking / disk.total)
    return replace(limits, high=min(limits.high, target), low=min(limits.low, target))


def keep(world: World) -> frozenset[str]:
    """Ids of the images that must stay."""
    images = world.observed.images
    found = {container.image_id for container in world.observed.containers.values()}
    found |= images_of_rollbacks(world.memory.versions, world.orders)
    for desired in (*world.desired.values(), *world.previous.values()):
        for image in desired.images.values():
            found.update(images[name].id for name in _names(image) if name in images)
            if str(image.ref) in world.memory.built:
                found.add(world.memory.built[str(image.ref)].image)
    return frozenset(found)


def _names(image: DesiredImage) -> list[str]:
    ref = image.ref
    locked = ImageRef(ref.host, ref.repository, digest=image.digest) if image.digest else ref
    return [str(ref), str(locked)]
