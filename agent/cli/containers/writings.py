"""Effects: what the commands about a container's writings have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from agent.cli.images import store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.commit import Writings
    from runtime.paths import Paths
    from runtime.records import ContainerRecord


@contextmanager
def of(name: str, paths: Paths) -> Iterator[tuple[Writings, ContainerRecord]]:
    """The container of this name. Needs root."""
    from runtime.attend import find
    from runtime.commit import Writings
    from runtime.linux import cgroups

    with store.local(paths) as images:
        yield Writings(paths, images, cgroups.detect()), find(paths, name)
