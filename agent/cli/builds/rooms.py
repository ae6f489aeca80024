"""Effects: a builder for one command: what it needs of the machine is loaded when a step asks for it.

A build that pulls nothing reads no registry settings; of the rest a RUN with a network wants the pool alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.cli.images import rows
from runtime.build.builder import Builder

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.database import Database
    from runtime.images.store import ImageStore
    from runtime.net.fabric import Fabric
    from runtime.paths import Paths

DEFAULT_SETTINGS = Path("/etc/stead/stead.toml")


class _Rooms:
    """Each opened at most once, by whichever thread of the build wants it first."""

    def __init__(self, options: argparse.Namespace, paths: Paths, database: Database) -> None:
        self._options, self._paths, self._database = options, paths, database
        self._store_lock, self._fabric_lock = threading.Lock(), threading.Lock()
        self._store: ImageStore | None = None
        self._fabric: Fabric | None = None

    def store(self) -> ImageStore:
        from agent.cli import specs
        from agent.machine import open_runtime

        with self._store_lock:
            if self._store is None:
                self._runtime = open_runtime(self._paths, specs.settings_of(self._options))
                self._store = self._runtime.images
            return self._store

    def fabric(self) -> Fabric:
        from runtime.net.fabric import DEFAULT_POOL, Fabric

        with self._fabric_lock:
            if self._fabric is None:
                self._fabric = Fabric(self._paths, self._database, pool=self._pool() or DEFAULT_POOL)
            return self._fabric

    def _pool(self) -> str:
        """Of the settings; they are checked only where more of them counts, which takes longer than a
        step."""
        import tomllib

        path = Path(self._options.settings or DEFAULT_SETTINGS)
        try:
            return str(tomllib.loads(path.read_text())["network"]["pool"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def close(self) -> None:
        if self._store is not None:
            self._runtime.close()


@contextmanager
def opened(options: argparse.Namespace, paths: Paths) -> Iterator[Builder]:
    """Needs root."""
    with rows.catalog(paths) as catalog:
        rooms = _Rooms(options, paths, catalog.database)
        try:
            yield Builder(paths, catalog.database, rooms.store, rooms.fabric)
        finally:
            rooms.close()
