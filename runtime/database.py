"""Effects: the SQLite file in which the runtime remembers what it made (`stead.db`, WAL).

One process writes at a time (the holder of the root's lock, and short `stead image` commands); any may
read. Every thread gets a connection of its own; `write()` serialises the writers of this process and is one
durable transaction.

Layouts: a new table is an IF NOT EXISTS in the schema of its room; a new column is a step of STEPS, too.
Either needs the next VERSION, since a file that has it is opened as it is. A step never changes: files of
every older release are brought here by all the steps from theirs.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.faults import Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple
else:
    from runtime.shim.tuples import NamedTuple

#: Newest layout this release understands. A newer file is refused, an older one is migrated step by step.
VERSION = 6
#: Seconds for which another process's writing is waited for.
TIMEOUT = 10.0


class NewColumn(NamedTuple):
    """A column that a table of an older file lacks; `kind` as in ALTER TABLE ... ADD COLUMN (a constant
    default when NOT NULL, <https://sqlite.org/lang_altertable.html>). Rows that are there get the value of
    the expression `fill`, if there is one."""

    table: str
    column: str
    kind: str
    fill: str = ""


_NOW = "CAST(strftime('%s', 'now') AS REAL)"


#: What leads from layout n to n+1.
STEPS: dict[int, tuple[NewColumn, ...]] = {
    1: (
        NewColumn("images", "parent", "TEXT NOT NULL DEFAULT ''"),
        NewColumn("images", "added", "REAL NOT NULL DEFAULT 0", _NOW),
        NewColumn("images", "used", "REAL NOT NULL DEFAULT 0", _NOW),
    ),
    2: (
        NewColumn("networks", "subnet6", "TEXT NOT NULL DEFAULT ''"),
        NewColumn("networks", "gateway6", "TEXT NOT NULL DEFAULT ''"),
        NewColumn("networks", "last6", "TEXT NOT NULL DEFAULT ''"),
        NewColumn("networks", "options", "TEXT NOT NULL DEFAULT '{}'"),
        NewColumn("networks", "created", "REAL NOT NULL DEFAULT 0", _NOW),
        NewColumn("leases", "address6", "TEXT NOT NULL DEFAULT ''"),
        NewColumn("leases", "priority", "INTEGER NOT NULL DEFAULT 0"),
        NewColumn("leases", "interface", "TEXT NOT NULL DEFAULT ''"),
        NewColumn("leases", "link_local", "TEXT NOT NULL DEFAULT '[]'"),
        NewColumn("leases", "shard", "INTEGER NOT NULL DEFAULT 0"),
        NewColumn("volumes", "options", "TEXT NOT NULL DEFAULT '{}'"),
        NewColumn("volumes", "keep", "INTEGER NOT NULL DEFAULT 0"),
        NewColumn("volumes", "anonymous", "INTEGER NOT NULL DEFAULT 0"),
        NewColumn("volumes", "created", "REAL NOT NULL DEFAULT 0", _NOW),
    ),
    3: (
        NewColumn("published_ports", "asked", "TEXT NOT NULL DEFAULT ''"),
        NewColumn("endpoints", "service", "TEXT NOT NULL DEFAULT ''"),
    ),
}

CONTAINERS_SCHEMA = """
CREATE TABLE IF NOT EXISTS containers (
    id          TEXT PRIMARY KEY,
    name        TEXT NOT NULL UNIQUE,
    source      TEXT NOT NULL,
    project     TEXT NOT NULL,
    identity    TEXT NOT NULL,
    adjustable  TEXT NOT NULL,
    image       TEXT NOT NULL,
    image_id    TEXT NOT NULL,
    request     TEXT NOT NULL,
    wanted      TEXT NOT NULL,
    created_at  REAL NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS containers_by_source ON containers(source);
CREATE TABLE IF NOT EXISTS mounted_images (
    container   TEXT NOT NULL,
    reference   TEXT NOT NULL,
    image_id    TEXT NOT NULL,
    PRIMARY KEY (container, reference)
) STRICT;
CREATE TABLE IF NOT EXISTS hand_stops (
    container   TEXT PRIMARY KEY,
    at          REAL NOT NULL,
    who         TEXT NOT NULL,
    terminal    TEXT NOT NULL,
    reason      TEXT NOT NULL
) STRICT;
"""


def connect(path: Path, *, readonly: bool = False) -> sqlite3.Connection:
    """An autocommit connection with WAL, full durability and a busy time-out of 10 s. Raises Fault
    database-invalid.
    """
    try:
        if readonly:
            connection = sqlite3.connect(
                f"file:{path}?mode=ro", uri=True, isolation_level=None, timeout=TIMEOUT
            )
        else:
            connection = sqlite3.connect(path, isolation_level=None, timeout=TIMEOUT, check_same_thread=False)
    except sqlite3.Error as error:
        raise from_sqlite(error, "open database", str(path)) from error
    try:
        if not readonly:
            write_ahead(connection)
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
        connection.row_factory = sqlite3.Row
        found = connection.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.Error as error:
        connection.close()
        raise from_sqlite(error, "open database", str(path)) from error
    if found > VERSION:
        connection.close()
        raise Fault(
            "database-invalid",
            "open database",
            str(path),
            f"it has layout {found}, this release knows {VERSION}",
            "install the newer release again",
        )
    return connection


def write_ahead(connection: sqlite3.Connection, *, timeout: float = TIMEOUT) -> None:
    """Go over to WAL, where the file is new. Beside another process that does so, or that has begun to write,
    SQLite refuses it at once and without any wait: <https://sqlite.org/c3ref/busy_handler.html>.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)  # the other one writes a page or two


def migrate(connection: sqlite3.Connection, schemas: tuple[str, ...]) -> None:
    """Bring an empty or older file to VERSION, all of it or nothing. `schemas` are the rooms' DDL scripts.

    Repeatable; of several processes that open an older file one does it, while the others wait.
    """
    if _version(connection) == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for version in range(_version(connection), VERSION):
            for step in STEPS.get(version, ()):
                _add_column(connection, step)
        for script in (CONTAINERS_SCHEMA, *schemas):
            for statement in statements(script):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version={VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        roll_back(connection)
        raise


def check(connection: sqlite3.Connection) -> None:
    """Raises sqlite3.DatabaseError when a page is damaged: opening a file reads the first one only."""
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise sqlite3.DatabaseError(found)


def put_aside(path: Path) -> None:
    """A damaged file makes room for a new one, and is kept beside it for people to look at."""
    path.replace(path.with_suffix(".damaged"))
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _add_column(connection: sqlite3.Connection, new: NewColumn) -> None:
    """Nothing to do where the table is not there yet: its room's schema has the column."""
    columns = {row["name"] for row in connection.execute(f"PRAGMA table_info({new.table})")}
    if columns and new.column not in columns:
        connection.execute(f"ALTER TABLE {new.table} ADD COLUMN {new.column} {new.kind}")
        if new.fill:
            connection.execute(f"UPDATE {new.table} SET {new.column} = {new.fill}")


def statements(script: str) -> Iterator[str]:
    """The statements of a script, one at a time: executescript() would commit before each script."""
    text = ""
    for piece in script.split(";")[:-1]:
        text += piece + ";"
        if sqlite3.complete_statement(text):
            yield text
            text = ""


def _is_read_only(path: str) -> bool:
    """A database with a log cannot even be read there, unless somebody else has it open."""
    try:
        return bool(os.statvfs(os.path.dirname(path)).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def from_sqlite(error: sqlite3.Error, operation: str, subject: str) -> Fault:
    """Who must act: a disk that is full or read-only is the machine's matter, a damaged file a person's."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # of an extended code, the primary one
    if code == sqlite3.SQLITE_FULL:
        return Fault("disk-full", operation, subject, "no space left on device")
    if code == sqlite3.SQLITE_READONLY or (code == sqlite3.SQLITE_CANTOPEN and _is_read_only(subject)):
        hint = "mount its file system writable"
        return Fault("kernel-error", operation, subject, "it is on a read-only file system", hint)
    if isinstance(error, sqlite3.OperationalError) and code != sqlite3.SQLITE_ERROR:
        return Fault("kernel-error", operation, subject, str(error).lower())
    return Fault("database-invalid", operation, subject, str(error).lower())


def roll_back(connection: sqlite3.Connection) -> None:
    """SQLite has done so by itself after some errors; the first error is the one that is to be told."""
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        pass


class Database:
    """Thread-local connections over one file. `read()` for queries, `write()` for a transaction."""

    def __init__(self, path: Path, schemas: tuple[str, ...] = ()) -> None:
        self.path = path
        self._schemas = schemas
        self._local = threading.local()
        self._writer = threading.RLock()
        self._all: list[sqlite3.Connection] = []
        with self._writer:
            connection = self.read()
            try:
                migrate(connection, schemas)
            except sqlite3.Error as error:
                connection.close()
                raise from_sqlite(error, "migrate database", str(path)) from error
            except BaseException:
                connection.close()
                raise

    def read(self) -> sqlite3.Connection:
        """This thread's connection."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = connect(self.path)
            self._local.connection = connection
            with self._writer:
                self._all.append(connection)
        return connection

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction: committed at the end, rolled back on an exception. Nests into the outer one.

        Without `durable` a power cut may undo it, until the next durable one; a crash of ours never does.
        Fault disk-full, kernel-error or database-invalid when the file does not take it.
        """
        connection = self.read()
        with self._writer:
            if connection.in_transaction:
                yield connection
                return
            try:
                if getattr(self._local, "durable", True) is not durable:
                    connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                    self._local.durable = durable
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException as error:
                roll_back(connection)
                if isinstance(error, sqlite3.Error):
                    raise from_sqlite(error, "write", str(self.path)) from error
                raise

    def close(self) -> None:
        """Close every thread's connection; no thread may use the database afterwards."""
        with self._writer:
            for connection in self._all:
                connection.close()
            self._all.clear()
            self._local = threading.local()
