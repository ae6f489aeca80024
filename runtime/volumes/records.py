"""Values: what the database says of volumes, and which containers use them.

Cheap to import: `stead volume ls` answers from here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runtime.volumes.fates import FATES_SCHEMA

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

#: `anonymous_volumes` outlives a container that is replaced: its successor of the same name takes them over.
VOLUMES_SCHEMA = f"""{FATES_SCHEMA}
CREATE TABLE IF NOT EXISTS volumes (
    name        TEXT PRIMARY KEY,
    source      TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    labels      TEXT NOT NULL,
    filled      INTEGER NOT NULL DEFAULT 0,
    options     TEXT NOT NULL DEFAULT '{{}}',
    keep        INTEGER NOT NULL DEFAULT 0,
    anonymous   INTEGER NOT NULL DEFAULT 0,
    created     REAL NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS anonymous_volumes (
    container   TEXT NOT NULL,
    target      TEXT NOT NULL,
    volume      TEXT NOT NULL,
    PRIMARY KEY (container, target)
) STRICT;
"""

_COLUMNS = "name, source, fingerprint, labels, filled, options, keep, anonymous, created"


@dataclass(frozen=True, slots=True)
class Volume:
    """A named volume. `path` is what containers see; `filled`: it never gets an image's content any more.

    `source` is empty where a person made it; `anonymous`: a container made it for a path of its own;
    `created` is in seconds since the epoch.
    """

    name: str
    source: str
    fingerprint: str
    path: Path
    filled: bool
    labels: Mapping[str, str]
    options: Mapping[str, str]
    keep: bool = False
    anonymous: bool = False
    created: float = 0.0

    @property
    def home(self) -> Path:
        """The directory that holds all of the volume."""
        return self.path.parent


def data_path(directory: Path, name: str) -> Path:
    """Volumes without a project lie beside the projects, where no project can lie."""
    return directory.joinpath(*(name.split("/") if "/" in name else ("_", name)), "_data")


def read_volumes(connection: sqlite3.Connection, directory: Path) -> list[Volume]:
    """Every volume, by name; `directory` is Paths.volumes."""
    query = f"SELECT {_COLUMNS} FROM volumes ORDER BY name"
    return [_volume(row, directory) for row in connection.execute(query)]


def read_volume(connection: sqlite3.Connection, directory: Path, name: str) -> Volume | None:
    row = connection.execute(f"SELECT {_COLUMNS} FROM volumes WHERE name = ?", (name,)).fetchone()
    return None if row is None else _volume(row, directory)


def _volume(row: sqlite3.Row, directory: Path) -> Volume:
    name, source, fingerprint, labels, filled, options, keep, anonymous, created = tuple(row)
    return Volume(
        name,
        source,
        fingerprint,
        data_path(directory, name),
        bool(filled),
        json.loads(labels),
        json.loads(options),
        bool(keep),
        bool(anonymous),
        created,
    )


def read_anonymous(connection: sqlite3.Connection, container: str) -> dict[str, str]:
    """target -> volume, of one container's full name."""
    query = "SELECT target, volume FROM anonymous_volumes WHERE container = ?"
    return {row[0]: row[1] for row in connection.execute(query, (container,))}


def read_claims(connection: sqlite3.Connection) -> dict[str, str]:
    """anonymous volume -> the container whose it is; there is none while that is being replaced."""
    return {row[0]: row[1] for row in connection.execute("SELECT volume, container FROM anonymous_volumes")}


def read_users(connection: sqlite3.Connection) -> dict[str, list[str]]:
    """volume -> the containers that mount it, running or not, by name."""
    found: dict[str, set[str]] = {}
    containers = set()
    for container, request in connection.execute("SELECT name, request FROM containers"):
        containers.add(container)
        for mount in json.loads(request).get("mounts") or ():
            if mount.get("kind") == "volume" and mount.get("source"):
                found.setdefault(str(mount["source"]), set()).add(container)
    for name, container in read_claims(connection).items():
        if container in containers:
            found.setdefault(name, set()).add(container)
    return {name: sorted(users) for name, users in found.items()}
