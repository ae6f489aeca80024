"""Decisions: when images that nobody needs are removed, and which ones stay.

Kept are the images of all that is in force, of the revision before it (a rollback needs no network), and of
every container. What is being pulled or built holds the store by itself.
"""

from __future__ import annotations

from agent.planner.decision import CONVERGED, Decision, chain
from agent.planner.model import STORE, Cause, CollectImages, Step, World
from specs.desired import DesiredImage
from specs.values import ImageRef

#: seconds between two collections for want of room
AGAIN = 300.0


def decide(world: World, *, wants_room: bool = False) -> Decision:
    """`wants_room`: something cannot be pulled because the disk is full."""
    policy, memory, disk = world.collecting, world.memory, world.observed.disk
    if policy is None or any(subject.kind == "image" for subject in world.in_flight):
        return CONVERGED
    last = memory.collected
    waited = world.now - last if last is not None else policy.interval
    above = bool(disk.total) and disk.used > policy.limits.high
    if waited >= policy.interval:
        cause = Cause("interval", "images that nothing needs are removed now and then")
    elif (above or wants_room) and waited >= AGAIN:
        text = f"{disk.used:.0%} of {disk.path} are used"
        cause = Cause(
            "space", f"{text}, {policy.limits.high:.0%} may be" if above else f"{text}, a pull needs room"
        )
    else:
        return Decision(next_look=None if last is None else last + policy.interval)
    step = Step(STORE, CollectImages(keep(world), policy.limits), cause, basis=f"{last}")
    return chain(world, step)


def keep(world: World) -> frozenset[str]:
    """Ids of the images that must stay."""
    images = world.observed.images
    found = {container.image_id for container in world.observed.containers.values()}
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
