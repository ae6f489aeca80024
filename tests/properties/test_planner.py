"""The planner converges under any interleaving, failure or crash, and then has nothing more to do."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.perform import perform
from agent.planner import backoff, versions
from agent.planner.model import Collecting, Limits, Memory, Plan, Step, Subject, World
from agent.planner.plan import plan
from agent.sight import Sight
from runtime.faults import Fault
from runtime.images.garbage import Limits as CollectLimits
from runtime.observations import Defect, Health, Phase
from specs.desired import Dependency, Desired
from tests.builders import built, container, desired, image, network, volume
from tests.fake_runtime import Crash, FakeRuntime

LIMITS = Limits()
COLLECTING = Collecting(1e9, CollectLimits())
NGINX = "docker.io/library/nginx:latest"
CODES = ("registry-unreachable", "port-taken", "kernel-error", "start-failed", "disk-full")


def random_desired(source: str, rng: random.Random) -> Desired:
    """Up to four containers with dependencies among earlier ones, two networks, two volumes."""
    nets = [
        network(f"{source}/{n}", subnet=rng.choice(["", "10.9.0.0/24"])) for n in "xy" if rng.random() < 0.6
    ]
    vols = [volume(f"{source}/{v}") for v in "vw" if rng.random() < 0.5]
    containers = []
    ports = rng.sample(range(4), 4)  # no two containers want one port, but ports move between them
    base = 8010 if source == "one" else 8020
    for index, letter in enumerate("abcd"):
        if rng.random() < 0.3:
            continue
        earlier = [c.name for c in containers[:index] if c.desired == "running"]
        name = f"{source}/{letter}" if rng.random() < 0.9 else f"both/{letter}"
        order = rng.choice(["stop-first", "start-first"])
        containers.append(
            container(
                name,
                image=rng.choice(["busybox", "nginx", f"localhost/{source}/app"]),
                env={"V": rng.choice("12")},
                networks=[n.name for n in nets if rng.random() < 0.5],
                volumes={v.name: "/data" for v in vols[:1] if rng.random() < 0.5},
                ports=[f"{base + ports[index]}:80"] if rng.random() < 0.4 else [],
                memory=rng.choice([0, 64]),
                depends_on=tuple(
                    Dependency(d, "started", rng.random() < 0.8, rng.random() < 0.5)
                    for d in earlier
                    if rng.random() < 0.4
                ),
                desired=rng.choice(["running", "running", "running", "stopped"]),
                update_order=order,
            )
        )
    pulls = image(
        "nginx",
        pull=rng.choice(["missing", "always"]),
        interval=rng.choice([0.0, 30.0, 3600.0]),
        digest=rng.choice(["", "", "", "sha256:older"]),
    )
    app = built(f"localhost/{source}/app", target=rng.choice(["a", "b"]))
    return desired(source, *nets, *vols, *containers, pulls, app)


class Simulation:
    """An executor without threads: the random generator decides what starts, ends, fails and crashes."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.runtime = FakeRuntime(available={})
        for reference in ("docker.io/library/busybox:latest", "docker.io/library/nginx:latest"):
            self.runtime.available[reference] = "sha256:" + reference[-12:]
        self.runtime.older.add("sha256:older")
        self.runtime.recipes = {f"localhost/{source}/app:latest": "one" for source in ("one", "two")}
        self.now = 0.0
        self.memory = Memory()
        self.flying: dict[Subject, Step] = {}
        self.desired: dict[str, Desired] = {}
        self.commit("one")
        self.commit("two")

    def commit(self, source: str) -> None:
        self.desired[source] = random_desired(source, self.rng)
        depends = {
            name: frozenset(d.container for d in c.depends_on)
            for name, c in self.desired[source].containers.items()
        }
        self.memory = backoff.new_revision(self.memory, source, depends)

    def plan(self) -> Plan:
        world = World(
            self.desired,
            self.runtime.observe(),
            self.memory,
            dict(self.flying),
            self.now,
            LIMITS,
            inputs=Sight(self.runtime).inputs(self.desired.values(), self.now, self.memory.built),
            collecting=COLLECTING,
            clock=self.now,
        )
        self.memory = versions.look(world)
        result = plan(replace(world, memory=self.memory))
        subjects = [step.subject for step in result.ready]
        assert len(subjects) == len(set(subjects)), "two ready steps for one subject"
        assert not set(subjects) & set(self.flying), "a second step for a subject in flight"
        return result

    def start(self, step: Step) -> None:
        self.flying[step.subject] = step

    def finish(self, step: Step) -> None:
        try:
            found = perform(self.runtime, step)
        except Fault as fault:
            self.memory = backoff.failed(self.memory, step, fault.code, str(fault), self.now, LIMITS)
        except Crash:
            self.flying.clear()
            self.memory = Memory(collected=self.memory.collected)
            return
        else:
            self.memory = backoff.succeeded(self.memory, step, self.now, LIMITS, found)
        self.flying.pop(step.subject, None)

    def disturb(self) -> None:
        containers = sorted(self.runtime.observe().containers)
        networks = sorted(self.runtime.observe().networks)
        running = [name for name in containers if self.runtime.runs(name)]
        match self.rng.randrange(15):
            case 0 if containers:
                self.runtime.lose(self.rng.choice(containers))
            case 1 if containers:
                self.runtime.set_phase(self.rng.choice(containers), Phase.STOPPED)
            case 2 if containers:
                kind = self.rng.random() < 0.5
                self.runtime.damage(self.rng.choice(containers), Defect("limits", "is wrong", restart=kind))
            case 3 if networks:
                self.runtime.damage(self.rng.choice(networks), Defect("bridge", "is gone"))
            case 4:
                self.runtime.damage("firewall", Defect("firewall", "table is gone"))
            case 5:
                self.runtime.leave("cgroup of nobody")
            case 6:
                self.runtime.reboot()
            case 7:
                self.runtime.available[NGINX] = f"sha256:nginx{self.rng.randrange(3)}"
            case 8:
                self.runtime.recipes[f"localhost/{self.rng.choice(['one', 'two'])}/app:latest"] = (
                    self.rng.choice(["one", "two", "three"])
                )
            case 9:
                self.runtime.offline = not self.runtime.offline
            case 10 if NGINX in self.runtime.observe().images:
                self.runtime.rot("nginx")
            case 11 if NGINX in self.runtime.observe().images:
                self.runtime.put_image("nginx", "sha256:by-hand")
            case 12 if running:
                self.runtime.restart(self.rng.choice(running))
            case 13:
                self.commit(self.rng.choice(["one", "two"]))
            case _:
                where = self.rng.choice(["before", "after"])
                armed = [True]

                def crash(call: str, when: str) -> bool:
                    hit = armed[0] and when == where
                    armed[0] = armed[0] and not hit
                    return hit

                self.runtime.crash = crash

    def turn(self) -> None:
        """One random thing happens."""
        result = self.plan()
        dice = self.rng.random()
        if dice < 0.45 and result.ready:
            self.start(self.rng.choice(result.ready))
        elif dice < 0.8 and self.flying:
            step = self.rng.choice(list(self.flying.values()))
            if self.rng.random() < 0.3:
                code = self.rng.choice(CODES)
                self.runtime.faults.setdefault(step.id, []).append(Fault(code, "do", step.id, "bad luck"))
            self.finish(step)
        elif dice < 0.9:
            self.now += self.rng.choice([0.0, 0.5, 5.0, 400.0])
        else:
            self.disturb()

    def settle(self) -> int:
        """Nothing goes wrong any more. Returns the number of steps until the plan is empty."""
        self.runtime.crash = None
        self.runtime.faults.clear()
        self.runtime.offline = False
        for step in list(self.flying.values()):
            self.finish(step)
        for count in range(500):
            result = self.plan()
            if result.ready:
                step = self.rng.choice(result.ready)
                self.start(step)
                self.finish(step)
            elif (until := _until(result)) is not None:
                assert until > self.now
                self.now = until
            else:
                assert not result.steps, "steps wait for each other"
                return count
        raise AssertionError(f"no fixpoint:\n{self.plan()}")

    def check(self) -> None:
        """What runs is what is wanted, for each source, up to names that the other one holds."""
        observed = self.runtime.observe()
        for source, want in self.desired.items():
            mine = {n: c for n, c in observed.containers.items() if c.source == source}
            assert set(mine) <= set(want.containers)
            for name, c in want.containers.items():
                if name not in mine:
                    assert observed.containers[name].source != source
                    continue
                assert mine[name].identity == c.identity and mine[name].adjustable == c.adjustable
                blocked = {b.subject.name for b in self.plan().blocked}
                if c.desired == "running" and name not in blocked:
                    assert mine[name].phase is Phase.RUNNING
                for one in c.depends_on:
                    other = mine.get(one.container)
                    if one.restart and other is not None and {name, one.container}.isdisjoint(blocked):
                        assert not 0 < mine[name].started_ticks < other.started_ticks, "it did not follow"
                if c.desired == "stopped":
                    assert mine[name].phase in (Phase.CREATED, Phase.STOPPED)
            networks = {n for n, c in observed.networks.items() if c.source == source}
            assert networks == set(want.networks)
        assert not observed.leftovers and not observed.firewall
        blocked = {b.subject.name for b in self.plan().blocked}
        for have in observed.containers.values():
            image = observed.images[have.image]
            assert have.name in blocked or have.image_id == image.id
            wanted = self.desired[have.source].images[have.image]
            if wanted.build is not None:
                assert image.id == f"sha256:{self.runtime.recipes[have.image]}"
            if have.name not in blocked:
                assert wanted.digest in ("", image.digest_of(have.image))
            assert not image.broken


def _until(result: Plan) -> float | None:
    return min((b.until for b in result.blocked if b.until is not None), default=None)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), turns=st.integers(0, 120))
def test_the_planner_converges_whatever_happens_on_the_way(seed: int, turns: int) -> None:
    simulation = Simulation(seed)
    for _ in range(turns):
        simulation.turn()
    simulation.settle()
    simulation.check()
    calls = len(simulation.runtime.calls)
    assert not simulation.plan().steps
    simulation.settle()
    assert len(simulation.runtime.calls) == calls, "planning twice did something"


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_converged_machine_stays_as_it_is_when_the_agent_forgets_everything(seed: int) -> None:
    simulation = Simulation(seed)
    simulation.settle()
    kept = simulation.memory  # what the journal gives back
    simulation.memory = Memory(
        pulled=kept.pulled, looks=kept.looks, built=kept.built, collected=kept.collected
    )
    assert not simulation.plan().steps


SCRIPT = """
import random, sys
sys.path.insert(0, {root!r})
from tests.properties.test_planner import Simulation
for seed in range(12):
    simulation = Simulation(seed)
    for _ in range(25):
        simulation.turn()
        print(simulation.plan())
"""


def test_the_text_of_a_plan_is_the_same_in_every_interpreter() -> None:
    root = str(Path(__file__).parents[2])
    texts = set()
    for seed in ("0", "1", "4711"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(root=root)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        )
        texts.add(done.stdout)
    assert len(texts) == 1
    assert len(texts.pop()) > 1000


@pytest.mark.parametrize("health", [Health.STARTING, Health.UNHEALTHY])
def test_a_dependent_does_not_start_before_its_dependency_is_healthy(health: Health) -> None:
    simulation = Simulation(0)
    simulation.desired = {"s": desired("s", container("s/db"), container("s/web", after={"s/db": "healthy"}))}
    for _ in range(10):
        for step in simulation.plan().ready:
            simulation.start(step)
            simulation.finish(step)
        if "s/db" in simulation.runtime.observe().containers:
            simulation.runtime.set_health("s/db", health)
    assert simulation.runtime.observe().containers["s/web"].phase is Phase.CREATED
    assert "to be healthy" in str(simulation.plan())
    simulation.runtime.set_health("s/db", Health.HEALTHY)
    assert [step.id for step in simulation.plan().ready] == ["start container s/web"]
