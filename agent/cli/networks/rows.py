"""Effects: networks and their leases as the database has them, and which one is meant: cheap to import."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager

from agent.cli.images import rows
from agent.cli.main import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping

    from runtime.net.records import NetworkRecord
    from runtime.paths import Paths

SHORT_ID = 12
#: What stands in the place of a source where nobody declares a network.
UNMANAGED = "unmanaged"


@contextmanager
def reading(paths: Paths) -> Iterator[sqlite3.Connection | None]:
    """The database, or None where there is none yet; nothing is made."""
    import sqlite3

    with rows.reading(paths) as connection:
        if connection is not None:
            connection.row_factory = sqlite3.Row
        yield connection


def networks(connection: sqlite3.Connection | None) -> dict[str, NetworkRecord]:
    from runtime.net.records import read_networks

    return {} if connection is None else read_networks(connection)


def id_of(record: NetworkRecord) -> str:
    """As long as Docker's, and the same as long as the network is there."""
    return hashlib.sha256(f"{record.bridge} {record.name} {record.created}".encode()).hexdigest()


def meant(known: Mapping[str, NetworkRecord], text: str) -> NetworkRecord:
    """By full name, by its last part where that fits one, by id or the beginning of one. Raises Problem."""
    if text in known:
        return known[text]
    fits = [record for name, record in known.items() if name.rpartition("/")[2] == text]
    if not fits and len(text) >= 3:
        fits = [record for record in known.values() if id_of(record).startswith(text)]
    if len(fits) == 1:
        return fits[0]
    if fits:
        names = ", ".join(record.name for record in fits[:5])
        raise Problem(f"cannot tell which network {text!r} is: {names} fit; write the full name")
    there = ", ".join(sorted(known)[:5]) or "none"
    raise Problem(f"there is no network {text} (there: {there})")


def full_name(text: str) -> str:
    """What a network that is made by hand is called: that of the project `default` where none is named."""
    return text if "/" in text else f"default/{text}"
