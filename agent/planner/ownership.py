"""Decisions: which source a name belongs to. One source's things never touch another's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from agent.planner.model import Blocked, Kind, Subject, World
from runtime.observations import successor


class _Owned(Protocol):
    @property
    def source(self) -> str: ...


def claims(world: World, kind: Kind) -> tuple[dict[str, str], list[Blocked]]:
    """(name -> the source that may act on it, what is blocked because the name is another source's).

    What exists belongs to the source that made it; else the first source by name gets it. Names that exist
    and that their source no longer declares are in the result too, so that they can be removed.
    """
    existing = {name: thing.source for name, thing in _observed(world, kind).items()}
    if kind == "container":
        existing = _kept(world, existing) | existing
    owners = {name: source for name, source in existing.items() if source in world.desired}
    blocked: list[Blocked] = []
    for source in sorted(world.desired):
        for name in sorted(_desired(world, source, kind)):
            owner = existing[name] if name in existing else owners.get(name, source)
            if owner == source:
                owners[name] = source
                continue
            reason = f"the name belongs to source {owner}" if owner else "exists, and no source declared it"
            blocked.append(Blocked(Subject(kind, name), reason, None, "name-taken", source))
    return owners, blocked


def _kept(world: World, existing: Mapping[str, str]) -> dict[str, str]:
    """Names that retired containers had: their source is about to give them to the new ones."""
    return {
        successor(name): source
        for name, source in existing.items()
        if source in world.desired and successor(name) in world.desired[source].containers
    }


def _observed(world: World, kind: Kind) -> Mapping[str, _Owned]:
    match kind:
        case "network":
            return world.observed.networks
        case "volume":
            return world.observed.volumes
        case _:
            return world.observed.containers


def _desired(world: World, source: str, kind: Kind) -> Iterable[str]:
    match kind:
        case "network":
            return world.desired[source].networks
        case "volume":
            return world.desired[source].volumes
        case _:
            return world.desired[source].containers
