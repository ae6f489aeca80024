"""Decisions: which images to pull.

missing: pulled when the store lacks it, or has it for another platform (then once per revision).
always: pulled once per revision of the source that says so.
never: blocked until somebody imports or pulls it. Images are not removed here.
"""

from __future__ import annotations

from agent.planner.decision import CONVERGED, Decision, chain
from agent.planner.model import Blocked, Cause, PullImage, Step, Subject, World
from runtime.images.manifests import Platform
from runtime.interface import ObservedImage
from specs.desired import DesiredImage

_STRICTNESS = {"never": 0, "missing": 1, "always": 2}


def decide(world: World) -> dict[str, Decision]:
    """By canonical reference. Two sources that want one image share one pull; the strictest policy rules."""
    wanted: dict[str, list[tuple[str, DesiredImage]]] = {}
    for source in sorted(world.desired):
        for reference, image in world.desired[source].images.items():
            wanted.setdefault(reference, []).append((source, image))
    return {reference: _one(world, reference, wanted[reference]) for reference in sorted(wanted)}


def _is_for_another(have: ObservedImage | None, image: DesiredImage) -> bool:
    if have is None or not image.platform or "/" not in have.platform:
        return False
    return not Platform.parse(have.platform).fitness(Platform.parse(image.platform))


def _cause(have: ObservedImage | None, image: DesiredImage) -> Cause:
    if have is None:
        return Cause("missing", "is not in the store", image.place)
    if _is_for_another(have, image):
        text = f"is wanted for {image.platform} and is in the store for {have.platform}"
        return Cause("changed", text, image.place)
    return Cause("revision", "is to be pulled at every new revision", image.place)


def _one(world: World, reference: str, wanted: list[tuple[str, DesiredImage]]) -> Decision:
    subject = Subject("image", reference)
    have = world.observed.images.get(reference)
    present = have is not None
    due = [
        (source, image)
        for source, image in wanted
        if (image.pull == "missing" and not present)
        or (
            (source, reference) not in world.memory.pulled
            and (image.pull == "always" or (image.pull == "missing" and _is_for_another(have, image)))
        )
    ]
    if due:
        source, image = max(due, key=lambda entry: _STRICTNESS[entry[1].pull])
        cause = _cause(have, image)
        action = PullImage(image, tuple(name for name, _ in due))
        return chain(
            world, Step(subject, action, cause, source=source, basis=f"{reference} {image.platform}")
        )
    if not present:
        source, image = wanted[0]
        reason = "is not in the store, and its pull policy is never; bring it with: stead image import"
        return Decision(blocked=Blocked(subject, reason, None, "pull-never", source))
    return CONVERGED
