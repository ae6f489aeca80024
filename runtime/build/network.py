"""Effects: the networks that RUN steps have: none, the host's, or an address of their own behind a bridge."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime.build.workspace import Workspace
from runtime.paths import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.net.fabric import Fabric


@dataclass(frozen=True, slots=True)
class StepNetwork:
    """`path` is host, none, or a bound network namespace with `addresses` and a `gateway`."""

    path: str
    addresses: tuple[str, ...] = ()
    gateway: str = ""


class Networks:
    """Of one build. Thread-safe. To be closed."""

    def __init__(self, work: Workspace, paths: Paths, fabric: Callable[[], Fabric]) -> None:
        self._work, self._paths, self._fabric = work, paths, fabric
        self._lock = threading.Lock()
        self._idle: list[tuple[Path, StepNetwork]] = []

    @contextmanager
    def of(self, mode: str) -> Iterator[StepNetwork]:
        """The network of one step: `default`, `none` or `host`."""
        if mode in ("none", "host"):
            yield StepNetwork(mode)
            return
        yield StepNetwork("host")

    def close(self) -> None:
        """Nothing of the networks stays."""
