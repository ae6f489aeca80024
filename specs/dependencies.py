"""Decisions: what a container waits for, whose starts it follows, and when it runs where it is a job."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from specs import sharing
from specs.declared import Declared, Index
from specs.desired import Dependency, DesiredContainer, DesiredJob
from specs.documents import Container
from specs.jobs import desired_job
from specs.limits import Wrong
from specs.problems import Problem
from specs.replicas import replica_count


def dependencies(declared: Declared, model: Container, index: Index, wrong: Wrong) -> tuple[Dependency, ...]:
    """Those of `depends_on`, one a replica, and owners of namespaces that it joins. Also notes in `declared`
    what it waits for: cycles are looked for there."""
    found: dict[str, Dependency] = {}
    waits: list[str] = []
    for name, rule in (model.depends_on or {}).items():
        path, at_key = declared.item(("depends_on",), name)
        full = index.full_name(declared.project, name)
        other = index.get("container", full)
        required = rule.required is not False
        if other is None:
            if required:
                hint = index.hint("container", declared.project, name)
                wrong(path, f"no container {name!r}", hint, at_key=at_key)
            continue
        if other.inactive:
            if required:
                wrong(path, *sharing.inactive(other), at_key=at_key)
            continue
        waits.append(full)
        for one in _replicas(full, other):
            found[one] = Dependency(one, rule.condition, required, bool(rule.restart))
    for name in sharing.owners(model):
        full = index.full_name(declared.project, name)
        if index.get("container", full) in (None, declared):
            continue  # which is a problem of that field
        waits.append(full)
        asked = found.get(full, Dependency(full))
        found[full] = replace(asked, required=True)
    declared.waits_for = tuple(dict.fromkeys(waits))
    return tuple(found.values())


def _replicas(full: str, other: Declared) -> list[str]:
    count = replica_count(other.model) if isinstance(other.model, Container) else None
    return [full] if count is None else [f"{full}-{n + 1}" for n in range(count)]


def job(model: Container, wrong: Wrong) -> DesiredJob | None:
    """What a job cannot be besides is a problem."""
    if model.schedule is None:
        return None
    for key, text in _contradictions(model):
        wrong((key,), text, "leave it out", at_key=True)
    try:
        return desired_job(model.schedule)
    except ValueError as error:
        wrong(("schedule", "time_zone"), str(error))
        return None


def _contradictions(model: Container) -> Iterator[tuple[str, str]]:
    if model.restart is not None and model.restart[0] != "no":
        yield (
            "restart",
            "a job runs to its end; schedule.retries says how often it is tried again",
        )
    for key in ("replicas", "scale"):
        if getattr(model, key) is not None:
            yield key, "a job is one container"
    if model.deploy is not None and (model.deploy.replicas is not None or model.deploy.restart_policy):
        yield "deploy", "a job is one container that runs to its end"


def never_complete(
    containers: Mapping[str, DesiredContainer], origins: Mapping[str, Declared]
) -> Iterable[Problem]:
    """Waiting for the end of what is started anew whenever it ends."""
    for name, container in containers.items():
        for one in container.depends_on:
            other = containers.get(one.container)
            if one.condition != "completed" or other is None or other.job is not None:
                continue
            if other.restart.policy in ("always", "unless-stopped"):
                said = f"its restart policy is {other.restart.policy}"
                text = f"{one.container} ({other.place}) never completes: {said}"
                hint = f'write restart = "on-failure" or "no" in {one.container}'
                yield origins[name].problem(("depends_on",), text, hint, at_key=True)
