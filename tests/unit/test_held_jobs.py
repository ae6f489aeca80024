"""Jobs that people keep from running, and jobs whose source is gone: it is told, and nothing is lost."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC

import pytest

from agent import stores
from agent.planner import jobs
from agent.planner.updates import Order, Orders
from runtime.observations import HandStop, Observed
from tests.builders import desired
from tests.job_bench import NOON, Bench


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
