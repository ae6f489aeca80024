"""Effects: a builder for one command: settings, registries and networks are read when a step asks for
them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from agent.cli.images import rows
from runtime.build.builder import Builder

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.local import LocalRuntime
    from runtime.paths import Paths


class _Runtime:
    """The whole runtime, opened at most once, by whichever thread of the build wants it first."""

    def __init__(self, options: argparse.Namespace, paths: Paths) -> None:
        self._options, self._paths = options, paths
        self._lock = threading.Lock()
        self._open: LocalRuntime | None = None

    def get(self) -> LocalRuntime:
        from agent.cli import specs
        from agent.machine import open_runtime

        with self._lock:
            if self._open is None:
                self._open = open_runtime(self._paths, specs.settings_of(self._options))
            return self._open

    def close(self) -> None:
        if self._open is not None:
            self._open.close()


@contextmanager
def opened(options: argparse.Namespace, paths: Paths) -> Iterator[Builder]:
    """Needs root."""
    runtime = _Runtime(options, paths)
    with rows.catalog(paths) as catalog:
        try:
            yield Builder(paths, catalog.database, lambda: runtime.get().images, lambda: runtime.get().fabric)
        finally:
            runtime.close()
