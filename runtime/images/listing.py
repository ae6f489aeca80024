"""Values: the images of a store as lists, removal and collection look at them, all read at once.

Cheap to import: `stead image ls` answers from here.
"""

from __future__ import annotations

from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3


#: Images of containers, and those that they mount.
_CONTAINERS = """
SELECT image_id, name FROM containers
UNION SELECT m.image_id, c.name FROM mounted_images m JOIN containers c ON c.id = m.container
ORDER BY 2
"""


@dataclass(frozen=True, slots=True)
class Listed:
    """One image and all that refers to it. `tags` are its names `host/repository:tag`, `digests` those
    `host/repository@digest` by which it was pulled; `containers` are names of containers made from it,
    or that mount it, running or not; `children` are ids of images that were made from it. Times are seconds
    since the epoch, 0 unknown; `size` is the bytes of the unpacked layers, `chain` their chain ids, bottom
    first.
    """

    id: str
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    created: str = ""  # as the config has it, RFC 3339
    platform: str = ""
    size: int = 0
    parent: str = ""
    added: float = 0.0
    used: float = 0.0  # when a container or a name last meant it
    chain: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()
    children: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return self.tags + self.digests

    @property
    def busy(self) -> bool:
        """Something else stands or falls with it."""
        return bool(self.containers or self.children)


@dataclass(frozen=True, slots=True)
class LayerSizes:
    """Bytes on disk of a layer: its directory's files, and the archive it came from (0: none is kept)."""

    unpacked: int
    archive: int = 0
    pinned: bool = False  # the build cache needs it, too

    @property
    def total(self) -> int:
        return self.unpacked + self.archive


def read_images(connection: sqlite3.Connection, id: str = "") -> list[Listed]:
    """Every image, or the one with this id, newest first (by its own word, which may be empty)."""
    where, values = (" WHERE id = ?", (id,)) if id else ("", ())
    names = _names(connection)
    chains = _grouped(connection, "SELECT image, chain_id FROM image_layers ORDER BY image, position")
    containers = _grouped(connection, _CONTAINERS)
    children = _grouped(connection, "SELECT parent, id FROM images WHERE parent <> '' ORDER BY id")
    rows = connection.execute(
        "SELECT id, created, platform, size, parent, added, used FROM images"
        f"{where} ORDER BY created DESC, id",
        values,
    )
    return [
        Listed(
            id=row[0],
            tags=tuple(name for name in names.get(row[0], ()) if "@" not in name),
            digests=tuple(name for name in names.get(row[0], ()) if "@" in name),
            created=row[1],
            platform=row[2],
            size=row[3],
            parent=row[4],
            added=row[5],
            used=row[6],
            chain=tuple(chains.get(row[0], ())),
            containers=tuple(containers.get(row[0], ())),
            children=tuple(children.get(row[0], ())),
        )
        for row in rows
    ]


def _grouped(connection: sqlite3.Connection, query: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, value in connection.execute(query):
        found.setdefault(key, []).append(value)
    return found


def _names(connection: sqlite3.Connection) -> dict[str, list[str]]:
    """By image; a tag that was pulled stands for the digest that it was pulled by, too."""
    found: dict[str, dict[str, None]] = {}
    for reference, image, digest in connection.execute(
        "SELECT reference, image, digest FROM image_names ORDER BY reference"
    ):
        given = found.setdefault(image, {})
        given[reference] = None
        if digest and "@" not in reference:
            given[f"{reference.rpartition(':')[0]}@{digest}"] = None
    return {image: sorted(given) for image, given in found.items()}


def read_layers(connection: sqlite3.Connection) -> dict[str, int]:
    """Bytes of each unpacked layer by chain id."""
    return dict(connection.execute("SELECT chain_id, size FROM layers").fetchall())
