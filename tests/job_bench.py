"""One job on a bench: its container and the clock are moved by a test, and it is looked at."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from agent.planner import jobs
from agent.planner.model import Memory, RunJob, World
from agent.planner.runs import Ended, Job
from runtime.observations import Observed, ObservedContainer, Phase
from specs.desired import Desired, DesiredContainer, DesiredJob
from specs.schedule import Schedule
from tests.builders import container, desired

HOUR = 3600.0
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC).timestamp()


class Bench:
    """One job whose container a test moves about."""

    def __init__(self, cron: str = "0 * * * *", **more: object) -> None:
        self.plan = DesiredJob(Schedule.parse(cron), **more)  # type: ignore[arg-type]
        self.clock, self.zone = NOON + 60, UTC
        self.have = ObservedContainer(
            "1", "s/job", "s", "", "", "", "busybox", "sha256:1", Phase.CREATED, created_at=NOON
        )
        self.known: dict[str, Job] = {}
        self.told: list[Ended] = []

    @property
    def want(self) -> DesiredContainer:
        return container("s/job", job=self.plan)

    @property
    def wanted(self) -> dict[str, Desired]:
        return {"s": desired("s", self.want)}

    @property
    def job(self) -> Job:
        return self.known["s/job"]

    def look(self, at: float | None = None, *asked: float, uptime: float = 0.0) -> list[str]:
        """At `at`; the results that were noted."""
        self.clock = self.clock if at is None else at
        observed = Observed(containers={"s/job": self.have})
        waiting = {"s/job": asked} if asked else {}
        noted = jobs.note(self.wanted, observed, self.known, (), self.clock, self.zone, waiting, uptime)
        self.known = dict(noted.jobs)
        self.told += noted.ended
        return [line.result for line in noted.ended]

    def next(self) -> str:
        """What is to be done now."""
        world = World(self.wanted, Observed(), Memory(jobs=self.known), clock=self.clock, zone=self.zone)
        found = jobs.steps(world, "s", self.want, self.have)
        return str(found[0]) if found else ""

    def start(self) -> None:
        world = World(self.wanted, Observed(), Memory(jobs=self.known), clock=self.clock, zone=self.zone)
        (step,) = jobs.steps(world, "s", self.want, self.have)
        assert isinstance(step.action, RunJob)
        self.known = dict(jobs.begun(self.known, "s/job", step.action.due))
        self.runs()

    def runs(self) -> None:
        self.have = replace(self.have, phase=Phase.RUNNING, started_at=self.clock)

    def ends(self, code: int = 0, phase: Phase = Phase.EXITED, at: float | None = None) -> None:
        ended = self.clock if at is None else at
        self.have = replace(self.have, phase=phase, exit_code=code, finished_at=ended)
