"""Effects: what earlier builds made: steps by their key, sums of what stages hold, the caches of RUN --mount.

A key is a digest over everything that a step's layer follows from: the layers below it, the instruction with
its values, the content of what it copies. The layers of a row are pinned in the image store (`layer_pins`)
for as long as the row is there; the row is written after the layer, so that a hit is always complete.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import Any

    from runtime.database import Database

BUILD_SCHEMA = """
CREATE TABLE IF NOT EXISTS build_cache (
    key         TEXT PRIMARY KEY,
    chain_id    TEXT NOT NULL,      -- of the layer that the step made
    parent      TEXT NOT NULL,      -- chain id below it, empty for none
    diff_id     TEXT NOT NULL,
    size        INTEGER NOT NULL,   -- of the layer, bytes
    created     TEXT NOT NULL,      -- RFC 3339, as the history says it
    used        REAL NOT NULL,      -- seconds since the epoch
    text        TEXT NOT NULL       -- the instruction, for people
) STRICT;
CREATE INDEX IF NOT EXISTS build_cache_by_chain ON build_cache(chain_id);
CREATE TABLE IF NOT EXISTS build_sums (
    subject     TEXT NOT NULL,      -- chain id that was looked into, or a URL
    selection   TEXT NOT NULL,      -- what was looked for
    sum         TEXT NOT NULL,
    PRIMARY KEY (subject, selection)
) STRICT, WITHOUT ROWID;
"""

#: Bytes of layers that the cache keeps; the least recently used go first. A tenth of the disk, at most this.
LIMIT = 20 << 30
#: Seconds that must have passed before a hit is written down again: a cached build writes nothing.
TOUCH = 600.0
MAX_SUMS = 20_000
#: Changes whenever a key's meaning changes.
FORMAT = "1"


@dataclass(frozen=True, slots=True)
class Step:
    """A row: what a step made."""

    key: str
    chain_id: str
    parent: str
    diff_id: str
    size: int
    created: str
    used: float
    text: str


def key_of(**parts: Any) -> str:
    """The digest of the parts, which are JSON data."""
    text = json.dumps({"format": FORMAT, **parts}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(os.fsencode(text)).hexdigest()


class Cache:
    """The rows of one database. Thread-safe; several processes may use one at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, key: str) -> Step | None:
        row = self._database.read().execute("SELECT * FROM build_cache WHERE key = ?", (key,)).fetchone()
        return None if row is None else Step(*row)

    def add(self, step: Step, chain: Sequence[str]) -> None:
        """Remember a step; `chain` are all layers up to its own, bottom first, which are pinned."""
        with self._database.write() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO build_cache VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                astuple(step),
            )
            connection.executemany(
                "INSERT OR IGNORE INTO layer_pins (holder, chain_id) VALUES (?, ?)",
                [(holder(step.key), chain_id) for chain_id in chain],
            )

    def touch(self, steps: Iterable[Step], now: float) -> None:
        """The steps were used; nothing is written where that was noted a moment ago."""
        stale = [(now, step.key) for step in steps if now - step.used > TOUCH]
        if stale:
            with self._database.write() as connection:
                connection.executemany("UPDATE build_cache SET used = ? WHERE key = ?", stale)

    def forget(self, key: str) -> None:
        """The step's layer is gone, or is to be made anew."""
        with self._database.write() as connection:
            _forget(connection, [key])

    def sum(self, subject: str, selection: str) -> str:
        """A sum that `keep_sum` kept; empty when there is none."""
        query = "SELECT sum FROM build_sums WHERE subject = ? AND selection = ?"
        row = self._database.read().execute(query, (subject, selection)).fetchone()
        return "" if row is None else str(row[0])

    def keep_sum(self, subject: str, selection: str, value: str) -> None:
        with self._database.write() as connection:
            count = connection.execute("SELECT count(*) FROM build_sums").fetchone()[0]
            if count >= MAX_SUMS:
                connection.execute("DELETE FROM build_sums")
            connection.execute(
                "INSERT OR REPLACE INTO build_sums VALUES (?, ?, ?)", (subject, selection, value)
            )

    def steps(self) -> list[Step]:
        """All rows, the most recently used first."""
        query = "SELECT * FROM build_cache ORDER BY used DESC, rowid"
        return [Step(*row) for row in self._database.read().execute(query)]

    def shared(self) -> set[str]:
        """Chain ids that images have as well: they stay when the cache goes."""
        query = "SELECT DISTINCT chain_id FROM image_layers"
        return {str(row[0]) for row in self._database.read().execute(query)}

    def remove(self, steps: Sequence[Step]) -> None:
        """Forget rows; their layers go with the next collection where nothing else has them."""
        if not steps:
            return
        with self._database.write() as connection:
            _forget(connection, [step.key for step in steps])
            connection.execute(
                "DELETE FROM build_sums WHERE subject LIKE 'sha256:%'"
                " AND subject NOT IN"
                " (SELECT chain_id FROM layer_pins UNION SELECT chain_id FROM image_layers)"
            )


def _forget(connection: sqlite3.Connection, keys: Sequence[str]) -> None:
    connection.executemany("DELETE FROM build_cache WHERE key = ?", [(key,) for key in keys])
    connection.executemany("DELETE FROM layer_pins WHERE holder = ?", [(holder(key),) for key in keys])


def holder(key: str) -> str:
    """Who pins the layers of a step."""
    return f"build/{key}"


def surplus(steps: Sequence[Step], *, limit: int | None, before: float | None = None) -> list[Step]:
    """Which of `steps` (the most recently used first) go, the oldest first: those last used before `before`;
    then as many as it takes for the rest to have at most `limit` bytes. Without either: all.

    A layer counts once. What was made from a step that goes is of no use any more: a step is used whenever
    one made from it is, so that goes first by itself.
    """
    if limit is None and before is None:
        return list(reversed(steps))
    total, seen = 0, set[str]()
    gone = []
    for step in steps:
        size = 0 if step.chain_id in seen else step.size
        if (before is not None and step.used < before) or (limit is not None and total + size > limit):
            gone.append(step)
            continue
        seen.add(step.chain_id)
        total += size
    return list(reversed(gone))
