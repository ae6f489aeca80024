"""Decisions: which images to look up, measure, pull, repair and build.

For an image that comes from a registry:

    not in the store, or not as locked           measure, pull; `never`: blocked until somebody brings it
    in the store for another platform            measure, pull, once per revision
    `always`, or its interval has passed         look the tag up: one HEAD; `always` once per revision
    the tag stands for another digest by now     measure, pull
    a layer of it is missing or rotten           repair

What is in the store goes on being used while a look-up or a pull of something newer fails: that is a note
(`image-kept`). For an image that is built: built whenever it is not what its inputs as they are now gave.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from agent.planner.decision import CONVERGED, Decision, chain
from agent.planner.model import (
    KEPT,
    Action,
    Blocked,
    BuildImage,
    Cause,
    LookUpImage,
    MeasureImage,
    PullImage,
    RepairImage,
    Step,
    Subject,
    World,
)
from runtime.images.manifests import Platform
from runtime.observations import ObservedImage
from specs.desired import DesiredImage
from specs.values import Duration, ImageRef

_STRICTNESS = {"never": 0, "missing": 1, "always": 2}
Wanted = list[tuple[str, DesiredImage]]


@dataclass(frozen=True, slots=True)
class Images:
    """By canonical reference; and, by (source, reference), why a source cannot have it as it wants it."""

    decisions: dict[str, Decision]
    refused: dict[tuple[str, str], Blocked]


def decide(world: World) -> Images:
    """Two sources that want one image share one step; the strictest policy and the shortest interval rule."""
    wanted: dict[str, Wanted] = {}
    for source in sorted(world.desired):
        for reference, image in world.desired[source].images.items():
            wanted.setdefault(reference, []).append((source, image))
    decisions: dict[str, Decision] = {}
    refused: dict[tuple[str, str], Blocked] = {}
    for reference in sorted(wanted):
        agreed = _agreed(reference, wanted[reference], refused)
        built = agreed[0][1].build is not None
        decisions[reference] = _built(world, reference, agreed[0]) if built else _One(world, agreed).decide()
    return Images(decisions, refused)


def _agreed(reference: str, wanted: Wanted, refused: dict[tuple[str, str], Blocked]) -> Wanted:
    """One name means one image: the first source that builds or locks it says which, others must agree."""
    first, said = next(
        ((source, image) for source, image in wanted if image.build is not None or image.digest), wanted[0]
    )
    agreed = []
    for source, image in wanted:
        reason = ""
        if image.build != said.build:
            reason = f"source {first} builds an image of this name"
        elif image.digest and image.digest != said.digest:
            reason = f"source {first} locks it to {short(said.digest)}, this one to {short(image.digest)}"
        if reason:
            blocked = Blocked(Subject("image", reference), reason, None, "name-taken", source)
            refused[source, reference] = blocked
        else:
            agreed.append((source, image))
    return agreed


def short(digest: str) -> str:
    """`sha256:` and 12 digits."""
    algorithm, _, digits = digest.rpartition(":")
    return f"{algorithm}:{digits[:12]}" if digits else "(unknown)"


def is_for_another(have: ObservedImage | None, image: DesiredImage) -> bool:
    if have is None or not image.platform or "/" not in have.platform:
        return False
    return not Platform.parse(have.platform).fitness(Platform.parse(image.platform))


class _One:
    """One reference of a registry, and all sources that want it."""

    def __init__(self, world: World, wanted: Wanted) -> None:
        self.world, self.wanted = world, wanted
        self.reference = str(wanted[0][1].ref)
        self.subject = Subject("image", self.reference)
        self.have = world.observed.images.get(self.reference)
        self.has = self.have.digest_of(self.reference) if self.have else ""
        self.locked = next((image.digest for _, image in wanted if image.digest), "")
        self.look = world.memory.looks.get(self.reference)

    def decide(self) -> Decision:
        source, image = max(self.wanted, key=lambda entry: _STRICTNESS[entry[1].pull])
        if image.pull == "never":
            return self._never(source)
        if self.have is None:
            return self._pull(Cause("missing", "is not in the store", image.place))
        if self.locked and self.has != self.locked:
            text = f"is locked to {short(self.locked)}, the store has {short(self.has)}"
            return self._pull(Cause("changed", text, image.place))
        due = self._unpulled()
        others = [entry for entry in due if is_for_another(self.have, entry[1])]
        if others:
            image = others[0][1]
            text = f"is wanted for {image.platform} and is in the store for {self.have.platform}"
            return self._pull(Cause("changed", text, image.place), others)
        if self.have.broken:
            return self._repair(source, image, Cause("drift", self.have.broken))
        return CONVERGED if self.locked else self._renew(due)

    def _never(self, source: str) -> Decision:
        if self.have is not None:
            return CONVERGED
        reason = "is not in the store, and its pull policy is never; bring it with: stead image import"
        return Decision(blocked=Blocked(self.subject, reason, None, "pull-never", source))

    def _unpulled(self) -> Wanted:
        """Sources whose revision in force has not had its say yet."""
        pulled = self.world.memory.pulled
        return [(source, image) for source, image in self.wanted if (source, self.reference) not in pulled]

    def _pull(self, cause: Cause, due: Wanted | None = None) -> Decision:
        due = due or self._unpulled() or self.wanted
        source, image = max(due, key=lambda entry: _STRICTNESS[entry[1].pull])
        image = replace(image, digest=self.locked)
        newer = self.look.digest if self.look and not self.locked else ""
        basis = f"{self.reference} {image.platform} {self.locked or newer}".rstrip()
        pull = self._step(source, PullImage(image, tuple(name for name, _ in due)), cause, basis)
        measured = self.world.memory.measured.get(self.reference)
        if measured is not None and measured.basis == basis:
            return chain(self.world, pull)
        return chain(self.world, self._step(source, MeasureImage(image), cause, basis), pull)

    def _repair(self, source: str, image: DesiredImage, cause: Cause) -> Decision:
        action = RepairImage(replace(image, digest=self.locked or self.has))
        return chain(self.world, self._step(source, action, cause, f"{self.reference} {cause.text}"))

    def _renew(self, due: Wanted) -> Decision:
        """Whether the tag stands for something newer. Nothing of it stops what there is."""
        always = [(source, image) for source, image in due if image.pull == "always"]
        intervals = [image.interval for _, image in self.wanted if image.interval]
        interval = min(intervals, default=0.0)
        if not self.wanted[0][1].ref.tag or not (interval or any(i.pull == "always" for _, i in self.wanted)):
            return CONVERGED
        if self.look is not None and self.look.digest and self.look.digest != self.has:
            name = self.wanted[0][1].ref.familiar
            text = f"image {name} went from {short(self.has)} to {short(self.look.digest)}"
            return self._kept(self._pull(Cause("image", text, self.wanted[0][1].place)))
        next_look = self.look.at + interval if self.look else self.world.now
        if always:
            cause = Cause("revision", "is to be looked up at every new revision", always[0][1].place)
            return self._kept(self._look_up(always, cause))
        if not interval:
            return CONVERGED
        if next_look <= self.world.now:
            entry = next(entry for entry in self.wanted if entry[1].interval == interval)
            cause = Cause("interval", f"is looked up every {Duration(interval)}", entry[1].place)
            return self._kept(self._look_up([entry], cause))
        return Decision(next_look=next_look)

    def _look_up(self, due: Wanted, cause: Cause) -> Decision:
        source, image = due[0]
        action = LookUpImage(image, tuple(name for name, _ in due))
        return chain(self.world, self._step(source, action, cause, f"{self.reference} {self._looked_at()}"))

    def _looked_at(self) -> str:
        """Tells one look from the next, so that a look is no repetition of the one before."""
        return f"{self.look.at:.3f}" if self.look else ""

    def _kept(self, decision: Decision) -> Decision:
        """What cannot be renewed now is a note: the image in the store goes on."""
        if decision.blocked is None:
            return decision
        reason = f"{decision.blocked.reason}; the image in the store stays in use"
        return replace(decision, blocked=replace(decision.blocked, reason=reason, code=KEPT))

    def _step(self, source: str, action: Action, cause: Cause, basis: str) -> Step:
        return Step(self.subject, action, cause, source=source, basis=basis)


def _built(world: World, reference: str, entry: tuple[str, DesiredImage]) -> Decision:
    source, image = entry
    subject = Subject("image", reference)
    inputs = world.inputs.get(reference)
    if inputs is None or inputs.code:
        code, reason = (
            (inputs.code, inputs.reason) if inputs else ("waits", "its files were not looked at yet")
        )
        return Decision(blocked=Blocked(subject, reason, None, code, source))
    have, built = world.observed.images.get(reference), world.memory.built.get(reference)
    if have is None:
        cause = Cause("missing", "is not in the store", image.place)
    elif built is None:
        cause = Cause("changed", "nothing is known of what it was built from", image.place)
    elif built.key != inputs.key:
        text = inputs.changed or "its Dockerfile, its context, an argument or a base image changed"
        cause = Cause("changed", text, image.place)
    elif built.image != have.id:
        cause = Cause("drift", f"its name was given to {short(have.id)}", image.place)
    elif have.broken:
        cause = Cause("drift", have.broken, image.place)
    elif lost := _lost_tags(world, image, have):
        cause = Cause("drift", f"it is not called {lost[0]}", image.place)
    else:
        return CONVERGED
    return chain(world, Step(subject, BuildImage(image, inputs.key), cause, source=source, basis=inputs.key))


def _lost_tags(world: World, image: DesiredImage, have: ObservedImage) -> list[str]:
    """Further names that are not the image's: building it anew, all of it cached, gives them."""
    tags = image.build.tags if image.build is not None else ()
    return [ref.familiar for ref in tags if str(ref) not in have.names]


def superseded(world: World) -> list[ImageRef]:
    """Builds under way that a newer revision wants otherwise: it need not wait until they end.

    A file that merely changed while a build goes on cancels nothing: what changes all the time would never be
    built.
    """
    found = []
    for step in world.in_flight.values():
        if not isinstance(step.action, BuildImage):
            continue
        image, inputs = step.action.image, world.inputs.get(step.subject.name)
        wanted = {want.images.get(step.subject.name) for want in world.desired.values()}
        if image not in wanted and (inputs is None or inputs.key != step.action.key):
            found.append(image.ref)
    return found
