"""Effects: the store's rows and files for commands that neither pull nor run anything: cheap to import."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager

from agent.cli.main import need_root
from runtime.database import VERSION, Database, connect, from_sqlite

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.images.catalog import Catalog
    from runtime.images.collect import Collector
    from runtime.paths import Paths


@contextmanager
def reading(paths: Paths) -> Iterator[sqlite3.Connection | None]:
    """The database, or None where there is none yet; nothing is made. Rows are plain tuples."""
    need_root()
    if not paths.database.exists():
        yield None
        return
    try:
        with closing(connect(paths.database, readonly=True)) as connection:
            if _version(connection) != VERSION:
                _open_once(paths)
            connection.row_factory = None
            yield connection
    except sqlite3.Error as error:
        raise from_sqlite(error, "read", str(paths.database)) from error


@contextmanager
def catalog(paths: Paths) -> Iterator[Catalog]:
    """For looking up names and changing them."""
    from runtime.images.catalog import Catalog

    need_root()
    if not paths.database.exists():
        _open_once(paths)
    with closing(connect(paths.database)) as connection:
        current = _version(connection) == VERSION
    if not current:
        _open_once(paths)
    with closing(Database(paths.database)) as database:
        yield Catalog(database)


@contextmanager
def removing(paths: Paths) -> Iterator[Collector]:
    """For taking images away."""
    from runtime.images.blobs import BlobStore
    from runtime.images.collect import Collector
    from runtime.images.layers import LayerStore

    with catalog(paths) as found:
        yield Collector(paths, found, BlobStore(paths.blobs), LayerStore(paths.layers))


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _open_once(paths: Paths) -> None:
    """Have the whole runtime make the database, or bring one of an older release to this one's layout."""
    from runtime.local import LocalRuntime

    LocalRuntime(paths).close()
