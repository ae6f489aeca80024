"""Decisions: which steps of containers wait for other containers.

- A start waits for what the container depends on (started, healthy, completed).
- A create waits until ports and addresses it needs are given up by containers that leave.
- A removal waits for the removal of the containers that depended on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agent.planner.decision import Decision
from agent.planner.model import Blocked, CreateContainer, RemoveContainer, Step, Subject, World
from runtime.observations import PROBE_STOPPED, Health, ObservedContainer, Phase
from specs.desired import Dependency, DesiredContainer
from specs.values import PortBinding, addresses_meet

_RUNS = frozenset({"retire", "remove", "create", "start", "stop"})  # what changes whether it runs
_STARTED = frozenset({Phase.RUNNING, Phase.PAUSED, Phase.BACKOFF, Phase.EXITED})


class Waiting:
    """One pass over all decisions about containers; `settle` gives each with its waits."""

    def __init__(self, world: World, owners: Mapping[str, str], decisions: Mapping[str, Decision]) -> None:
        self._world, self._owners, self._raw = world, owners, decisions
        self._settled: dict[str, Decision] = {}
        self._removed = {
            name: step for name, d in decisions.items() if (step := d.step("remove")) is not None
        }
        self._ports, self._addresses = self._given_up()
        self._removal_order = self._order_of_removals()

    def settle(self) -> dict[str, Decision]:
        return {name: self._one(name) for name in sorted(self._raw)}

    def _one(self, name: str) -> Decision:
        if name in self._settled:
            return self._settled[name]
        raw = self._raw[name]
        self._settled[name] = raw  # a cycle cannot pass the specs; if one does, it ends here
        steps: list[Step] = []
        for step in raw.steps:
            match step.action:
                case CreateContainer(container=want):
                    steps.append(replace(step, after=step.after | self._rivals(want)))
                case RemoveContainer():
                    steps.append(replace(step, after=step.after | self._removal_order.get(name, frozenset())))
                case _ if step.verb == "start":
                    after, blocked = self._dependencies(name)
                    if blocked is not None:
                        self._settled[name] = replace(raw, steps=tuple(steps), blocked=blocked)
                        return self._settled[name]
                    steps.append(replace(step, after=step.after | after))
                case _:
                    steps.append(step)
        self._settled[name] = replace(raw, steps=tuple(steps))
        return self._settled[name]

    # -- depends_on

    def _dependencies(self, name: str) -> tuple[frozenset[str], Blocked | None]:
        source = self._owners[name]
        want = self._world.desired[source].containers[name]
        after: set[str] = set()
        for dependency in sorted(want.depends_on, key=lambda d: d.container):
            ids, why, code = self._dependency(source, dependency)
            if not ids and not why and (why := self._has_no_process(want, dependency.container)):
                code = "waits"
            if why and not dependency.required and self._fails(source, dependency):
                continue
            if why:
                text = f"waits for container {dependency.container}{why}"
                return frozenset(), Blocked(Subject("container", name), text, None, code, source)
            after |= ids
        return frozenset(after), None

    def _has_no_process(self, want: DesiredContainer, owner: str) -> str:
        """Why the container whose namespace `want` is to be in cannot give it, though it was started."""
        have = self._world.observed.containers.get(owner)
        shared = f"container:{owner}" in (want.pid_mode, want.ipc_mode, want.uts_mode)
        if have is None or not shared or have.phase in (Phase.RUNNING, Phase.PAUSED):
            return ""
        return f", whose namespace it has, to run: it is {have.phase}"

    def _fails(self, source: str, dependency: Dependency) -> bool:
        """Whether an optional dependency that is not what it is to be is not on its way there, either."""
        name = dependency.container
        decision = self._one(name) if self._owners.get(name) == source else None
        have = self._world.observed.containers.get(name)
        if decision is None:
            return True
        if decision.blocked is not None:
            return decision.blocked.code != "waits"
        if have is None or dependency.condition == "started":
            return True  # no step of it is planned or under way
        probed = have.health in (Health.STARTING, Health.HEALTHY)
        down = have.phase in (Phase.EXITED, Phase.STOPPED, Phase.BACKOFF)
        return down or (dependency.condition == "healthy" and have.phase is Phase.RUNNING and not probed)

    def _dependency(self, source: str, dependency: Dependency) -> tuple[set[str], str, str]:
        """(steps to wait for, why not to wait for steps but to be blocked, its code)"""
        name, subject = dependency.container, Subject("container", dependency.container)
        decision = self._one(name) if self._owners.get(name) == source else None
        running = self._world.in_flight.get(subject)
        if decision is None:
            return set(), ", which is not there", "waits"
        replaced = any(step.verb in _RUNS for step in decision.steps)
        have = self._world.observed.containers.get(name)
        if replaced:
            if decision.blocked is not None:
                return set(), f", which is blocked: {decision.blocked.reason}", "waits"
            return {decision.steps[-1].id}, "", ""
        if running is not None and running.verb in _RUNS:
            return {running.id}, "", ""
        if have is None or (decision.blocked is not None and not met(dependency, have)):
            reason = decision.blocked.reason if decision.blocked else "it does not exist"
            return set(), f", which is blocked: {reason}", "waits"
        if met(dependency, have):
            return set(), "", ""
        why, code = _unmet(dependency, have)
        return set(), f" to be {dependency.condition}: {why}", code

    # -- ports and addresses that others give up

    def _given_up(self) -> tuple[dict[tuple[str, int], list[tuple[str, PortBinding]]], dict[str, list[str]]]:
        """Ports and addresses of the containers that are removed or adjusted in this plan."""
        ports: dict[tuple[str, int], list[tuple[str, PortBinding]]] = {}
        addresses: dict[str, list[str]] = {}
        for name, decision in sorted(self._raw.items()):
            have = self._world.observed.containers.get(name)
            if have is None or not any(step.verb in ("remove", "adjust") for step in decision.steps):
                continue
            for port in have.ports:
                ports.setdefault((port.protocol, port.host_port), []).append((name, port))
            for _, address in have.networks:
                addresses.setdefault(address, []).append(name)
        return ports, addresses

    def _rivals(self, want: DesiredContainer) -> frozenset[str]:
        names: set[str] = set()
        for port in want.ports:
            for name, other in self._ports.get((port.protocol, port.host_port), ()):
                if port.is_fixed and addresses_meet(port.host_ip, other.host_ip):
                    names.add(name)
        for attachment in want.networks:
            for address in (attachment.ipv4_address, attachment.ipv6_address):
                names.update(self._addresses.get(address, ()))
        names.discard(want.name)
        return frozenset(
            step.id for name in names for step in self._raw[name].steps if step.verb in ("remove", "adjust")
        )

    # -- removal

    def _order_of_removals(self) -> dict[str, frozenset[str]]:
        """Removed container -> ids of the removals of its dependents, among those no longer declared.

        The known dependencies may be of different revisions; an edge that would close a circle is left out.
        """
        leaving = {
            name for name in self._removed if name not in self._world.desired[self._owners[name]].containers
        }
        edges: dict[str, set[str]] = {name: set() for name in leaving}
        for dependent in sorted(leaving):
            for name in sorted(self._world.memory.depends.get(dependent, ())):
                if name in leaving and not _reaches(edges, dependent, name):
                    edges[name].add(dependent)
        return {
            name: frozenset(self._removed[dependent].id for dependent in dependents)
            for name, dependents in edges.items()
        }


def _reaches(edges: Mapping[str, set[str]], start: str, goal: str) -> bool:
    """Whether `goal` must come before `start` already."""
    seen, todo = set(), [start]
    while todo:
        node = todo.pop()
        if node == goal:
            return True
        if node not in seen:
            seen.add(node)
            todo += edges[node]
    return False


def met(dependency: Dependency, have: ObservedContainer) -> bool:
    """Whether it is what its dependents wait for."""
    match dependency.condition:
        case "healthy":
            return have.phase is Phase.RUNNING and have.health is Health.HEALTHY
        case "completed":
            return have.completed
        case _:
            return have.phase in _STARTED


def _unmet(dependency: Dependency, have: ObservedContainer) -> tuple[str, str]:
    if dependency.condition == "completed" and have.phase is Phase.EXITED:
        stopped = have.error == PROBE_STOPPED
        how = f"was {PROBE_STOPPED}" if stopped else f"exited with code {have.exit_code}"
        return f"it {how}", "dependency-failed"
    if dependency.condition == "healthy" and have.phase is Phase.RUNNING:
        if have.health is Health.NONE:
            return "it has no health check", "dependency-failed"
        return (
            f"it is {have.health}" if have.health is Health.UNHEALTHY else "its health is not known yet",
            "waits",
        )
    return f"it is {have.phase}", "waits"
