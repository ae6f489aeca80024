"""Values: golden scenes of jobs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from agent.planner import jobs
from runtime.observations import Phase
from specs.desired import Dependency, DesiredContainer, DesiredJob
from specs.schedule import Schedule
from tests.builders import container, desired, volume
from tests.plans.scene import Scene

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC).timestamp()


def job(env: str = "", **plan: Any) -> DesiredContainer:
    made = DesiredJob(Schedule.parse("30 13 * * *"), **plan)
    return container("s/job", env={"V": env}, volumes={"s/data": "/data"}, job=made, line=4)


def look(scene: Scene, clock: float, *asked: float) -> Scene:
    """What an agent notes at that time."""
    scene.clock = scene.runtime.clock = clock
    waiting = {"s/job": asked} if asked else {}
    seen, known = scene.runtime.observe(), scene.memory.jobs
    noted = jobs.note(scene.wanted, seen, known, scene.flying, clock, UTC, waiting)
    return scene.remember(noted.jobs)


def made(**plan: Any) -> Scene:
    """Declared at noon, and made."""
    scene = Scene(clock=NOON)
    scene.runtime.clock = NOON
    scene.want(desired("s", volume("s/data"), job(**plan)))
    return look(scene.converge(), NOON)


def running(**plan: Any) -> Scene:
    scene = look(made(**plan), NOON + 5400)
    return look(scene.do("start container s/job"), NOON + 5401)


def job_that_is_declared() -> Scene:
    return Scene(clock=NOON).want(desired("s", volume("s/data"), job()))


def job_that_a_person_acts_on_when_its_spec_changed() -> Scene:
    """Its run was not noted yet: the container goes when that is known."""
    scene = running().want(desired("s", volume("s/data"), job("new")))
    scene.runtime.exit("s/job", 0)
    scene.runtime.busy = {"s/job"}
    return look(scene, NOON + 5402)


def job_that_is_not_due() -> Scene:
    return look(made(), NOON + 5000)


def job_that_is_due() -> Scene:
    return look(made(), NOON + 5400)


def job_that_was_missed() -> Scene:
    return look(made(), NOON + 86_400)


def job_that_is_asked_for() -> Scene:
    return look(made(), NOON + 5000, NOON + 4999)


def job_that_is_due_while_its_volume_is_backed_up() -> Scene:
    scene = look(made(), NOON + 5400)
    scene.runtime.held["s/data"] = "being backed up by process 12"
    return scene


def job_that_is_tried_again() -> Scene:
    scene = running(retries=2)
    scene.runtime.exit("s/job", 1)
    return look(look(scene, NOON + 5402), NOON + 5420)


def job_that_takes_too_long() -> Scene:
    return look(running(deadline=60.0), NOON + 5500)


def job_that_gives_way_to_its_next_run() -> Scene:
    return look(running(concurrency_policy="replace"), NOON + 86_400 + 5400)


def job_that_runs_when_its_spec_changes() -> Scene:
    return running().want(desired("s", volume("s/data"), job("2")))


def service_that_becomes_a_job() -> Scene:
    """Its program need not come to an end: it is replaced at once, and the job is not due."""
    service = container("s/job", env={"V": ""}, volumes={"s/data": "/data"}, line=4)
    scene = Scene(clock=NOON).want(desired("s", volume("s/data"), service)).converge()
    return look(scene.want(desired("s", volume("s/data"), job())), NOON + 5401)


def service_that_became_a_job() -> Scene:
    scene = service_that_becomes_a_job()
    scene.converge()
    return look(scene, NOON + 5402)


def job_that_has_ended_when_its_spec_changed() -> Scene:
    scene = job_that_runs_when_its_spec_changes()
    scene.runtime.exit("s/job", 0)
    return look(scene, NOON + 5500)


def job_that_runs_while_its_dependency_is_restarted() -> Scene:
    """A run comes to its own end, whatever it follows otherwise."""
    scene = Scene(clock=NOON)
    scene.runtime.clock = NOON
    follows = replace(job(), depends_on=(Dependency("s/db", restart=True),))
    scene.want(desired("s", volume("s/data"), container("s/db"), follows)).converge()
    look(look(scene, NOON), NOON + 5400).do("start container s/job")
    scene.runtime.restart("s/db")
    return look(scene, NOON + 5500)


def job_that_was_lost() -> Scene:
    """It does not run again by itself: only its next time, or a retry, starts it."""
    scene = running()
    scene.runtime.set_phase("s/job", Phase.LOST)
    return look(scene, NOON + 5500)


SCENES = [
    job_that_is_declared,
    job_that_a_person_acts_on_when_its_spec_changed,
    job_that_is_not_due,
    job_that_is_due,
    job_that_was_missed,
    job_that_is_asked_for,
    job_that_is_due_while_its_volume_is_backed_up,
    job_that_is_tried_again,
    job_that_takes_too_long,
    job_that_gives_way_to_its_next_run,
    job_that_runs_when_its_spec_changes,
    service_that_becomes_a_job,
    service_that_became_a_job,
    job_that_has_ended_when_its_spec_changed,
    job_that_runs_while_its_dependency_is_restarted,
    job_that_was_lost,
]
