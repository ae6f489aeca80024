"""A rollout keeps its promise under any interleaving of steps, failures, bad versions and deaths of the
agent, and ends with the newest version that is good."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.perform import perform
from agent.planner import backoff, versions
from agent.planner.model import Limits, Memory, Plan, Step, Subject, World
from agent.planner.plan import plan
from agent.planner.versions import is_ready
from runtime.faults import Fault
from runtime.observations import Health
from specs.desired import Desired, Probe, Update
from tests.builders import container, desired
from tests.fake_runtime import Crash, FakeRuntime

LIMITS = Limits()
MACHINE = ("kernel-error", "disk-full", "shim-unreachable")  # faults that are no version's own


class Service:
    """`replicas` of one container, whose versions are good or bad by their color: bad ones are ill, or cannot
    be started. The random generator decides what happens next."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.runtime = FakeRuntime(available={"docker.io/library/busybox:latest": "sha256:busybox"})
        self.replicas, self.parallelism = self.rng.randint(1, 5), self.rng.randint(0, 3)
        self.order = self.rng.choice(["stop-first", "start-first"])
        self.monitor, self.delay = self.rng.choice([0.0, 2.0]), self.rng.choice([0.0, 0.0, 3.0])
        self.now, self.color, self.bad = 0.0, 0, set[int]()
        self.memory, self.flying = Memory(), dict[Subject, Step]()
        self.promised = 0
        self.unlucky = True

    def wanted(self) -> Desired:
        said = Update(self.order, self.parallelism, self.delay, self.monitor)
        probe = Probe(tcp=":80", interval=1.0, timeout=1.0)
        names = [f"s/web-{number + 1}" for number in range(self.replicas)]
        more = {"probe": probe, "update": said, "way_back": said, "service": "s/web"}
        return desired("s", *(container(name, env={"COLOR": str(self.color)}, **more) for name in names))

    def commit(self, *, good: bool) -> None:
        self.color += 1
        if not good:
            self.bad.add(self.color)
        self.memory = backoff.new_revision(self.memory, "s", {})

    def plan(self) -> Plan:
        world = World(
            {"s": self.wanted()},
            self.runtime.observe(),
            self.memory,
            dict(self.flying),
            self.now,
            LIMITS,
            clock=self.now,
            revisions={"s": str(self.color)},
        )
        self.memory = versions.look(world)
        return plan(replace(world, memory=self.memory))

    def finish(self, step: Step) -> None:
        name = step.subject.name
        try:
            if step.verb == "start" and self.color_of(name) in self.bad and self.rng.random() < 0.3:
                raise Fault("start-failed", "start container", name, "no such program")
            if self.unlucky and self.rng.random() < 0.05:
                raise Fault(self.rng.choice(MACHINE), step.verb, name, "bad luck")
            found = perform(self.runtime, step)
        except Fault as fault:
            self.memory = backoff.failed(self.memory, step, fault.code, str(fault), self.now, LIMITS)
        except Crash:
            self.die()
            return
        else:
            self.memory = backoff.succeeded(self.memory, step, self.now, LIMITS, found)
        self.flying.pop(step.subject, None)

    def die(self) -> None:
        """The agent: what it had in memory alone is gone, and so are its steps."""
        self.flying.clear()
        self.memory = Memory(versions=self.memory.versions)

    def color_of(self, name: str) -> int:
        have = self.runtime._containers.get(name)
        return int(have.request.environment["COLOR"]) if have is not None else 0

    def heal(self, *, all: bool = False) -> None:
        """Probes are done."""
        for name, have in self.runtime.observe().containers.items():
            if have.health is Health.STARTING and (all or self.rng.random() < 0.5):
                ill = self.color_of(name) in self.bad
                self.runtime.set_health(name, Health.UNHEALTHY if ill else Health.HEALTHY)

    def ready(self) -> int:
        return sum(map(is_ready, self.runtime.observe().containers.values()))

    def check(self) -> None:
        """The promise holds from when the first version stands."""
        if not self.promised:
            if any(version.standing for version in self.memory.versions.get("s/web", ())):
                least = 0 if not self.parallelism else self.replicas - self.parallelism
                self.promised = max(0, self.replicas if self.order == "start-first" else least) or -1
            return
        assert self.ready() >= self.promised, (self.order, self.parallelism, self.runtime.calls[-12:])

    def step(self) -> None:
        match self.rng.randrange(12):
            case 0 | 1 | 2 | 3:
                for step in self.plan().ready:
                    if self.rng.random() < 0.7:
                        self.flying[step.subject] = step
            case 4 | 5 | 6 | 7:
                if self.flying:
                    self.finish(self.rng.choice(sorted(self.flying.values(), key=lambda step: step.id)))
            case 8:
                self.heal()
            case 9:
                self.heal(all=True)  # probes never take as long as they may
                self.now += self.rng.choice([0.5, 1.0, 3.0])
            case 10 if self.promised and self.rng.random() < 0.3:
                self.commit(good=self.rng.random() < 0.6)
            case 11 if self.rng.random() < 0.2:
                if self.flying and self.rng.random() < 0.5:
                    when = self.rng.choice(["before", "after"])
                    self.runtime.crash = lambda _, at: at == when
                    self.finish(self.rng.choice(sorted(self.flying.values(), key=lambda step: step.id)))
                    self.runtime.crash = None
                else:
                    self.die()
            case _:
                pass

    def settle(self) -> Plan:
        self.unlucky = False
        for _ in range(400):
            decided = self.plan()
            for step in decided.ready:
                self.flying[step.subject] = step
            for step in list(self.flying.values()):
                self.finish(step)
                self.check()
            self.heal(all=True)
            self.check()
            self.now += 1.0 if decided.ready else 30.0
            if not decided.steps and not self.flying and not _busy(decided) and not self.plan().steps:
                return decided
        raise AssertionError(f"no end: {decided}")


def _busy(decided: Plan) -> bool:
    return any(item.code in ("rolling", "waits") for item in decided.blocked)


@given(st.integers(0, 2**32))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_promise_holds_and_the_newest_good_version_is_in_force_at_the_end(seed: int) -> None:
    service = Service(seed)
    service.settle()
    assert service.ready() == service.replicas
    service.check()
    for _ in range(150):
        service.step()
        service.check()
    decided = service.settle()
    assert str(service.plan()) == str(decided), "planning twice is not the same"
    colors = {service.color_of(name) for name in service.runtime.observe().containers}
    assert len(service.runtime.observe().containers) == service.replicas
    assert len(colors) == 1
    (color,) = colors
    assert color not in service.bad
    if service.color in service.bad:
        assert [item.code for item in decided.blocked] == ["rolled-back"]
    else:
        assert color == service.color
        assert not decided.blocked
