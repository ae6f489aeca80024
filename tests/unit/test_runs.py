"""What the journal keeps of jobs comes back as it was, and no more of it than is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent import clock, runs
from agent.cli.jobs import run as job_run
from agent.cli.main import Problem
from agent.converge import Engine
from agent.journal import Journal
from agent.planner.runs import Due, Ended, Job, Run
from agent.runs import JobBook
from runtime.paths import Paths
from specs.desired import DesiredJob
from specs.schedule import Schedule
from tests.builders import container, desired
from tests.fake_runtime import FakeRuntime

LINE = Ended("s/job", "s", 10.0, "schedule", 1, 10.5, 12.5, 3, "failed", "text")
JOB = Job(
    10.0,
    "s",
    seen=10.5,
    queue=(Due(11.0, "schedule", 2, 20.0),),
    run=Run(Due(10.0, "hand"), 10.5, 3600.0),
    schedule="@daily",
    next_at=30.0,
    last=LINE,
    last_success=9.0,
    results=(("failed", 1), ("ok", 4)),
)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal.db")
    yield made
    made.close()


def test_what_is_known_of_a_job_survives_the_agent(journal: Journal, tmp_path: Path) -> None:
    plain = replace(JOB, run=None, last=None, next_at=None)
    JobBook(journal).write({"s/job": JOB, "s/plain": plain}, [LINE], {}, {})
    assert JobBook(journal).jobs == {"s/job": JOB, "s/plain": plain}
    assert runs.read_jobs(tmp_path / "journal.db") == {"s/job": JOB, "s/plain": plain}
    assert runs.read_runs(tmp_path / "journal.db", "s/job") == [LINE]


def test_a_history_is_as_long_as_its_spec_says(journal: Journal, tmp_path: Path) -> None:
    book = JobBook(journal)
    lines = [replace(LINE, due=float(number)) for number in range(30)]
    for number in range(0, 30, 10):
        book.write({"s/job": JOB}, lines[number : number + 10], {"s/job": 4}, {})
    found = runs.read_runs(tmp_path / "journal.db", "s/job")
    assert [line.due for line in found] == [29.0, 28.0, 27.0, 26.0]


def test_times_at_which_a_job_did_not_run_push_no_run_out_of_its_history(
    journal: Journal, tmp_path: Path
) -> None:
    """As those that come every minute while one run goes on for an hour."""
    book = JobBook(journal)
    skipped = [replace(LINE, due=float(n), began=0.0, exit_code=None, result="skipped") for n in range(60)]
    book.write({"s/job": JOB}, [LINE, *skipped, replace(LINE, due=60.0)], {"s/job": 2}, {})
    found = [(line.due, line.result) for line in runs.read_runs(tmp_path / "journal.db", "s/job")]
    assert found == [(60.0, "failed"), (59.0, "skipped"), (58.0, "skipped"), (10.0, "failed")]


def test_a_history_that_is_to_be_shorter_is_so_at_once(journal: Journal, tmp_path: Path) -> None:
    book = JobBook(journal)
    book.write({"s/job": JOB}, [replace(LINE, due=float(number)) for number in range(9)], {"s/job": 9}, {})
    book.write({"s/job": JOB}, [], {"s/job": 2}, {})
    assert [line.due for line in runs.read_runs(tmp_path / "journal.db", "s/job")] == [8.0, 7.0]
    JobBook(journal).write({"s/job": JOB}, [], {"s/job": 1}, {})  # an agent that found the spec changed
    assert [line.due for line in runs.read_runs(tmp_path / "journal.db", "s/job")] == [8.0]


def test_a_job_that_is_forgotten_takes_its_history_along(journal: Journal, tmp_path: Path) -> None:
    book = JobBook(journal)
    book.write({"s/job": JOB, "s/other": JOB}, [LINE, replace(LINE, name="s/other")], {}, {})
    book.write({"s/other": JOB}, [], {}, {})
    assert book.jobs == {"s/other": JOB}
    assert runs.read_runs(tmp_path / "journal.db", "s/job") == []
    assert len(runs.read_runs(tmp_path / "journal.db", "s/other")) == 1


def test_a_run_that_is_asked_for_is_taken_once(journal: Journal, tmp_path: Path) -> None:
    runs.ask(tmp_path / "journal.db", "s/job", 5.0)
    runs.ask(tmp_path / "journal.db", "s/job", 6.0)
    book = JobBook(journal)
    asked = book.asked()
    assert asked == {"s/job": [5.0, 6.0]}
    runs.ask(tmp_path / "journal.db", "s/job", 7.0)  # meanwhile
    book.write({}, [], {}, asked)
    assert book.asked() == {"s/job": [7.0]}


def test_a_run_that_was_asked_for_waits_for_its_source(journal: Journal, tmp_path: Path) -> None:
    """As where the agent starts, and what was in force cannot be read before its source was looked at."""
    book = JobBook(journal)
    book.write({"s/job": replace(JOB, queue=(), run=None)}, [], {}, {})
    runs.ask(tmp_path / "journal.db", "s/job", 5.0)
    runs.ask(tmp_path / "journal.db", "t/unknown", 6.0)
    engine = Engine(FakeRuntime(), journal)
    engine.keep_schedules()
    engine.round()
    assert book.asked() == {"s/job": [5.0]}
    engine.want(desired("s", container("s/job", job=DesiredJob(Schedule.parse("@yearly")))))
    engine.round()
    assert book.asked() == {}
    assert engine.memory.jobs["s/job"].queue == (Due(5.0, "hand"),)
    engine.close()


def test_a_run_that_was_asked_for_is_taken_once_where_nothing_can_be_written(journal: Journal) -> None:
    """As on a disk that is full: it ran again and again, with every look."""
    book = JobBook(journal)
    journal.write(lambda connection: connection.execute("INSERT INTO asked (name, at) VALUES ('s/job', 5.0)"))
    asked = book.asked()
    assert asked == {"s/job": [5.0]}
    journal.query("PRAGMA query_only = 1")
    book.write({"s/job": JOB}, [], {}, asked)
    assert journal.trouble and book.asked() == {}
    journal.query("PRAGMA query_only = 0")
    book.write({"s/job": JOB}, [], {}, {})
    assert not journal.trouble
    assert journal.query("SELECT count(*) FROM asked")[0][0] == 0


def test_who_waits_for_a_run_whose_line_is_gone_is_told(tmp_path: Path) -> None:
    """The history is short, and others came after it."""
    paths = Paths(tmp_path, tmp_path / "run")
    journal = Journal(paths.journal)
    book = JobBook(journal)
    runs.ask(paths.journal, "s/job", 5.0)
    lines = [replace(LINE, due=5.0, result="ok"), replace(LINE, due=6.0)]
    book.write({"s/job": replace(JOB, queue=(), run=None)}, lines, {"s/job": 1}, book.asked())
    with pytest.raises(Problem, match="s/job: its run has left the history: other lines came after it"):
        job_run.ended(paths, "s/job", 5.0)
    assert job_run.ended(paths, "s/job", 6.0).result == "failed"
    journal.close()


def test_nothing_is_written_while_nothing_changes(journal: Journal) -> None:
    book = JobBook(journal)
    book.write({"s/job": JOB}, [], {}, {})
    before = journal.query("PRAGMA data_version")[0][0], journal.query("SELECT count(*) FROM jobs")[0][0]
    book.write({"s/job": JOB}, [], {}, {})
    assert (journal.query("PRAGMA data_version")[0][0], 1) == before


def test_what_another_release_wrote_is_as_if_it_were_not_there(journal: Journal, tmp_path: Path) -> None:
    def other(connection: object) -> None:
        connection.execute("INSERT INTO jobs VALUES ('s/job', '{\"settled\": 1}')")  # type: ignore[attr-defined]

    journal.write(other)
    assert JobBook(journal).jobs == {}
    assert runs.read_jobs(tmp_path / "journal.db") == {}


def test_without_a_journal_there_are_no_jobs(tmp_path: Path) -> None:
    assert runs.read_jobs(tmp_path / "journal.db") == {}
    assert runs.read_runs(tmp_path / "journal.db", "s/job") == []


def test_schedules_follow_a_machine_whose_time_zone_is_changed(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "localtime"
    monkeypatch.setattr(clock, "LOCALTIME", str(place))
    monkeypatch.delenv("TZ", raising=False)
    place.symlink_to("/usr/share/zoneinfo/Asia/Tokyo")
    engine = Engine(FakeRuntime(), journal)
    engine.keep_schedules()
    engine.want(desired("s", container("s/job", job=DesiredJob(Schedule.parse("30 3 * * *")))))

    def next_hour() -> int:
        (job,) = engine.round().jobs
        assert job.next_at is not None
        return datetime.fromtimestamp(job.next_at, UTC).hour

    assert next_hour() == (3 - 9) % 24
    place.unlink()
    place.symlink_to("/usr/share/zoneinfo/UTC")
    assert next_hour() == 3
    engine.close()
