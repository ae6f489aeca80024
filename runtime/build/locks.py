"""Decisions: which images a build takes from a registry, and at which digests a lock lets it have them.

A lock is a mapping of canonical references to digests; one without a digest is an image of this machine that
no registry is asked for. What is named by a digest or an id is locked by itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from runtime.build.graph import Base, ContextBase, Graph, ImageBase, PlannedStage, familiar, mentioned
from runtime.build.problems import DockerfileError, Place, Problem
from runtime.build.values import Value
from specs.values import LOCAL_HOST, ImageRef

#: How a named context is written that is an image.
IMAGE_CONTEXT = "docker-image://"
#: What is to be done about an image that the lock lacks; the second one where only an ONBUILD of a base
#: needs it, which is not known before the base is here.
CURE = "run stead lock"
ONBUILD_CURE = "an ONBUILD of a base needs it: declare it as [image.NAME] and run stead lock"

Lock = Mapping[str, str]


class Needed(Value):
    """An image that a build begins from or copies from. `name` is as it is written, `place` where; `context`:
    a named context says which image it is."""

    name: str
    platform: str
    place: Place
    context: bool


def needed(graph: Graph, platform: str, contexts: Mapping[str, str]) -> tuple[Needed, ...]:
    """Every image that the stages need that the target needs, in order. `contexts` are the named ones."""
    found: list[Needed] = []
    for stage in graph.needed:
        for base, place in _bases(stage):
            name = _name(base, contexts)
            if name and isinstance(base, ImageBase | ContextBase):
                where = base.platform or stage.platform or platform
                found.append(Needed(name, where, place, isinstance(base, ContextBase)))
    return tuple(dict.fromkeys(found))


def _bases(stage: PlannedStage) -> list[tuple[Base, Place]]:
    places: dict[str, Place] = {}
    for name, place in mentioned(stage.instructions):
        places.setdefault(name, place)
    return [(stage.base, stage.place), *((base, places[name]) for name, base in stage.sources.items())]


def _name(base: Base, contexts: Mapping[str, str]) -> str:
    """Empty for what is no image."""
    if isinstance(base, ImageBase):
        return base.name
    if not isinstance(base, ContextBase):
        return ""
    where = next((where for key, where in contexts.items() if familiar(key) == familiar(base.name)), "")
    return where.removeprefix(IMAGE_CONTEXT) if where.startswith(IMAGE_CONTEXT) else ""


def lockable(name: str) -> ImageRef | None:
    """The tag that a lock must have a digest for. None: the name stands for one content, or no registry has
    it."""
    try:
        ref = ImageRef.parse(name)
    except ValueError:
        return None  # an id
    return ref if ref.tag and ref.host != LOCAL_HOST else None


def digest_of(name: str, lock: Lock | None) -> str:
    """The only content that `name` may stand for; empty: whatever it stands for."""
    ref = lockable(name) if lock else None
    return lock.get(str(ref), "") if lock and ref is not None else ""


def at(name: str, lock: Lock | None) -> str:
    """What is looked for in the store, and asked of the registry, where `name` is written."""
    digest = digest_of(name, lock)
    return f"{ImageRef.parse(name).name}@{digest}" if digest else name


def check(
    graph: Graph, platform: str, contexts: Mapping[str, str], lock: Lock | None, cure: str = CURE
) -> None:
    """Raises DockerfileError with every image that the lock lacks, at its place."""
    problems = []
    for item in needed(graph, platform, contexts) if lock is not None else ():
        ref = lockable(item.name)
        if ref is not None and lock is not None and str(ref) not in lock:
            text = f"image {ref.familiar!r} is not in stead.lock.toml"
            problems.append(Problem(item.place, text, cure))
    if problems:
        raise DockerfileError(dict.fromkeys(problems))
