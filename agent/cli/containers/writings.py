"""Effects: what the commands about a container's writings have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from agent.cli.images import store

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.commit import Writings
    from runtime.paths import Paths
    from runtime.records import ContainerRecord


@contextmanager
def of(options: argparse.Namespace, paths: Paths) -> Iterator[tuple[Writings, ContainerRecord]]:
    """The container that `options.name` names. Needs root."""
    from runtime.attend import find
    from runtime.commit import Writings
    from runtime.linux import cgroups

    with store.opened(options, paths) as runtime:
        yield Writings(paths, runtime.images, cgroups.detect()), find(paths, options.name)
