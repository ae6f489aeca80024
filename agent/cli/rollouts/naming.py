"""Effects: what a person means by a name: a container, its service, a project or a source."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from agent.cli.containers import person
from agent.cli.images.store import wake_agent
from agent.cli.main import Problem, need_root
from agent.planner.updates import Order
from agent.rollouts import Rollouts
from agent.rollouts import opened as opened_file
from runtime import attend
from runtime.faults import Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.paths import Paths

#: entries of the journal among which those of every source are
LOOKED_AT = 10_000


@contextmanager
def opened(paths: Paths) -> Iterator[Rollouts]:
    """What was ordered, to order more; the agent, if one runs, looks at it afterwards. Needs root."""
    need_root()
    paths.make()
    with opened_file(paths.rollouts) as rollouts:
        yield rollouts
    wake_agent(paths)


def sources(paths: Paths) -> list[str]:
    """Of which revisions were kept."""
    try:
        return sorted(os.listdir(paths.sources))
    except OSError:
        return []


def service(rollouts: Rollouts, name: str) -> str:
    """The full name of a service that has versions: by its name, a part of it, or one of its replicas; empty
    where there is none. Raises Problem when several fit."""
    versions = rollouts.versions()
    replicas = {
        want.name: known
        for known, all in versions.items()
        for version in all
        for want in version.spec.containers
    }
    names = {**replicas, **{known: known for known in versions}}
    if name in names:
        return names[name]
    found = {known for full, known in names.items() if full.rpartition("/")[2] == name}
    if len(found) > 1:
        raise Problem(f"{name} may be {' or '.join(sorted(found))}: write one of them", 2)
    return next(iter(found), "")


def scope(paths: Paths, rollouts: Rollouts, name: str) -> tuple[str, str]:
    """(key of a suspension, how people call it) for a container, service, project or source. `source:NAME`
    and `project:NAME` say which is meant."""
    kind, colon, rest = name.partition(":")
    if colon and kind in ("source", "project"):
        known = _every_source(paths) if kind == "source" else _projects(paths, rollouts)
        if rest not in known:
            there = f"there are {', '.join(sorted(known))}" if known else "there is none"
            raise Problem(f"there is no {kind} {rest!r}: {there}")
        return (name, f"source {rest}") if kind == "source" else (rest, f"project {rest}")
    try:
        found = attend.find(paths, name)
    except Fault as fault:
        if full := service(rollouts, name):
            return full, f"container {full}"
        if name in _every_source(paths):
            return f"source:{name}", f"source {name}"
        if name in _projects(paths, rollouts):
            return name, f"project {name}"
        raise Problem(f"there is no container, project or source {name!r}: {fault.cause}") from fault
    if not found.source:
        raise Problem(f"container {found.name} is of no source: nothing is done to it anyway")
    return found.name, f"container {found.name}"


def _every_source(paths: Paths) -> set[str]:
    """Also those of which nothing could be put in force yet."""
    from agent.journal import read_revisions

    return {*sources(paths), *(entry.source for entry in read_revisions(paths.journal, limit=LOOKED_AT))}


def _projects(paths: Paths, rollouts: Rollouts) -> set[str]:
    names = {*rollouts.versions(), *(record.name for record in attend.read_all(paths))}
    return {name.partition("/")[0] for name in names if "/" in name}


def order(reason: str = "", until: float | None = None) -> Order:
    return Order(time.time(), person.who(), reason, until)
