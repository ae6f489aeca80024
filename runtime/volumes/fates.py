"""Values: what becomes of a volume that nothing declares any more, as the database has it."""

from __future__ import annotations

from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

#: `prune` as the last spec that declared it had it: seconds; Infinity: never; NULL: as the node has it.
FATES_SCHEMA = """
CREATE TABLE IF NOT EXISTS volume_fates (
    name        TEXT PRIMARY KEY,
    prune       REAL,
    orphaned    REAL NOT NULL DEFAULT 0,
    size        INTEGER NOT NULL DEFAULT 0
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Fate:
    """`orphaned` is since when nothing declares it, in seconds since the epoch; 0.0: it is declared. `size`
    is bytes that it had then; -1: not known."""

    prune: float | None = None
    orphaned: float = 0.0
    size: int = 0


def read_fates(connection: sqlite3.Connection) -> dict[str, Fate]:
    rows = connection.execute("SELECT name, prune, orphaned, size FROM volume_fates")
    return {row[0]: Fate(row[1], row[2], row[3]) for row in rows}


def declare(connection: sqlite3.Connection, name: str, prune: float | None) -> None:
    """It is declared, or made by hand."""
    connection.execute("INSERT OR REPLACE INTO volume_fates (name, prune) VALUES (?, ?)", (name, prune))


def orphan(connection: sqlite3.Connection, name: str, at: float, size: int) -> None:
    """Nothing declares it since `at`. What is known already stays."""
    connection.execute(
        "INSERT INTO volume_fates (name, orphaned, size) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE"
        " SET orphaned = excluded.orphaned, size = excluded.size WHERE orphaned = 0",
        (name, at, size),
    )


def forget(connection: sqlite3.Connection, name: str) -> None:
    connection.execute("DELETE FROM volume_fates WHERE name = ?", (name,))
