"""Values: what the database says of a container.

Cheap to import: `stead ps` answers from here. The request within a record is decoded by `runtime.requests`.
"""

from __future__ import annotations

import sqlite3

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    from runtime.wishes import ContainerRequest
else:
    from runtime.shim.tuples import NamedTuple

CREATED, RUNNING, STOPPED = "created", "running", "stopped"


class ContainerRecord(NamedTuple):
    """One row of `containers`. `wanted` is created (never started), running or stopped (on request)."""

    id: str
    name: str
    source: str
    project: str
    identity: str
    adjustable: str
    image: str
    image_id: str
    request: str
    wanted: str
    created_at: float

    @classmethod
    def of(cls, id: str, request: ContainerRequest, image_id: str, created_at: float) -> ContainerRecord:
        """Of a container that was never started."""
        from runtime.requests import encode_request

        return cls(
            id=id,
            name=request.name,
            source=request.source,
            project=request.project,
            identity=request.identity,
            adjustable=request.adjustable,
            image=str(request.image),
            image_id=image_id,
            request=encode_request(request),
            wanted=CREATED,
            created_at=created_at,
        )

    def decode(self) -> ContainerRequest:
        from runtime.requests import decode_request

        return decode_request(self.request)


_COLUMNS = ", ".join(ContainerRecord._fields)


def read_containers(connection: sqlite3.Connection) -> list[ContainerRecord]:
    """Every container's record, by name."""
    return [
        ContainerRecord(*row)
        for row in connection.execute(f"SELECT {_COLUMNS} FROM containers ORDER BY name")
    ]


def read_container(connection: sqlite3.Connection, name: str) -> ContainerRecord | None:
    """The record of the container with this full name or id."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM containers WHERE name = ? OR id = ?", (name, name)
    ).fetchone()
    return None if row is None else ContainerRecord(*row)


def insert_container(connection: sqlite3.Connection, record: ContainerRecord) -> None:
    marks = ", ".join("?" for _ in record)
    connection.execute(f"INSERT INTO containers ({_COLUMNS}) VALUES ({marks})", record)


def update_request(connection: sqlite3.Connection, id: str, request: ContainerRequest) -> None:
    from runtime.requests import encode_request

    connection.execute(
        "UPDATE containers SET request = ?, identity = ?, adjustable = ? WHERE id = ?",
        (encode_request(request), request.identity, request.adjustable, id),
    )


def set_wanted(connection: sqlite3.Connection, id: str, wanted: str) -> None:
    connection.execute("UPDATE containers SET wanted = ? WHERE id = ?", (wanted, id))


def rename_container(connection: sqlite3.Connection, id: str, name: str) -> None:
    connection.execute("UPDATE containers SET name = ? WHERE id = ?", (name, id))


def delete_container(connection: sqlite3.Connection, id: str) -> None:
    connection.execute("DELETE FROM containers WHERE id = ?", (id,))
