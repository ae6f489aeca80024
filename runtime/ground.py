"""Effects: what of a container is begun before anything else, and who is told when it is there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from runtime.ids import IdRange

#: the network namespace and the cgroup
_PARTS = 2


@dataclass(slots=True)
class Ground:
    """`ids`: its range of ids, if it has one; `named` is set when its network namespace is there, or will not
    be; `network`: its links, too."""

    ids: IdRange | None
    network: Future[None] = field(init=False)
    named: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _laid: int = 0
    _tell: Callable[[], None] | None = None

    def laid(self) -> None:
        """One of the two is there. To be called for each, before who waits for it goes on."""
        with self._lock:
            self._laid += 1
            tell = self._tell if self._laid == _PARTS else None
        if tell is not None:
            tell()

    def when_laid(self, tell: Callable[[], None]) -> None:
        """To be called once both are there, in the thread that made the last of them; never if one could not
        be made. Said while one of them is not there yet."""
        with self._lock:
            self._tell = tell
