"""Effects: volumes as commands read and change them, without the rest of the runtime: cheap to import."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field

from agent.cli.images import rows, store
from runtime.volumes.records import Volume, read_claims, read_users, read_volumes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from runtime.paths import Paths
    from runtime.volumes.store import Volumes


@dataclass(frozen=True, slots=True)
class Found:
    """`users`: volume -> containers. `claimed`: anonymous ones that a container has, or will take over."""

    volumes: Sequence[Volume] = ()
    users: Mapping[str, Sequence[str]] = field(default_factory=dict)
    claimed: Mapping[str, str] = field(default_factory=dict)


def read(paths: Paths) -> Found:
    """All at one moment; nothing where there is no state yet. Needs root."""
    with rows.reading(paths) as connection:
        if connection is None:
            return Found()
        connection.execute("BEGIN")
        return Found(read_volumes(connection, paths.volumes), read_users(connection), read_claims(connection))


@contextmanager
def changing(paths: Paths) -> Iterator[Volumes]:
    """For making and removing volumes; the agent, if one runs, looks afterwards. Needs root."""
    from runtime.volumes.store import Volumes

    with rows.catalog(paths) as catalog:
        yield Volumes(paths, catalog.database, time.time)
    store.wake_agent(paths)


def source(volume: Volume) -> str:
    """Who declares it, for people."""
    return volume.source or "unmanaged"
