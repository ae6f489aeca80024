"""The two SQLite files when the disk takes no more: state says who must act, the journal loses entries."""

from __future__ import annotations

import json
import resource
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.journal import BACKUP, Journal, read_actions
from agent.planner.model import Cause, Memory, RemoveContainer, Step, Subject
from agent.planner.updates import Key, Orders, Pin
from agent.recall import recall
from agent.rollouts import Rollouts
from runtime.database import Database
from runtime.faults import Fault

SCHEMA = "CREATE TABLE IF NOT EXISTS things (name TEXT) STRICT;"
STEP = Step(Subject("container", "a/b"), RemoveContainer("a/b"), Cause("undeclared", "is gone"), source="s")


def add(database: Database, name: str) -> None:
    with database.write() as connection:
        connection.execute("INSERT INTO things VALUES (?)", (name,))


def names(database: Database) -> list[str]:
    return [row[0] for row in database.read().execute("SELECT name FROM things")]


@contextmanager
def no_growth() -> Iterator[None]:
    """No file may grow: getrlimit(2), RLIMIT_FSIZE. Python ignores SIGXFSZ."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path / "stead.db", (SCHEMA,))
    yield made
    made.close()


@pytest.mark.parametrize(
    ("before", "after", "code", "text"),
    [
        (
            "PRAGMA max_page_count = 1",
            "PRAGMA max_page_count = 100000",
            "disk-full",
            "no space left on device",
        ),
        ("PRAGMA query_only = ON", "PRAGMA query_only = OFF", "kernel-error", "read-only file system"),
    ],
)
def test_a_write_that_fails_says_who_must_act_and_the_next_one_works(
    database: Database, before: str, after: str, code: str, text: str
) -> None:
    database.read().execute(before)
    with pytest.raises(Fault, match=text) as caught:
        add(database, "x" * 100_000)
    assert caught.value.code == code
    database.read().execute(after)
    add(database, "well")
    assert names(database) == ["well"]


def test_a_transaction_that_cannot_be_committed_is_not_left_open(database: Database) -> None:
    """What comes after it must neither see it nor join it."""
    with no_growth(), pytest.raises(Fault):
        add(database, "lost")
    assert not database.read().in_transaction
    add(database, "kept")
    assert names(database) == ["kept"]


def test_an_exception_of_the_caller_is_passed_on_and_rolled_back(database: Database) -> None:
    with pytest.raises(ValueError, match="mine"):
        with database.write() as connection:
            connection.execute("INSERT INTO things VALUES ('half')")
            raise ValueError("mine")
    assert names(database) == []


def test_a_journal_that_cannot_be_written_loses_entries_and_says_so(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    with no_growth():
        assert journal.begin(STEP, "r", 1.0) == 0
        journal.end(0, 0.1, "", "")
        assert journal.trouble.startswith("cannot write journal")
    number = journal.begin(STEP, "r", 2.0)
    assert number and journal.trouble == ""
    journal.end(number, 0.1, "", "")
    journal.close()
    assert [(entry.started, entry.result) for entry in read_actions(tmp_path / "journal.db")] == [(2.0, "ok")]


def test_a_damaged_journal_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_bytes(b"nothing of SQLite's" * 1000)
    journal = Journal(tmp_path / "journal.db")
    assert journal.begin(STEP, "r", 1.0) == 1
    journal.close()
    assert (tmp_path / "journal.damaged").exists()
    with sqlite3.connect(tmp_path / "journal.db") as connection:
        assert connection.execute("SELECT COUNT(*) FROM actions").fetchone() == (1,)
    connection.close()


@pytest.mark.parametrize("opened", [Database, Journal, Rollouts])
def test_a_new_file_that_another_process_is_about_to_begin_is_waited_for(
    tmp_path: Path, opened: Callable[[Path], Database | Journal | Rollouts]
) -> None:
    """SQLite refuses at once to go over to WAL beside a transaction that has begun to write."""
    path = tmp_path / "new.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    ending = threading.Timer(0.2, other.execute, ["COMMIT"])
    ending.start()
    opened(path).close()
    ending.join()
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()


def test_a_journal_that_somebody_holds_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.journal.TIMEOUT", 0.05)
    path = tmp_path / "journal.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("CREATE TABLE t (x)")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Fault, match="database is locked") as caught:
        read_actions(path)
    assert caught.value.code == "kernel-error"
    other.close()
    path.write_bytes(b"nothing of SQLite's" * 1000)
    with pytest.raises(Fault) as caught:
        read_actions(path)
    assert caught.value.code == "database-invalid"


@pytest.mark.parametrize("table", ["actions", "jobs", "remembered", "runs_by_name"])
def test_a_journal_of_which_one_page_is_damaged_is_put_aside(tmp_path: Path, table: str) -> None:
    path = tmp_path / "journal.db"
    Journal(path).close()
    damage(path, table)
    journal = Journal(path)
    journal.plan("anew", 1.0)
    assert (tmp_path / "journal.damaged").exists() and not journal.trouble
    journal.close()


@pytest.mark.parametrize("table", ["versions", "orders", "approved"])
def test_rollouts_of_which_one_page_is_damaged_are_put_aside(
    tmp_path: Path, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rollouts.db"
    Rollouts(path).close()
    damage(path, table)
    rollouts = Rollouts(path)
    assert (tmp_path / "rollouts.damaged").exists() and rollouts.orders() == Orders()
    assert "ordered again" in caplog.text
    rollouts.close()


def test_a_row_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    rollouts = Rollouts(tmp_path / "rollouts.db")
    for name in ("s/good", "s/bad"):
        rollouts.pin(name, Pin(1.0, "root", revision="r", key=Key("i", "a", "image")))
    rollouts._connection.execute("UPDATE orders SET key = '[\"other\"]' WHERE name = 's/bad'")
    assert list(rollouts.orders().pins) == ["s/good"]
    rollouts.close()
    journal = Journal(tmp_path / "journal.db")
    journal.remember(BACKUP, "s/newer", json.dumps([1.0, 2.0, 3, "path", 0.0, 0.0, 0.0, "more"]), 1.0)
    journal.remember(BACKUP, "s/ours", json.dumps([1.0, 2.0, 3, "path", 0.0, 0.0, 0.0]), 1.0)
    assert list(recall(journal.remembered, SystemClock(), Memory()).backups) == ["s/ours"]
    journal.close()


def damage(path: Path, table: str) -> None:
    """Fill its first page with what SQLite never writes."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = connection.execute("PRAGMA page_size").fetchone()[0]
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0]
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
