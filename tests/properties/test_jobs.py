"""Whatever the clock, the runs and the agent do: no time is served twice, and no run meets another."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.planner import jobs
from agent.planner.model import Memory, RunJob, StopContainer, World
from agent.planner.runs import Ended, Job
from runtime.observations import Observed, ObservedContainer, Phase
from specs.desired import DesiredJob
from specs.schedule import Schedule
from tests.builders import container, desired

BEGIN = datetime(2026, 3, 28, 12, tzinfo=UTC).timestamp()  # the night before clocks change in Berlin
CRONS = ("* * * * *", "*/7 * * * *", "0 * * * *", "30 2 * * *", "@every 10m", "@every 90s")
PLANS = st.builds(
    DesiredJob,
    schedule=st.sampled_from(CRONS).map(Schedule.parse),
    concurrency_policy=st.sampled_from(["skip", "queue", "replace"]),
    deadline=st.sampled_from([0.0, 120.0]),
    retries=st.integers(0, 2),
    retry_delay=st.sampled_from([5.0, 100.0]),
    catch_up=st.sampled_from(["once", "skip"]),
)
EVENTS = st.one_of(
    st.tuples(st.just("pass"), st.sampled_from([1.0, 30.0, 60.0, 600.0, 3600.0])),
    st.tuples(st.just("sleep"), st.sampled_from([100.0, 7200.0, 200_000.0])),  # no agent looks meanwhile
    st.tuples(st.just("end"), st.sampled_from([0, 0, 1])),
    st.tuples(st.just("reboot"), st.just(0)),
    st.tuples(st.just("crash"), st.sampled_from(["before", "after"])),  # the agent, at its next start
    st.tuples(st.just("back"), st.sampled_from([1.0, 50.0, 1700.0, 10_000.0, 100_000.0])),
    st.tuples(st.just("forward"), st.sampled_from([50.0, 100_000.0])),
    st.tuples(st.just("ask"), st.just(0)),
)


class Machine:
    """One job, its container, a clock that people set, and an agent that may be killed around a start."""

    def __init__(self, plan: DesiredJob) -> None:
        self.plan, self.clock = plan, BEGIN
        self.wanted = {"s": desired("s", container("s/job", job=plan))}
        self.have = ObservedContainer(
            "1", "s/job", "s", "", "", "", "busybox", "sha256:1", Phase.CREATED, created_at=BEGIN
        )
        self.jobs: dict[str, Job] = {}
        self.told: list[Ended] = []
        self.starts: list[tuple[str, float, int]] = []  # trigger, time, attempt
        self.crash = ""
        self.ticks, self.unseen = 0.0, 0
        self.asked: list[float] = []

    def look(self) -> None:
        observed = Observed(containers={"s/job": self.have})
        zone = ZoneInfo("Europe/Berlin")
        noted = jobs.note(self.wanted, observed, self.jobs, (), self.clock, zone, {"s/job": self.asked})
        self.jobs, self.asked = dict(noted.jobs), []
        self.told += noted.ended
        want = self.wanted["s"].containers["s/job"]
        world = World(self.wanted, observed, Memory(jobs=self.jobs), clock=self.clock, zone=zone)
        for step in jobs.steps(world, "s", want, self.have):
            if isinstance(step.action, StopContainer):
                self.have = replace(self.have, phase=Phase.STOPPED, exit_code=143, finished_at=self.clock)
                continue
            assert isinstance(step.action, RunJob)
            crash, self.crash = self.crash, ""
            if crash == "before":
                return
            assert self.have.phase not in jobs.BUSY, "two runs at once"
            due = step.action.due
            self.starts.append((due.trigger, due.at, due.attempt))
            self.ticks += 1e-3  # no two starts at one time of the clock
            began = self.clock + self.ticks
            self.have = replace(self.have, phase=Phase.RUNNING, started_at=began)
            if crash != "after":
                self.jobs = dict(jobs.begun(self.jobs, "s/job", due))

    def happen(self, event: tuple[str, float]) -> bool:
        """Returns whether the clock was set back."""
        what, value = event
        match what:
            case "pass":
                for _ in range(10):
                    self.clock += value / 10
                    self.look()
            case "sleep" | "forward":
                self.clock += value
            case "back":
                self.clock -= value
            case "end" if self.have.phase is Phase.RUNNING:
                code = int(value)
                self.have = replace(self.have, phase=Phase.EXITED, exit_code=code, finished_at=self.clock)
            case "reboot" if self.have.phase is Phase.RUNNING:
                self.unseen += self.jobs["s/job"].run is None  # nobody will ever know that it ran
                self.have = replace(self.have, phase=Phase.LOST, started_at=0.0)
            case "crash":
                self.crash = str(value)
            case "ask":
                self.asked.append(self.clock)
            case _:
                pass
        self.look()
        return what == "back"


@settings(max_examples=100, deadline=None)
@given(PLANS, st.lists(EVENTS, max_size=40))
def test_no_time_is_served_twice_unless_the_clock_was_set_back(
    plan: DesiredJob, events: list[tuple[str, float]]
) -> None:
    machine = Machine(plan)
    machine.look()
    back = False
    for event in events:
        back = machine.happen(event) or back
    served = [start for start in machine.starts if start[0] != "hand"]
    if not back and not machine.unseen:
        assert len(set(served)) == len(served)
        times = [at for _, at, attempt in served if attempt == 1]
        assert times == sorted(times)
    assert all(attempt <= plan.retries + 1 for _, _, attempt in machine.starts)


@settings(max_examples=80, deadline=None)
@given(PLANS, st.lists(EVENTS, max_size=30))
def test_whatever_happened_a_job_comes_to_its_next_run(
    plan: DesiredJob, events: list[tuple[str, float]]
) -> None:
    """And each start has its line in the history, when all is quiet."""
    machine = Machine(plan)
    machine.look()
    for event in events:
        machine.happen(event)
    machine.crash = ""
    before = len(machine.starts)
    for _ in range(10):  # every run ends well
        machine.clock = max(machine.clock, machine.jobs["s/job"].next_at or 0.0)
        machine.look()
        machine.happen(("end", 0))
    assert len(machine.starts) > before
    ran = [line for line in machine.told if line.began]
    assert len(machine.starts) - len(ran) - machine.unseen in (0, 1)


@settings(max_examples=80, deadline=None)
@given(PLANS, st.lists(EVENTS, max_size=30))
def test_to_look_again_at_once_changes_nothing(plan: DesiredJob, events: list[tuple[str, float]]) -> None:
    machine = Machine(plan)
    for event in events:
        machine.happen(event)
    for _ in range(4):  # a stop, a start, and what there is to be said of both
        machine.look()
    known, told, starts = machine.jobs, list(machine.told), list(machine.starts)
    machine.look()
    assert (machine.jobs, machine.told, machine.starts) == (known, told, starts)
