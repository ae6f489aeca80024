"""Effects: jobs in the journal: what is remembered of each, the history of their runs, and runs that people
ask for.

The agent writes all but the last; who asks for a run writes one row, whether an agent lives or not, and the
next round of the agent takes it. Losing the journal loses the history: what a job's next time is follows from
its container then.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent.journal import Journal, connect, reading
from agent.planner.runs import Due, Ended, Job, Run
from runtime.database import from_sqlite

#: lines of a history, of each kind, for what its spec does not say
DEFAULT_HISTORY = 10


class JobBook:
    """The agent's. What the journal cannot take is lost, as all else of it (Journal.trouble)."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._written = self._load()
        self._kept: dict[str, int] = {}  # lines of each history, as they were last asked for
        self._taken: set[tuple[str, float]] = set()  # what was asked for, and cannot be deleted for now

    @property
    def jobs(self) -> Mapping[str, Job]:
        """As they were last written."""
        return dict(self._written)

    def _load(self) -> dict[str, Job]:
        return _jobs(self._journal.query("SELECT name, state FROM jobs"))

    def asked(self) -> dict[str, list[float]]:
        """When runs were asked for, by container; those that are taken are to be given back to `write`."""
        found: dict[str, list[float]] = {}
        for row in self._journal.query("SELECT name, at FROM asked ORDER BY id"):
            if (row["name"], row["at"]) not in self._taken:
                found.setdefault(row["name"], []).append(row["at"])
        return found

    def write(
        self,
        jobs: Mapping[str, Job],
        ended: Sequence[Ended],
        histories: Mapping[str, int],
        asked: Mapping[str, Sequence[float]],
    ) -> None:
        """What is known now, and the runs that ended, in one transaction. `histories`: lines that are kept of
        each; `asked` are taken."""
        changed = {name: job for name, job in jobs.items() if self._written.get(name) != job}
        gone = self._written.keys() - jobs.keys()
        taken = self._taken | {(name, at) for name, times in asked.items() for at in times}
        other = {name for name, keep in histories.items() if self._kept.get(name) != keep}
        if not changed and not gone and not ended and not taken and not other:
            return

        def change(connection: sqlite3.Connection) -> None:
            for name in gone:
                connection.execute("DELETE FROM jobs WHERE name = ?", (name,))
                connection.execute("DELETE FROM runs WHERE name = ?", (name,))
            for name, job in changed.items():
                state = json.dumps(asdict(job))
                connection.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?)", (name, state))
            for line in ended:
                _insert(connection, line)
            for name in {line.name for line in ended} | other:
                _prune(connection, name, histories.get(name, DEFAULT_HISTORY))
            connection.executemany("DELETE FROM asked WHERE name = ? AND at = ?", sorted(taken))

        self._taken = taken
        if self._journal.write(change):
            self._written, self._taken, self._kept = dict(jobs), set(), dict(histories)


def _insert(connection: sqlite3.Connection, line: Ended) -> None:
    row = asdict(line)
    marks = ", ".join("?" for _ in row)
    connection.execute(f"INSERT INTO runs ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))


def _prune(connection: sqlite3.Connection, name: str, keep: int) -> None:
    """The newest so many runs stay, and as many of the times at which it did not run."""
    for kind in ("began > 0", "began = 0"):
        newest = f"SELECT id FROM runs WHERE name = ? AND {kind} ORDER BY id DESC LIMIT ?"
        old = f"DELETE FROM runs WHERE name = ? AND {kind} AND id NOT IN ({newest})"
        connection.execute(old, (name, name, keep))


def _jobs(rows: Sequence[sqlite3.Row]) -> dict[str, Job]:
    """A state that cannot be read is that of another release: it is as if there were none."""
    found = {}
    for row in rows:
        try:
            found[row["name"]] = _job(json.loads(row["state"]))
        except (ValueError, TypeError, KeyError):
            continue
    return found


def _job(state: dict[str, Any]) -> Job:
    run, last = state.pop("run"), state.pop("last")
    return Job(
        **{
            **state,
            "queue": tuple(Due(**item) for item in state["queue"]),
            "results": tuple((str(result), int(count)) for result, count in state["results"]),
        },
        run=None if run is None else Run(**{**run, "due": Due(**run["due"])}),
        last=None if last is None else Ended(**last),
    )


# ---------------------------------------------------------------- for commands, with or without an agent


def ask(path: Path, name: str, at: float) -> None:
    """A run of a job that the journal knows. Fault database-invalid, disk-full."""
    try:
        with closing(connect(path)) as connection:
            connection.execute("INSERT INTO asked (name, at) VALUES (?, ?)", (name, at))
    except sqlite3.Error as error:
        raise from_sqlite(error, "write journal", str(path)) from error


def is_asked(path: Path, name: str, at: float) -> bool:
    """Whether a run that was asked for at this time was not taken yet."""
    with reading(path) as connection:
        if connection is None:
            return False
        query = "SELECT count(*) FROM asked WHERE name = ? AND at = ?"
        return bool(connection.execute(query, (name, at)).fetchone()[0])


def read_jobs(path: Path) -> dict[str, Job]:
    """By container's name."""
    with reading(path) as connection:
        if connection is None:
            return {}
        try:
            return _jobs(connection.execute("SELECT name, state FROM jobs ORDER BY name").fetchall())
        except sqlite3.OperationalError:  # the journal of an older release
            return {}


def read_runs(path: Path, name: str, limit: int = 100) -> list[Ended]:
    """The newest lines of a job's history, newest first."""
    with reading(path) as connection:
        if connection is None:
            return []
        columns = ", ".join(Ended.__dataclass_fields__)
        query = f"SELECT {columns} FROM runs WHERE name = ? ORDER BY id DESC LIMIT ?"
        try:
            return [Ended(*row) for row in connection.execute(query, (name, limit))]
        except sqlite3.OperationalError:
            return []
