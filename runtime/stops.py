"""Effects: which declared containers a person stopped: they stay stopped until a person starts them.

Kept by name: one that replaces a stopped container is stopped as well. What no source declares needs none of
this: nobody but people starts it. The table `hand_stops` is in runtime.database.
"""

from __future__ import annotations

import sqlite3

from runtime.observations import HandStop


def read_stops(connection: sqlite3.Connection) -> dict[str, HandStop]:
    """By the full name of the container, which may not be there."""
    query = "SELECT container, at, who, terminal, reason FROM hand_stops ORDER BY container"
    return {row[0]: HandStop(*tuple(row)[1:]) for row in connection.execute(query)}


def write_stop(connection: sqlite3.Connection, container: str, stop: HandStop) -> None:
    """The newest one holds."""
    connection.execute(
        "INSERT OR REPLACE INTO hand_stops VALUES (?, ?, ?, ?, ?)",
        (container, stop.at, stop.who, stop.terminal, stop.reason),
    )


def forget_stop(connection: sqlite3.Connection, container: str) -> bool:
    """Whether there was one."""
    return connection.execute("DELETE FROM hand_stops WHERE container = ?", (container,)).rowcount > 0
