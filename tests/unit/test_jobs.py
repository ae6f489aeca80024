"""The table of jobs: what becomes of times that come, runs that end, and clocks that jump."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from agent.planner import jobs
from agent.planner.model import Memory, StopContainer, Subject, World
from agent.planner.runs import Due, Ended
from agent.planner.updates import Order, Orders
from runtime.observations import PROBE_STOPPED, Observed, Phase
from specs.desired import DesiredJob
from specs.schedule import Schedule
from tests.builders import desired
from tests.job_bench import HOUR, NOON, Bench


def test_a_new_job_waits_for_its_first_time() -> None:
    bench = Bench()
    assert bench.look() == [] and bench.next() == ""
    assert bench.job.next_at == NOON + HOUR
    bench.look(NOON + HOUR - 1)
    assert bench.next() == ""
    bench.look(NOON + HOUR)
    assert bench.next() == (
        "start container s/job: is due since 2026-03-10 13:00:00 (0 * * * *) (spec.toml:1)"
    )


def test_a_run_is_told_of_with_its_times_and_its_exit_code() -> None:
    bench = Bench()
    bench.look()
    bench.look(NOON + HOUR)
    bench.start()
    assert bench.look(NOON + HOUR + 5) == [] and bench.next() == ""
    bench.ends(3, at=NOON + HOUR + 9)
    assert bench.look(NOON + HOUR + 10) == ["failed"]
    assert bench.told == [
        Ended("s/job", "s", NOON + HOUR, "schedule", 1, NOON + HOUR, NOON + HOUR + 9, 3, "failed")
    ]
    assert bench.look() == [] and bench.next() == "", "it is told of once"
    assert bench.job.last_success == 0.0 and dict(bench.job.results) == {"failed": 1}


def test_a_run_that_ends_between_two_looks_is_not_lost() -> None:
    bench = Bench()
    bench.look()
    bench.look(NOON + HOUR)
    bench.start()
    bench.ends(0)
    assert bench.look(NOON + HOUR + 1) == ["ok"]
    assert bench.job.last_success == NOON + HOUR


@pytest.mark.parametrize(
    ("policy", "noted", "queue"),
    [("skip", ["skipped"], []), ("queue", [], [NOON + 2 * HOUR]), ("replace", [], [NOON + 2 * HOUR])],
)
def test_a_time_that_comes_while_a_run_runs(policy: str, noted: list[str], queue: list[float]) -> None:
    bench = Bench(concurrency_policy=policy)
    bench.look()
    bench.look(NOON + HOUR)
    bench.start()
    assert bench.look(NOON + 2 * HOUR) == noted
    assert [item.at for item in bench.job.queue] == queue
    if policy == "replace":
        assert "stop container s/job: the next run takes its place" in bench.next()
        bench.ends(143, Phase.STOPPED)
        assert bench.look(NOON + 2 * HOUR + 1) == ["replaced"]
    else:
        assert bench.next() == ""
        bench.ends(0)
        assert bench.look(NOON + 2 * HOUR + 1) == ["ok"]
    assert ("due since 2026-03-10 14:00:00" in bench.next()) == bool(queue)


def test_a_run_that_is_replaced_before_it_began_has_its_line() -> None:
    """Whoever waits for its end is told that there will be none."""
    bench = Bench(concurrency_policy="replace")
    bench.look()
    assert bench.look(NOON + 100, NOON + 98, NOON + 99) == ["skipped"]
    assert [(line.due, line.text) for line in bench.told] == [(NOON + 98, "the next run took its place")]
    assert [item.at for item in bench.job.queue] == [NOON + 99]
    assert bench.look(NOON + HOUR) == ["skipped"]
    assert [item.at for item in bench.job.queue] == [NOON + HOUR]


def test_a_run_that_is_replaced_while_it_is_begun_is_stopped_then() -> None:
    bench = Bench(concurrency_policy="replace")
    bench.look()
    bench.look(NOON + HOUR)
    (first,) = bench.job.queue
    observed, flying = Observed(containers={"s/job": bench.have}), {Subject("container", "s/job")}
    for hour in (2, 3):
        noted = jobs.note(bench.wanted, observed, bench.known, flying, NOON + hour * HOUR, UTC)
        bench.known = dict(noted.jobs)
    assert [line.due for line in noted.ended] == [NOON + 2 * HOUR], "the one that is begun is none of these"
    bench.known = dict(jobs.begun(bench.known, "s/job", first))
    bench.runs()
    assert bench.look(NOON + 3 * HOUR + 1) == []
    assert "the next run takes its place" in bench.next()


def test_what_replaces_a_run_does_not_wait_for_its_retry() -> None:
    bench = Bench(concurrency_policy="replace", retries=3, retry_delay=600.0)
    bench.look()
    bench.look(NOON + HOUR)
    bench.start()
    bench.look(NOON + 2 * HOUR)
    bench.ends(1)
    assert bench.look() == ["failed"]
    assert "is due since 2026-03-10 14:00:00" in bench.next()


def test_no_more_than_so_many_runs_wait() -> None:
    bench = Bench("* * * * *", concurrency_policy="queue")
    bench.look(NOON + 60)
    bench.start()
    noted = [result for minute in range(2, 20) for result in bench.look(NOON + 60 * minute)]
    assert len(bench.job.queue) == jobs.QUEUED
    assert noted == ["skipped"] * (18 - jobs.QUEUED)


def test_a_run_that_takes_too_long_is_stopped_and_has_failed() -> None:
    bench = Bench(deadline=600.0)
    bench.look()
    bench.look(NOON + HOUR)
    bench.start()
    bench.look(NOON + HOUR + 599)
    assert bench.next() == ""
    world = World(bench.wanted, Observed(), Memory(jobs=bench.known), now=7.0, clock=bench.clock)
    assert jobs.next_look(world, bench.want) == 8.0
    bench.look(NOON + HOUR + 600)
    assert "stop container s/job: runs for longer than 600 s" in bench.next()
    bench.ends(137, Phase.STOPPED, at=NOON + HOUR + 601)
    assert bench.look(NOON + HOUR + 602) == ["deadline"]


@pytest.mark.parametrize("by", [HOUR, -HOUR])
def test_a_deadline_is_of_the_run_and_not_of_the_clock(by: float) -> None:
    """As where a machine without a clock of its own learns the time after its jobs have begun."""
    bench = Bench(deadline=600.0)
    bench.look()
    bench.look(NOON + HOUR)
    bench.start()
    bench.have = replace(bench.have, started_ticks=5000)
    bench.look(NOON + HOUR + 10, uptime=60.0)
    bench.look(NOON + HOUR + by + 20, uptime=70.0)
    assert bench.next() == ""
    bench.look(NOON + HOUR + by + 599, uptime=649.0)
    assert bench.next() == ""
    world = World(bench.wanted, Observed(), Memory(jobs=bench.known), now=7.0, clock=bench.clock)
    assert jobs.next_look(world, bench.want) == 8.0
    bench.look(NOON + HOUR + by + 600, uptime=650.0)
    assert "stop container s/job: runs for longer than 600 s" in bench.next()
    bench.ends(137, Phase.STOPPED, at=NOON + HOUR + by + 601)
    assert bench.look(NOON + HOUR + by + 602, uptime=652.0)[-1:] == ["deadline"]


@pytest.mark.parametrize("by", [HOUR, -HOUR, 9.0, -60.0])
def test_a_clock_that_is_set_just_before_a_run_ends_does_not_change_how_it_ended(by: float) -> None:
    """Nobody looks between the one and the other."""
    for age, result in ((595, "ok"), (605, "deadline")):
        bench = Bench(deadline=600.0)
        bench.look()
        bench.look(NOON + HOUR)
        bench.start()
        bench.have = replace(bench.have, started_ticks=5000)
        bench.look(NOON + HOUR + 1, uptime=51.0)
        bench.ends(0, at=NOON + HOUR + by + age)
        assert bench.look(NOON + HOUR + by + age + 3, uptime=50.0 + age + 3)[-1:] == [result]


@pytest.mark.parametrize("by", [9.0, -60.0])
def test_a_clock_that_is_set_by_little_does_not_move_a_short_deadline(by: float) -> None:
    bench = Bench(deadline=5.0)
    bench.look()
    bench.look(NOON + HOUR)
    bench.start()
    bench.have = replace(bench.have, started_ticks=4990)
    bench.look(NOON + HOUR, uptime=50.0)
    bench.look(NOON + HOUR + by + 4, uptime=54.0)
    assert bench.next() == ""
    bench.look(NOON + HOUR + by + 5, uptime=55.0)
    assert "stop container s/job: runs for longer than 5 s" in bench.next()


def test_a_run_that_had_ended_before_the_machine_was_restarted_is_measured_by_the_clock() -> None:
    """Seconds since boot count anew: those of its start are of another count."""
    bench = Bench(deadline=600.0)
    bench.look()
    bench.look(NOON + HOUR)
    bench.start()
    bench.have = replace(bench.have, started_ticks=5000)
    bench.look(NOON + HOUR + 1, uptime=51.0)
    bench.ends(0, at=NOON + HOUR + 20)
    bench.have = replace(bench.have, started_ticks=0)
    assert bench.look(NOON + 3 * HOUR, uptime=1200.0)[-1:] == ["ok"]


def test_a_process_that_waited_for_its_program_is_no_older_than_that() -> None:
    """One in a place that had been made ahead: runtime/spares.py."""
    bench = Bench(deadline=600.0)
    bench.look()
    bench.look(NOON + HOUR)
    bench.start()
    bench.have = replace(bench.have, started_ticks=100)
    for after in (10, 300, 599):
        bench.look(NOON + HOUR + after, uptime=60.0 + after)
        assert bench.next() == ""


def test_a_time_that_comes_while_the_plan_is_made_is_looked_at_at_once() -> None:
    """Between the look that did not see it yet and the plan; nothing else would wake the agent for it."""
    bench = Bench("@every 1s")
    bench.look(NOON)
    bench.look(NOON + 0.999)
    assert bench.job.next_at == NOON + 1.0
    world = World(bench.wanted, Observed(), Memory(jobs=bench.known), now=7.0, clock=NOON + 1.002)
    assert jobs.next_look(world, bench.want) == 7.0


def test_a_run_that_was_too_long_while_no_agent_looked_has_failed() -> None:
    """Nobody stopped it, and it ended well by itself."""
    bench = Bench(deadline=600.0, retries=1)
    bench.look()
    bench.look(NOON + HOUR)
    bench.start()
    bench.ends(0, at=NOON + HOUR + 900)
    assert bench.look(NOON + HOUR + 1000) == ["deadline"]
    assert len(bench.job.queue) == 1  # it is tried again


def test_a_run_that_fails_is_tried_again_ever_later_until_it_has_been_often_enough() -> None:
    bench = Bench(retries=2, retry_delay=10.0)
    bench.look()
    at = bench.clock = NOON + HOUR
    bench.look()
    for attempt, pause in enumerate((10.0, 20.0), start=1):
        bench.start()
        bench.ends(1)
        assert bench.look() == ["failed"]
        assert bench.job.queue == (Due(NOON + HOUR, "schedule", attempt + 1, at + pause),)
        bench.look(at + pause - 1)
        assert bench.next() == ""
        at += pause
        bench.look(at)
        assert f"attempt {attempt + 1} of 3" in bench.next()
    bench.start()
    bench.ends(1)
    assert bench.look() == ["failed"] and bench.job.queue == () and bench.next() == ""


def test_what_waits_to_be_tried_again_counts_as_running() -> None:
    bench = Bench("* * * * *", retries=1, retry_delay=100.0)
    bench.look()
    bench.look(NOON + 120)
    bench.start()
    bench.ends(1)
    assert bench.look() == ["failed"]
    assert bench.look(NOON + 180) == ["skipped"]


def test_a_run_that_somebody_stopped_is_not_tried_again() -> None:
    bench = Bench(retries=5)
    bench.look()
    bench.look(NOON + HOUR)
    bench.start()
    bench.look()
    bench.ends(143, Phase.STOPPED)
    assert bench.look() == ["stopped"] and bench.job.queue == ()


def test_a_run_that_somebody_restarted_was_stopped_and_is_no_retry() -> None:
    """`stead restart` while nobody looked: the run that it began is one by hand, whatever waits."""
    bench = Bench(retries=2, concurrency_policy="queue")
    bench.look()
    bench.look(NOON + HOUR)
    bench.start()
    bench.look(NOON + 2 * HOUR)
    bench.clock = NOON + 2 * HOUR + 5
    bench.runs()
    assert bench.look(NOON + 2 * HOUR + 6) == ["stopped"]
    (line,) = bench.told
    assert (line.attempt, line.ended, line.text) == (
        1,
        NOON + 2 * HOUR + 5,
        "restarted by hand, or for a backup",
    )
    assert bench.job.run is not None and bench.job.run.due == Due(NOON + 2 * HOUR + 5, "hand")
    assert [item.at for item in bench.job.queue] == [NOON + 2 * HOUR]


def test_what_is_seen_in_the_middle_of_a_restart_is_not_the_end_of_a_run() -> None:
    bench = Bench(retries=2)
    bench.look()
    bench.look(NOON + HOUR)
    bench.start()
    bench.look()
    before = bench.have
    bench.have = replace(before, phase=Phase.LOST, started_at=0.0, busy=True)
    assert bench.look(NOON + HOUR + 5) == [] and bench.next() == ""
    bench.have = before
    bench.runs()
    assert bench.look(NOON + HOUR + 6) == ["stopped"]


def test_a_run_that_its_probe_stopped_has_failed_however_its_program_ended() -> None:
    """`on_failure = "stop"` of its healthcheck."""
    bench = Bench(retries=1)
    bench.look()
    bench.look(NOON + HOUR)
    bench.start()
    bench.look()
    bench.ends(0)
    bench.have = replace(bench.have, error=PROBE_STOPPED)
    assert bench.look() == ["failed"] and len(bench.job.queue) == 1
    assert bench.told[0].text == PROBE_STOPPED and bench.job.last_success == 0.0


@pytest.mark.parametrize("seen", [False, True])
def test_a_run_whose_container_somebody_removed_is_not_tried_again(seen: bool) -> None:
    """`stead rm -f`, which makes the container anew."""
    bench = Bench(retries=2)
    bench.look()
    bench.look(NOON + HOUR)
    bench.start()
    bench.look()
    made = replace(bench.have, id="2", phase=Phase.CREATED, started_at=0.0, created_at=NOON + HOUR + 5)
    there = {} if seen else {"s/job": made}
    noted = jobs.note(bench.wanted, Observed(containers=there), bench.known, (), NOON + HOUR + 5, UTC)
    assert [(line.result, line.text) for line in noted.ended] == [("stopped", "the container was removed")]
    assert noted.jobs["s/job"].queue == () and noted.jobs["s/job"].run is None


@pytest.mark.parametrize(("retries", "again"), [(0, False), (1, True)])
def test_a_run_that_a_power_cut_ends_is_lost(retries: int, again: bool) -> None:
    bench = Bench(retries=retries)
    bench.look()
    bench.look(NOON + HOUR)
    bench.start()
    bench.look()
    bench.have = replace(bench.have, phase=Phase.LOST, started_at=0.0)
    assert bench.look(NOON + HOUR + 300) == ["lost"]
    assert bool(bench.job.queue) == again


@pytest.mark.parametrize(("catch_up", "noted"), [("once", []), ("skip", ["missed"])])
def test_times_that_passed_while_no_agent_lived(catch_up: str, noted: list[str]) -> None:
    bench = Bench(catch_up=catch_up)
    bench.look()
    assert bench.look(NOON + 50 * HOUR + 1800) == noted
    if catch_up == "once":
        assert "was due at 2026-03-12 14:00:00 (0 * * * *), while nobody looked" in bench.next()
        bench.start()
        bench.ends()
        assert bench.look() == ["ok"]
    assert bench.next() == "" and bench.job.next_at == NOON + 51 * HOUR
    assert bench.look() == []


def test_every_so_often_keeps_its_beat_over_missed_times() -> None:
    bench = Bench("@every 10m")
    bench.look()
    bench.look(NOON + 3600 + 60)
    assert bench.job.settled == NOON + 3600.0
    assert bench.job.next_at == NOON + 4200.0


def test_a_run_that_was_begun_and_not_remembered_is_not_begun_again() -> None:
    """The agent was killed between the start and the note of it."""
    bench = Bench()
    bench.look()
    bench.look(NOON + HOUR)
    bench.runs()  # and nothing was noted
    assert bench.look(NOON + HOUR + 60) == [] and bench.next() == ""
    bench.ends()
    assert bench.look(NOON + HOUR + 61) == ["ok"]
    assert [line.due for line in bench.told] == [NOON + HOUR]
    assert bench.next() == ""


def test_a_start_that_did_nothing_is_no_run() -> None:
    """The shim of the run before was still there, at its end."""
    bench = Bench()
    bench.look()
    bench.look(NOON + HOUR)
    bench.start()
    bench.ends()
    assert bench.look(NOON + HOUR + 1) == ["ok"]
    bench.look(NOON + 2 * HOUR)
    before = bench.have
    bench.start()
    bench.have = before
    assert bench.look(NOON + 2 * HOUR + 1) == []
    assert "is due since 2026-03-10 14:00:00" in bench.next()


def test_a_start_by_hand_is_a_run_by_hand() -> None:
    bench = Bench()
    bench.look()
    bench.clock = NOON + 100
    bench.runs()
    bench.ends(0, at=NOON + 101)
    assert bench.look(NOON + 102) == ["ok"]
    assert [(line.trigger, line.due) for line in bench.told] == [("hand", NOON + 100)]


def test_a_run_that_is_asked_for_obeys_the_policy() -> None:
    bench = Bench()
    bench.look()
    bench.look(NOON + 100, NOON + 99)
    assert bench.next().startswith("start container s/job: was asked for by hand at 2026-03-10 12:01:39")
    bench.start()
    assert bench.look(NOON + 101, NOON + 101) == ["skipped"]


def test_a_job_of_which_nothing_is_remembered_goes_on_from_its_last_start() -> None:
    bench = Bench()
    bench.have = replace(
        bench.have,
        phase=Phase.EXITED,
        exit_code=0,
        started_at=NOON + 5 * HOUR,
        finished_at=NOON + 5 * HOUR + 1,
    )
    assert bench.look(NOON + 5 * HOUR + 1800) == [] and bench.next() == ""
    assert bench.job.next_at == NOON + 6 * HOUR


@pytest.mark.parametrize(
    ("back", "again"),
    [(30 * 60.0, False), (2.9 * HOUR, False), (5 * HOUR, True)],
)
def test_a_clock_that_is_set_back_brings_times_again_only_when_it_is_far(back: float, again: bool) -> None:
    bench = Bench("0 13 * * *")
    bench.look()
    bench.look(NOON + HOUR)
    bench.start()
    bench.ends()
    assert bench.look() == ["ok"]
    bench.look(NOON + HOUR + 60 - back)
    bench.look(NOON + HOUR + 1)
    assert bool(bench.next()) == again


def test_a_clock_that_was_wrong_by_years_stops_no_job() -> None:
    bench = Bench()
    bench.look()
    bench.look(NOON + 20 * 365 * 24 * HOUR)
    bench.start()
    bench.ends()
    bench.look()
    bench.look(NOON + 1800)
    assert bench.job.next_at == NOON + HOUR
    bench.look(NOON + HOUR)
    assert bench.next() != ""


def test_a_night_in_which_clocks_change_has_one_run() -> None:
    """Europe/Berlin: 02:30 does not exist on March 29th 2026, and comes twice on October 25th."""
    zone = ZoneInfo("Europe/Berlin")
    for month, day in ((3, 29), (10, 25)):
        bench = Bench("30 2 * * *")
        bench.zone = zone  # type: ignore[assignment]
        begin = datetime(2026, month, day, 0, tzinfo=zone).timestamp()
        bench.have = replace(bench.have, created_at=begin)
        bench.look(begin + 60)
        count = 0
        for minute in range(2, 24 * 60, 7):
            bench.look(begin + 60 * minute)
            if bench.next():
                bench.start()
                bench.ends()
                count += 1
        assert count == 1, (month, day)


def test_another_schedule_counts_from_when_it_is_declared() -> None:
    bench = Bench("0 0 * * *")
    bench.look()
    bench.plan = DesiredJob(Schedule.parse("0 9 * * *"))
    bench.look(NOON + 120)
    assert bench.next() == "" and bench.job.next_at == NOON + 21 * HOUR


def test_what_is_not_wanted_to_run_does_not_come() -> None:
    bench = Bench()
    bench.look()
    stopped = {"s": desired("s", replace(bench.want, desired="stopped"))}
    observed = Observed(containers={"s/job": bench.have})
    noted = jobs.note(stopped, observed, bench.known, (), NOON + 5 * HOUR, UTC)
    assert noted.jobs["s/job"].queue == () and noted.jobs["s/job"].next_at is None


@pytest.mark.parametrize("scope", ["s/job", "s", "source:s"])
def test_what_a_person_suspended_makes_up_for_its_times_by_one_run(scope: str) -> None:
    """As `suspend` in its spec: that its policy is to queue does not bring them all at the end."""
    bench = Bench(concurrency_policy="queue")
    bench.look()
    observed = Observed(containers={"s/job": bench.have})
    orders = Orders(suspended={scope: Order(NOON, "root", until=NOON + 5 * HOUR)})
    for hour in (1, 2, 3, 4, 6):
        clock = NOON + hour * HOUR + 600
        noted = jobs.note(bench.wanted, observed, bench.known, (), clock, UTC, orders=orders)
        bench.known = dict(noted.jobs)
        assert noted.ended == ()
        assert (bench.job.queue == ()) == (hour < 5) and (bench.job.next_at is None) == (hour < 5)
    assert bench.job.queue == (Due(NOON + 6 * HOUR, "catch-up"),)


def test_a_job_that_is_no_longer_declared_is_forgotten_and_those_of_other_sources_are_not() -> None:
    bench = Bench()
    bench.look()
    assert jobs.note({"s": desired("s")}, Observed(), bench.known, (), NOON, UTC).jobs == {}
    assert jobs.note({"t": desired("t")}, Observed(), bench.known, (), NOON, UTC).jobs == bench.known


def test_nothing_is_concluded_while_a_step_of_it_is_under_way() -> None:
    bench = Bench()
    bench.look()
    bench.look(NOON + HOUR)
    bench.start()
    bench.have = replace(bench.have, phase=Phase.CREATED, started_at=0.0)  # as it was before the start
    flying = {Subject("container", "s/job"): StopContainer("s/job")}
    observed = Observed(containers={"s/job": bench.have})
    noted = jobs.note(bench.wanted, observed, bench.known, flying, NOON + HOUR + 1, UTC)
    assert noted.ended == ()


def test_the_last_of_many_times_is_found_without_walking_them() -> None:
    minutely = Schedule.parse("* * * * *")
    clock = NOON + 10 * 365 * 86_400 + 30
    assert jobs.latest(minutely, NOON, clock, UTC) == clock - 30
    assert jobs.latest(Schedule.parse("0 0 29 2 *"), NOON, NOON + 3 * 365 * 86_400, UTC) == (
        datetime(2028, 2, 29, tzinfo=UTC).timestamp()
    )
    assert jobs.latest(minutely, NOON, NOON + 59, UTC) is None
