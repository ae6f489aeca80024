"""Jobs that people keep from running, and jobs whose source is gone: it is told, and nothing is lost."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC

import pytest

from agent import stores
from agent.planner import jobs
from agent.planner.updates import Order, Orders
from runtime.observations import HandStop, Observed, Phase
from tests.builders import desired
from tests.job_bench import HOUR, NOON, Bench


@pytest.mark.parametrize(
    ("spec", "stops", "orders", "said"),
    [
        ({"desired": "stopped"}, {}, Orders(), "its spec says that it is to be stopped (spec.toml:1)"),
        ({"suspend": "too slow"}, {}, Orders(), "suspended: too slow"),
        ({}, {}, Orders({"s": Order(NOON, "ann", "moving")}), "suspended by ann with all of s: moving"),
        (
            {},
            {"s/job": HandStop(NOON, "ann")},
            Orders(),
            "stopped by ann at 2026-03-10T12:00:00Z; `stead start s/job` hands it back",
        ),
        ({}, {}, Orders(), ""),
    ],
)
def test_a_job_that_a_person_keeps_from_running_says_so(
    spec: dict[str, str], stops: dict[str, HandStop], orders: Orders, said: str
) -> None:
    bench = Bench()
    wanted = {"s": desired("s", replace(bench.want, **spec))}  # type: ignore[arg-type]
    observed = Observed(containers={"s/job": bench.have}, hand_stops=stops)
    noted = jobs.note(wanted, observed, {}, (), NOON + 60, UTC, {"s/job": [NOON + 59]}, orders=orders)
    job = noted.jobs["s/job"]
    assert job.held == said and (job.next_at is None) == bool(said)
    assert [item.at for item in job.queue] == [NOON + 59], "it runs when that ends"


def test_a_job_whose_source_left_the_settings_stays_as_long_as_its_container() -> None:
    bench = Bench()
    bench.look()
    observed = Observed(containers={"s/job": bench.have})
    unread = jobs.note({}, observed, bench.known, (), NOON + 61, UTC, sources={"s", "t"})
    assert unread.jobs == bench.known, "its source is in the settings, and was not read yet"
    left = jobs.note({}, observed, bench.known, (), NOON + 61, UTC, sources={"t"}).jobs
    assert left["s/job"].orphan and left["s/job"].next_at is None
    assert left["s/job"].held == "its source s is not in the settings"
    view = stores.job("s/job", left["s/job"], NOON + 61)
    assert (view.state, view.held) == ("orphan", "its source s is not in the settings")
    back = jobs.note(bench.wanted, observed, left, (), NOON + 62, UTC, sources={"s"}).jobs
    assert back == bench.known
    assert jobs.note({}, Observed(), left, (), NOON + 62, UTC, sources={"t"}).jobs == {}


@pytest.mark.parametrize("spec", ["running", "stopped"])
def test_a_run_that_is_stopped_for_good_gave_way_to_none_and_was_not_too_long(spec: str) -> None:
    """By a person or by its spec; the one is no `replaced`, the other no `deadline`, which is tried again."""
    for deadline, concurrency_policy in ((0.0, "replace"), (600.0, "skip")):
        bench = Bench(retries=1, deadline=deadline, concurrency_policy=concurrency_policy)
        bench.look()
        bench.look(NOON + HOUR)
        bench.start()
        bench.look(NOON + 2 * HOUR)
        bench.ends(143, Phase.STOPPED)
        stops = {} if spec == "stopped" else {"s/job": HandStop(NOON + 2 * HOUR, "ann")}
        wanted = {"s": desired("s", replace(bench.want, desired=spec))}
        observed = Observed(containers={"s/job": bench.have}, hand_stops=stops)
        noted = jobs.note(wanted, observed, bench.known, (), NOON + 2 * HOUR + 1, UTC)
        assert [line.result for line in noted.ended] == ["stopped"]
        assert all(item.attempt == 1 for item in noted.jobs["s/job"].queue), "it is not tried again"
