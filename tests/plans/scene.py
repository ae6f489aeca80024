"""Values: what is wanted and what exists, for a golden plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from agent.perform import perform
from agent.planner import backoff, versions
from agent.planner.model import Collecting, Limits, Memory, Plan, Step, Subject, World
from agent.planner.plan import plan
from agent.planner.runs import Job
from agent.planner.updates import Orders
from agent.sight import Sight
from runtime.faults import Fault
from specs.desired import Desired
from tests.builders import container, desired, network, volume
from tests.fake_runtime import FakeRuntime

LIMITS = Limits()


@dataclass
class Scene:
    """A machine, and what happened on it."""

    runtime: FakeRuntime = field(default_factory=FakeRuntime)
    wanted: dict[str, Desired] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)
    flying: dict[Subject, Step] = field(default_factory=dict)
    now: float = 0.0
    drop_volumes: frozenset[str] = frozenset()
    collecting: Collecting | None = None
    clock: float = 1.0  # since the epoch when `now` was 0
    by_hand: bool = False
    revisions: dict[str, str] = field(default_factory=dict)
    orders: Orders = field(default_factory=Orders)

    def __post_init__(self) -> None:
        for name in ("busybox", "nginx", "postgres"):
            self.runtime.available[f"docker.io/library/{name}:latest"] = f"sha256:{name}"

    def want(self, want: Desired) -> Scene:
        self.wanted[want.source] = want
        depends = {n: frozenset(d.container for d in c.depends_on) for n, c in want.containers.items()}
        self.memory = backoff.new_revision(self.memory, want.source, depends)
        return self

    def plan(self) -> Plan:
        world = self.world()
        self.memory = versions.look(world)
        return plan(replace(world, memory=self.memory))

    def world(self) -> World:
        return World(
            self.wanted,
            self.runtime.observe(),
            self.memory,
            self.flying,
            self.now,
            LIMITS,
            self.drop_volumes,
            inputs=Sight(self.runtime).inputs(self.wanted.values(), self.now, self.memory.built),
            collecting=self.collecting,
            clock=self.clock + self.now,
            by_hand=self.by_hand,
            revisions=self.revisions,
            orders=self.orders,
        )

    def converge(self) -> Scene:
        while ready := self.plan().ready:
            self.do(ready[0].id)
        return self

    def do(self, id: str, fault: str = "") -> Scene:
        step = next(step for step in self.plan().ready if step.id == id)
        if fault:
            error = Fault(fault, *id.split(" ", 1), "it did not work")
            self.memory = backoff.failed(self.memory, step, error.code, str(error), self.now, LIMITS)
        else:
            found = perform(self.runtime, step)
            self.memory = backoff.succeeded(self.memory, step, self.now, LIMITS, found)
        return self

    def remember(self, jobs: Mapping[str, Job]) -> Scene:
        self.memory = replace(self.memory, jobs=jobs)
        return self

    def measured(self) -> Scene:
        """Every image that is to be pulled was asked about."""
        for step in self.plan().ready:
            if step.verb == "measure":
                self.do(step.id)
        return self

    def start(self, id: str) -> Scene:
        step = next(step for step in self.plan().ready if step.id == id)
        self.flying[step.subject] = step
        return self


def shop(color: str = "blue", **db: str) -> Desired:
    return desired(
        "shop",
        network("shop/back"),
        volume("shop/data"),
        container(
            "shop/db",
            image="postgres",
            networks=["shop/back"],
            volumes={"shop/data": "/data"},
            line=3,
            env=db,
        ),
        container(
            "shop/web",
            image="nginx",
            env={"COLOR": color, "DB_PASSWORD": color},
            networks=["shop/back"],
            ports=["8080:80"],
            after={"shop/db": "started"},
            line=9,
        ),
    )
