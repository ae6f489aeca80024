"""Effects: what outlives the agent of versions and orders, in SQLite (`rollouts.db`). It decides nothing.

Who runs the engine writes versions; every command may write orders, and the agent reads them when the file
has changed. Losing the file loses orders, and what there is to go back to. An order is on the disk when its
command returns; a version that cannot be written down is kept in memory, and `trouble` says so.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from agent.planner.updates import Key, Order, Orders, Pin, Spec, Version
from runtime.database import TIMEOUT, check, from_sqlite, put_aside, roll_back, write_ahead
from runtime.faults import Fault
from runtime.requests import decode, encode

log = logging.getLogger("stead")

#: newest layout that this release understands
VERSION = 1

SCHEMA = """
CREATE TABLE IF NOT EXISTS versions (
    service TEXT NOT NULL, number INTEGER NOT NULL, source TEXT NOT NULL, key TEXT NOT NULL,
    revisions TEXT NOT NULL, at REAL NOT NULL, good INTEGER NOT NULL, standing INTEGER NOT NULL,
    bad TEXT NOT NULL, bad_at REAL NOT NULL, spec TEXT NOT NULL, PRIMARY KEY (service, number)
) STRICT;
CREATE TABLE IF NOT EXISTS orders (
    kind TEXT NOT NULL, name TEXT NOT NULL, at REAL NOT NULL, who TEXT NOT NULL, reason TEXT NOT NULL,
    until REAL, revision TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (kind, name)
) STRICT;
CREATE TABLE IF NOT EXISTS approved (
    source TEXT NOT NULL, revision TEXT NOT NULL, at REAL NOT NULL, who TEXT NOT NULL,
    PRIMARY KEY (source, revision)
) STRICT;
"""

SUSPEND, PIN, SOURCE = "suspend", "pin", "source"
#: approvals that are kept
APPROVED = 200

Versions = Mapping[str, tuple[Version, ...]]
T = TypeVar("T")


class Rollouts:
    """Thread-safe; several processes may have the file open."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._path = path
        self.trouble = ""
        try:
            self._connection = _connect(path)
        except sqlite3.OperationalError as error:
            raise from_sqlite(error, "open rollouts", str(path)) from error
        except sqlite3.DatabaseError as error:  # begin a new one, as is done with the journal
            put_aside(path)
            log.error("rollouts were damaged (%s): what was ordered by hand is to be ordered again", error)
            self._connection = _connect(path)
        self._seen = -1

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    # ------------------------------------------------------------ for the engine

    def changed(self) -> bool:
        """Whether another process wrote since the last call; so at the first one."""
        with self._lock:
            now = int(self._connection.execute("PRAGMA data_version").fetchone()[0])
            changed, self._seen = now != self._seen, now
            return changed

    def versions(self) -> dict[str, tuple[Version, ...]]:
        """By service, oldest first. What no release can read any more is left out."""
        with self._lock:
            return _versions(self._connection)

    def orders(self) -> Orders:
        with self._lock:
            return _orders(self._connection)

    def keep(self, before: Versions, after: Versions) -> bool:
        """Write down what differs. False when it cannot be written."""
        changed = {
            service for service in before.keys() | after.keys() if before.get(service) != after.get(service)
        }
        if not changed:
            return True

        def change(connection: sqlite3.Connection) -> None:
            for service in sorted(changed):
                connection.execute("DELETE FROM versions WHERE service = ?", (service,))
                rows = [_row(version) for version in after.get(service, ())]
                connection.executemany("INSERT INTO versions VALUES (?,?,?,?,?,?,?,?,?,?,?)", rows)

        try:
            self._write(change, "write down versions")
        except Fault as fault:
            self.trouble = str(fault)
            return False
        self.trouble = ""
        return True

    # ------------------------------------------------------------ orders

    def suspend(self, name: str, order: Order) -> None:
        self._order(SUSPEND, name, order)

    def resume(self, name: str) -> bool:
        """False when it was not suspended by hand."""
        return self._taken_back(SUSPEND, name)

    def pin(self, service: str, pin: Pin) -> None:
        self._order(PIN, service, pin)

    def pin_source(self, source: str, pin: Pin) -> None:
        self._order(SOURCE, source, pin)

    def release(self, name: str) -> tuple[str, ...]:
        """What was released of service or source `name`: a pin, a bad version, or nothing."""

        def change(connection: sqlite3.Connection) -> tuple[str, ...]:
            text = "DELETE FROM orders WHERE kind IN (?, ?) AND name = ?"
            pins = connection.execute(text, (PIN, SOURCE, name)).rowcount
            # it may be tried again; it is the last one to go back to
            text = "UPDATE versions SET bad = '', bad_at = 0, at = 0 WHERE service = ? AND bad != ''"
            bad = connection.execute(text, (name,)).rowcount
            return (*(("pin",) if pins else ()), *(("bad version",) if bad else ()))

        return self._write(change, "release")

    def approve(self, source: str, revision: str, who: str, at: float) -> None:
        """It holds until another revision of the source comes in force."""

        def change(connection: sqlite3.Connection) -> None:
            row = (source, revision, at, who)
            connection.execute("INSERT OR REPLACE INTO approved VALUES (?, ?, ?, ?)", row)
            old = (
                "DELETE FROM approved WHERE at < (SELECT at FROM approved ORDER BY at DESC LIMIT 1 OFFSET ?)"
            )
            connection.execute(old, (APPROVED,))

        self._write(change, "approve")

    def came_in_force(self, source: str, revision: str) -> None:
        """What was approved before it would have to be approved again."""
        text = "FROM approved WHERE source IN ('', ?) AND substr(?, 1, length(revision)) != revision"
        with self._lock:
            used = self._connection.execute(f"SELECT 1 {text} LIMIT 1", (source, revision)).fetchone()
        if used is not None:
            self._write(
                lambda connection: connection.execute(f"DELETE {text}", (source, revision)), "use up approval"
            )

    def _order(self, kind: str, name: str, order: Order) -> None:
        revision, key = (order.revision, order.key) if isinstance(order, Pin) else ("", ("", "", ""))
        row = (kind, name, order.at, order.who, order.reason, order.until, revision, json.dumps(key))
        text = "INSERT OR REPLACE INTO orders VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        self._write(lambda connection: connection.execute(text, row), "write down order")

    def _taken_back(self, kind: str, name: str) -> bool:
        text = "DELETE FROM orders WHERE kind = ? AND name = ?"
        return self._write(
            lambda connection: connection.execute(text, (kind, name)).rowcount > 0, "take back order"
        )

    def _write(self, change: Callable[[sqlite3.Connection], T], what: str) -> T:
        """One durable transaction. Raises Fault."""
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                result = change(self._connection)
                self._connection.execute("COMMIT")
            except BaseException as error:
                roll_back(self._connection)
                if not isinstance(error, sqlite3.OperationalError):
                    raise
                raise from_sqlite(error, what, str(self._path)) from error
            return result


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=TIMEOUT, check_same_thread=False)
    try:
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found > VERSION:
            cause = f"layout {found} is of a newer release, this one knows {VERSION}"
            raise Fault("database-invalid", "open rollouts", str(path), cause)
        write_ahead(connection)
        connection.execute("PRAGMA synchronous=FULL")
        check(connection)
        if found < VERSION:  # who only opens the file does not write: its snapshot could be too old for that
            connection.executescript(f"BEGIN IMMEDIATE;{SCHEMA};PRAGMA user_version={VERSION};COMMIT;")
        if path.stat().st_mode & 0o777 != 0o600:  # as it is on a read-only disk, who only looks needs no more
            path.chmod(0o600)
    except BaseException:
        connection.close()
        raise
    return connection


def _row(version: Version) -> tuple[object, ...]:
    return (
        version.service,
        version.number,
        version.source,
        json.dumps(version.key),
        json.dumps(version.revisions),
        version.at,
        int(version.good),
        int(version.standing),
        version.bad,
        version.bad_at,
        json.dumps(encode(version.spec), separators=(",", ":")),
    )


def _versions(connection: sqlite3.Connection) -> dict[str, tuple[Version, ...]]:
    found: dict[str, tuple[Version, ...]] = {}
    for row in connection.execute("SELECT * FROM versions ORDER BY service, number"):
        service, number, source, key, revisions, at, good, standing, bad, bad_at, spec = row
        try:
            kept = decode(Spec, json.loads(spec))
            named, ids = Key(*json.loads(key)), tuple(json.loads(revisions))
        except (ValueError, TypeError, KeyError):  # of a release that meant something else by it
            continue
        version = Version(
            service,
            source,
            named,
            kept,
            number,
            ids,
            at,
            bool(good),
            bool(standing),
            bad,
            bad_at,
        )
        found[service] = (*found.get(service, ()), version)
    return found


def _orders(connection: sqlite3.Connection) -> Orders:
    suspended: dict[str, Order] = {}
    pins: dict[str, Pin] = {}
    sources: dict[str, Pin] = {}
    for kind, name, at, who, reason, until, revision, key in connection.execute("SELECT * FROM orders"):
        if kind == SUSPEND:
            suspended[name] = Order(at, who, reason, until)
            continue
        try:
            pin = Pin(at, who, reason, until, revision, Key(*json.loads(key)))
        except (ValueError, TypeError):  # as above
            continue
        (pins if kind == PIN else sources)[name] = pin
    approved = connection.execute("SELECT source, revision FROM approved")
    return Orders(suspended, pins, sources, frozenset((row[0], row[1]) for row in approved))


@contextmanager
def opened(path: Path) -> Iterator[Rollouts]:
    with closing(Rollouts(path)) as made:
        yield made
