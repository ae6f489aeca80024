"""Effects: what images would be built from now. Looking costs a walk over the context, so it is not done at
every round: again after FRESH seconds, and at once when something may have changed (`forget`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from agent import render
from agent.planner.model import Inputs
from runtime.faults import Fault
from runtime.interface import Runtime
from specs.desired import Desired, DesiredImage

#: seconds for which what was seen is taken for what is
FRESH = 8.0


class Sight:
    """Thread-safe."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[float, DesiredImage, Inputs]] = {}
        self._stale = False

    def forget(self) -> None:
        """Look anew at the next round."""
        with self._lock:
            self._stale = True

    def inputs(self, wanted: Iterable[Desired], now: float) -> dict[str, Inputs]:
        """By canonical reference, for every image that is built. `now` is monotonic, in seconds."""
        with self._lock:
            if self._stale:
                self._seen.clear()
                self._stale = False
        found: dict[str, Inputs] = {}
        for desired in wanted:
            for name, image in desired.images.items():
                if image.build is not None and name not in found:
                    found[name] = self._one(name, image, now)
        return found

    def _one(self, name: str, image: DesiredImage, now: float) -> Inputs:
        at, seen, inputs = self._seen.get(name, (0.0, None, Inputs()))
        if seen == image and now - at < FRESH:
            return inputs
        try:
            inputs = Inputs(self._runtime.build_key(render.build_request(image)))
        except Fault as fault:
            inputs = Inputs(code=fault.code, reason=str(fault))
        self._seen[name] = (now, image, inputs)
        return inputs
