"""Effects: a range of user and group ids of the host for each container that has ids of its own.

subuid(5), subgid(5). A range is recorded before it is used and is one container's until that is removed: two
never have an id in common. On disk nothing belongs to these ids (runtime.linux.idmapped), so that a range
which another container had before means nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.database import Database
from runtime.faults import Fault

IDS_SCHEMA = """
CREATE TABLE IF NOT EXISTS id_ranges (
    container   TEXT PRIMARY KEY,
    first       INTEGER NOT NULL,
    size        INTEGER NOT NULL
) STRICT;
"""
#: Whose ranges are given out where the settings name nobody: the first of them that has some.
OWNERS = ("stead", "root")
SUBUID, SUBGID = Path("/etc/subuid"), Path("/etc/subgid")
_MAX_TEXT = 1 << 20
_MAX_ID = 2**32 - 2

Span = tuple[int, int]  # first id, first one behind


@dataclass(frozen=True, slots=True)
class IdRange:
    """`size` ids of the host from `first` on, which are 0 and so on in a container."""

    first: int
    size: int

    @property
    def mappings(self) -> list[Mapping[str, int]]:
        """As in config.json: uidMappings and gidMappings are the same."""
        return [{"containerID": 0, "hostID": self.first, "size": self.size}]


def read_spans(text: str, owners: Iterable[str]) -> list[Span]:
    """The ranges of the first of `owners` that has any, in the text of /etc/subuid or /etc/subgid; what is no
    line of it is left out. Pure."""
    for owner in owners:
        found = []
        for line in text.split("\n"):
            name, *numbers = line.strip().split(":")
            if (
                name == owner
                and len(numbers) == 2
                and all(word.isascii() and word.isdecimal() for word in numbers)
            ):
                first, count = (int(word[:11]) for word in numbers)
                if count and first and first + count - 1 <= _MAX_ID:  # 0 is root
                    found.append((first, first + count))
        if found:
            return sorted(found)
    return []


def first_free(uids: Sequence[Span], gids: Sequence[Span], taken: Iterable[Span], size: int) -> int | None:
    """The lowest id from which on `size` ids are in one range of users and in one of groups, and nobody's.
    Pure."""
    both = [
        (max(one[0], other[0]), min(one[1], other[1]))
        for one in uids
        for other in gids
        if max(one[0], other[0]) < min(one[1], other[1])
    ]
    used = sorted(taken)
    for begin, end in sorted(both):
        at = begin
        for first, behind in used:
            if behind <= at:
                continue
            if first >= at + size:
                break
            at = behind
        if at + size <= end:
            return at
    return None


class Ids:
    """Thread-safe. `owner` has the ranges; empty: one of OWNERS."""

    def __init__(
        self, database: Database, owner: str = "", subuid: Path = SUBUID, subgid: Path = SUBGID
    ) -> None:
        self._database = database
        self._owners = (owner,) if owner else OWNERS
        self._files = (subuid, subgid)

    def give(self, id: str, name: str, size: int) -> IdRange:
        """The range of container `id`, which is called `name`; a new one where it has none of that size.
        Repeatable. Fault ids-exhausted."""
        with self._database.write(durable=False) as connection:
            have = _read(connection, id)
            if have is not None and have.size == size:
                return have
            connection.execute("DELETE FROM id_ranges WHERE container = ?", (id,))
            rows = connection.execute("SELECT first, size FROM id_ranges").fetchall()
            uids, gids = (read_spans(_text(file), self._owners) for file in self._files)
            taken = [(row["first"], row["first"] + row["size"]) for row in rows]
            first = first_free(uids, gids, taken, size)
            if first is None:
                raise self._exhausted(name, size, bool(uids and gids))
            connection.execute("INSERT INTO id_ranges VALUES (?, ?, ?)", (id, first, size))
            return IdRange(first, size)

    def get(self, id: str) -> IdRange | None:
        return _read(self._database.read(), id)

    def release(self, connection: sqlite3.Connection, id: str) -> None:
        """Its container is gone."""
        connection.execute("DELETE FROM id_ranges WHERE container = ?", (id,))

    def _exhausted(self, name: str, size: int, there: bool) -> Fault:
        files, who = " and ".join(map(str, self._files)), " or ".join(self._owners)
        cause = f"{files} have no {size} free ids of {who}" if there else f"{files} have no ids for {who}"
        line = f"{self._owners[0]}:1000000:{max(size, 65536) * 100}"
        return Fault("ids-exhausted", "give ids to container", name, cause, f"add {line} to both files")


def _read(connection: sqlite3.Connection, id: str) -> IdRange | None:
    row = connection.execute("SELECT first, size FROM id_ranges WHERE container = ?", (id,)).fetchone()
    return None if row is None else IdRange(row["first"], row["size"])


def _text(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_TEXT).decode(errors="replace")
    except OSError:
        return ""
