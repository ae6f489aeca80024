"""Effects: what a pull says of its progress, layer by layer, now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from runtime.images.manifests import Descriptor
from runtime.images.pipeline import Watch
from runtime.interface import Progress, ProgressCallback

INTERVAL = 0.1  # seconds between two reports of the same about one layer


class Meter(Watch):
    """Passes the progress of one pull on. Thread-safe; the callback is called from any thread."""

    def __init__(self, subject: str, callback: ProgressCallback | None) -> None:
        self._subject, self._callback = subject, callback
        self._next: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    def expect(self, layers: Sequence[Descriptor], missing: Sequence[Descriptor]) -> None:
        wanted = {layer.digest for layer in missing}
        for layer in layers:
            self._tell("wait" if layer.digest in wanted else "exists", layer, 0)

    def downloading(self, layer: Descriptor, done: int) -> None:
        self._report("download", layer, done)

    def extracting(self, layer: Descriptor, done: int) -> None:
        self._report("extract", layer, done)

    def ready(self, layer: Descriptor) -> None:
        self._tell("ready", layer, layer.size)

    def _report(self, what: str, layer: Descriptor, done: int) -> None:
        if self._callback is None:
            return
        with self._lock:
            now, key = time.monotonic(), (what, layer.digest)
            if now < self._next.get(key, 0.0) and done < layer.size:
                return
            self._next[key] = now + INTERVAL
        self._tell(what, layer, done)

    def _tell(self, what: str, layer: Descriptor, done: int) -> None:
        if self._callback is not None:
            self._callback(Progress(self._subject, what, done, layer.size, layer.digest))
