"""Effects: what was decided and done, and why, in SQLite (`journal.db`). Nothing is decided from it.

It is bounded (the newest KEEP rows of each table), readable while the agent writes, and safe to lose: all
that comes back from it is when tags were looked up and what images were built from, which costs a look or a
cached build. So a disk that is full or read-only costs entries and nothing else; `trouble` says so.
"""

from __future__ import annotations

import json
import re
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime.database import TIMEOUT, check, from_sqlite, put_aside, roll_back, write_ahead

TYPE_CHECKING = False
if TYPE_CHECKING:  # readers (history, explain) need no planner
    from agent.planner.model import Blocked, Step

#: newest rows that are kept, by table
KEEP = {"actions": 20_000, "revisions": 2_000, "reasons": 5_000, "plans": 500}
#: seconds after which what nobody renewed of `remembered` is dropped, but for the last backup of each volume
FORGET = 90 * 86_400.0
BACKUP = "backup"
#: rows are dropped once in so many writes
PRUNE_EVERY = 500

SCHEMA = """
CREATE TABLE IF NOT EXISTS revisions (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, source TEXT NOT NULL, revision TEXT NOT NULL,
    note TEXT NOT NULL, result TEXT NOT NULL, errors TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS actions (
    id INTEGER PRIMARY KEY, started REAL NOT NULL, seconds REAL, source TEXT NOT NULL, revision TEXT NOT NULL,
    kind TEXT NOT NULL, name TEXT NOT NULL, verb TEXT NOT NULL, reason TEXT NOT NULL, cause TEXT NOT NULL,
    result TEXT NOT NULL, code TEXT NOT NULL, message TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS actions_by_name ON actions(name, id);
CREATE TABLE IF NOT EXISTS reasons (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, until REAL, source TEXT NOT NULL, kind TEXT NOT NULL,
    name TEXT NOT NULL, code TEXT NOT NULL, reason TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS reasons_by_name ON reasons(name, id);
CREATE TABLE IF NOT EXISTS plans (id INTEGER PRIMARY KEY, at REAL NOT NULL, text TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS pulled (
    source TEXT NOT NULL, revision TEXT NOT NULL, reference TEXT NOT NULL,
    PRIMARY KEY (source, revision, reference)
) STRICT;
CREATE TABLE IF NOT EXISTS remembered (
    kind TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT;
CREATE TABLE IF NOT EXISTS jobs (name TEXT PRIMARY KEY, state TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS runs (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, source TEXT NOT NULL, due REAL NOT NULL,
    trigger TEXT NOT NULL, attempt INTEGER NOT NULL, began REAL NOT NULL, ended REAL NOT NULL,
    exit_code INTEGER, result TEXT NOT NULL, text TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS runs_by_name ON runs(name, id);
CREATE TABLE IF NOT EXISTS asked (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, at REAL NOT NULL
) STRICT;
"""
#: tables and indices
MADE = frozenset(re.findall(r"IF NOT EXISTS (\w+)", SCHEMA))


@dataclass(frozen=True, slots=True)
class Revision:
    """`result`: accepted | refused; the errors of a refused one are lines for people."""

    at: float
    source: str
    revision: str
    note: str
    result: str
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """One step. `result`: running | ok | failed | interrupted (the agent ended before the step did)."""

    id: int
    started: float
    seconds: float | None
    source: str
    revision: str
    kind: str
    name: str
    verb: str
    reason: str
    cause: str
    result: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a thing could not be converged between `at` and `until` (None: still so)."""

    at: float
    until: float | None
    source: str
    kind: str
    name: str
    code: str
    reason: str


class Journal:
    """The one writer. Thread-safe. Every method is one transaction; none waits for the disk.

    `trouble` is why the last entry was lost, empty since an entry was written again.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._writes = 0
        self._path = path
        self.trouble = ""
        try:
            self._connection = connect(path, whole=True)
        except sqlite3.OperationalError as error:
            raise from_sqlite(error, "open journal", str(path)) from error
        except sqlite3.DatabaseError:  # damaged: nothing depends on it, so begin a new one
            put_aside(path)
            self._connection = connect(path)
        running = "UPDATE actions SET result = 'interrupted' WHERE result = 'running'"
        self.write(lambda connection: connection.execute(running))
        self._reasons: dict[tuple[str, str, str], tuple[str, str, int]] = {}
        for row in self._connection.execute("SELECT * FROM reasons WHERE until IS NULL"):
            key = (row["source"], row["kind"], row["name"])
            self._reasons[key] = (row["code"], row["reason"], row["id"])

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def write(self, change: Callable[[sqlite3.Connection], object]) -> bool:
        """Run `change` as one transaction. False when SQLite cannot write it: then it is lost."""
        with self._lock:
            connection = self._connection
            before = connection.total_changes
            try:
                connection.execute("BEGIN IMMEDIATE")
                change(connection)
                self._writes += 1
                if self._writes % PRUNE_EVERY == 1:
                    _prune(connection)
                connection.execute("COMMIT")
            except BaseException as error:
                roll_back(connection)
                if not isinstance(error, sqlite3.OperationalError):
                    raise
                self.trouble = str(from_sqlite(error, "write journal", str(self._path)))
                return False
            if connection.total_changes != before:  # what writes nothing proves nothing
                self.trouble = ""
            return True

    def query(self, text: str) -> list[sqlite3.Row]:
        with self._lock:
            return self._connection.execute(text).fetchall()

    def revision(self, entry: Revision) -> None:
        """Remember that a revision was taken or refused; the same one twice in a row is kept once."""
        row = (entry.source, entry.revision, entry.note, entry.result, json.dumps(entry.errors))
        changed: list[bool] = []

        def change(connection: sqlite3.Connection) -> None:
            last = connection.execute(
                "SELECT source, revision, note, result, errors FROM revisions WHERE source = ?"
                " ORDER BY id DESC LIMIT 1",
                (entry.source,),
            ).fetchone()
            if last is None or tuple(last) != row:
                changed.append(True)
                connection.execute(
                    "INSERT INTO revisions (at, source, revision, note, result, errors)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    (entry.at, *row),
                )

        self.write(change)
        if changed:
            self.happened(f"revision {entry.result}", entry.source, revision=entry.revision, note=entry.note)

    def happened(self, action: str, name: str, **attributes: str) -> None:
        """Among the events of the node, beside what the runtime tells of (runtime.events)."""
        from runtime import events

        events.tell(self._path.parent, "agent", action, name, name, **attributes)

    def begin(self, step: Step, revision: str, at: float) -> int:
        """A step was begun. Returns its number for `end`, 0 when that could not be written."""
        subject, cause = step.subject, step.cause
        row = (at, step.source, revision, subject.kind, subject.name, step.verb, cause.reason, str(cause))
        numbers: list[int | None] = []

        def change(connection: sqlite3.Connection) -> None:
            cursor = connection.execute(
                "INSERT INTO actions (started, source, revision, kind, name, verb, reason, cause, result,"
                " code, message) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'running', '', '')",
                row,
            )
            numbers.append(cursor.lastrowid)

        return numbers[0] or 0 if self.write(change) else 0

    def end(self, number: int, seconds: float, code: str, message: str) -> None:
        text = "UPDATE actions SET seconds = ?, result = ?, code = ?, message = ? WHERE id = ?"
        row = (seconds, "failed" if code else "ok", code, message, number)
        self.write(lambda connection: connection.execute(text, row))

    def blocked(self, blocked: Iterable[Blocked], at: float) -> None:
        """The blocked things of the newest plan: new reasons are begun, those that are gone are ended."""
        now: dict[tuple[str, str, str], tuple[str, str]] = {
            (b.source, b.subject.kind, b.subject.name): (b.code, b.reason) for b in blocked
        }
        ended = [key for key, (code, reason, _) in self._reasons.items() if now.get(key) != (code, reason)]
        begun = [key for key, value in now.items() if self._reasons.get(key, ("", "", 0))[:2] != value]
        if not ended and not begun:
            return
        known = dict(self._reasons)

        def change(connection: sqlite3.Connection) -> None:
            for key in ended:
                number = known.pop(key)[2]
                connection.execute("UPDATE reasons SET until = ? WHERE id = ?", (at, number))
            for key in begun:
                cursor = connection.execute(
                    "INSERT INTO reasons (at, source, kind, name, code, reason) VALUES (?, ?, ?, ?, ?, ?)",
                    (at, *key, *now[key]),
                )
                known[key] = (*now[key], cursor.lastrowid or 0)

        if self.write(change):
            self._reasons = known
            for source, kind, name in begun:
                code, reason = now[source, kind, name]
                self.happened("blocked", name, kind=kind, code=code, reason=reason, source=source)

    def plan(self, text: str, at: float) -> None:
        """A plan that is not empty and differs from the last one."""
        statement = "INSERT INTO plans (at, text) VALUES (?, ?)"
        self.write(lambda connection: connection.execute(statement, (at, text)))

    def add_pulled(self, source: str, revision: str, reference: str) -> None:
        def change(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM pulled WHERE source = ? AND revision != ?", (source, revision))
            connection.execute("INSERT OR IGNORE INTO pulled VALUES (?, ?, ?)", (source, revision, reference))

        self.write(change)

    def pulled(self, source: str, revision: str) -> frozenset[tuple[str, str]]:
        """(source, reference) of what was pulled for this revision because it says `always`."""
        with self._lock:
            return _pulled(self._connection, source, revision)

    def remember(self, kind: str, name: str, value: str, at: float) -> None:
        """One thing of each (kind, name): `at` is in seconds since the epoch."""

        def change(connection: sqlite3.Connection) -> None:
            old = "DELETE FROM remembered WHERE at < ? AND kind != ?"
            connection.execute(old, (at - FORGET, BACKUP))
            connection.execute(
                "INSERT OR REPLACE INTO remembered VALUES (?, ?, ?, ?)", (kind, name, value, at)
            )

        self.write(change)

    def remembered(self, kind: str) -> dict[str, tuple[str, float]]:
        """By name: (value, when)."""
        with self._lock:
            return _remembered(self._connection, kind)


def connect(path: Path, *, whole: bool = False) -> sqlite3.Connection:
    """`whole`: raises sqlite3.DatabaseError, too, when only a part of it is damaged."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=TIMEOUT, check_same_thread=False)
    try:
        connection.row_factory = sqlite3.Row
        write_ahead(connection)
        connection.execute("PRAGMA synchronous=NORMAL")
        if whole:
            check(connection)
        if MADE - {row["name"] for row in connection.execute("SELECT name FROM sqlite_master")}:
            connection.executescript(f"BEGIN IMMEDIATE;{SCHEMA};COMMIT;")  # a reader sees all tables, or none
    except BaseException:
        connection.close()
        raise
    return connection


def _remembered(connection: sqlite3.Connection, kind: str) -> dict[str, tuple[str, float]]:
    query = "SELECT name, value, at FROM remembered WHERE kind = ?"
    return {row[0]: (row[1], row[2]) for row in connection.execute(query, (kind,))}


def _pulled(connection: sqlite3.Connection, source: str, revision: str) -> frozenset[tuple[str, str]]:
    query = "SELECT reference FROM pulled WHERE source = ? AND revision = ?"
    return frozenset((source, row[0]) for row in connection.execute(query, (source, revision)))


def _prune(connection: sqlite3.Connection) -> None:
    for table, keep in KEEP.items():
        connection.execute(f"DELETE FROM {table} WHERE id <= (SELECT MAX(id) FROM {table}) - ?", (keep,))


# ---------------------------------------------------------------- reading, with or without an agent


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection | None]:
    """A read-only connection; None when there is no journal yet. Fault database-invalid or kernel-error."""
    if not path.exists():
        yield None
        return
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=TIMEOUT)
    connection.row_factory = sqlite3.Row
    try:
        made = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        yield connection if made else None
    except sqlite3.DatabaseError as error:
        raise from_sqlite(error, "read journal", str(path)) from error
    finally:
        connection.close()


def read_remembered(path: Path, kind: str) -> dict[str, tuple[str, float]]:
    """As Journal.remembered."""
    with reading(path) as connection:
        try:
            return {} if connection is None else _remembered(connection, kind)
        except sqlite3.OperationalError:  # the journal of an older release, which no agent has opened since
            return {}


def read_pulled(path: Path, source: str, revision: str) -> frozenset[tuple[str, str]]:
    """As Journal.pulled."""
    with reading(path) as connection:
        return frozenset() if connection is None else _pulled(connection, source, revision)


def read_actions(path: Path, *, name: str = "", source: str = "", limit: int = 100) -> list[Entry]:
    """The newest steps, newest first. `name` is a full name, or its last part."""
    with reading(path) as connection:
        if connection is None:
            return []
        where, values = _where(name, source)
        rows = connection.execute(f"SELECT * FROM actions {where} ORDER BY id DESC LIMIT ?", (*values, limit))
        return [Entry(**dict(row)) for row in rows]


def read_reasons(path: Path, *, name: str = "", source: str = "", limit: int = 100) -> list[Reason]:
    """Why things were blocked, newest first."""
    with reading(path) as connection:
        if connection is None:
            return []
        where, values = _where(name, source)
        rows = connection.execute(
            f"SELECT at, until, source, kind, name, code, reason FROM reasons {where}"
            " ORDER BY id DESC LIMIT ?",
            (*values, limit),
        )
        return [Reason(**dict(row)) for row in rows]


def read_revisions(path: Path, *, source: str = "", limit: int = 100) -> list[Revision]:
    """Revisions taken and refused, newest first."""
    with reading(path) as connection:
        if connection is None:
            return []
        where, values = _where("", source)
        rows = connection.execute(
            f"SELECT at, source, revision, note, result, errors FROM revisions {where}"
            " ORDER BY id DESC LIMIT ?",
            (*values, limit),
        )
        return [Revision(row[0], row[1], row[2], row[3], row[4], tuple(json.loads(row[5]))) for row in rows]


def _where(name: str, source: str) -> tuple[str, list[str]]:
    clauses, values = [], []
    if name:
        clauses.append("(name = ? OR name LIKE '%/' || ?)" if "/" not in name else "name = ?")
        values += [name, name] if "/" not in name else [name]
    if source:
        clauses.append("source = ?")
        values.append(source)
    return (f"WHERE {' AND '.join(clauses)}" if clauses else "", values)
