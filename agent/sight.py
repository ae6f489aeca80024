"""Effects: what images would be built from now. Looking costs a walk over the context, so it is not done at
every round: again after FRESH seconds, and at once when something may have changed (`forget`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping

from agent import render
from agent.planner.model import Built, Inputs
from runtime.build.request import BuildInputs
from runtime.faults import Fault
from runtime.interface import Runtime
from specs.desired import Desired, DesiredImage

#: seconds for which what was seen is taken for what is
FRESH = 8.0
#: how many differences are told
TOLD = 3


class Sight:
    """Thread-safe."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[float, DesiredImage, BuildInputs | Fault]] = {}
        self._built: dict[str, BuildInputs] = {}  # from which the image that there is was built
        self._stale = False

    def forget(self) -> None:
        """Look anew at the next round."""
        with self._lock:
            self._stale = True

    def inputs(self, wanted: Iterable[Desired], now: float, built: Mapping[str, Built]) -> dict[str, Inputs]:
        """By canonical reference, for every image that is built. `now` is monotonic, in seconds."""
        with self._lock:
            if self._stale:
                self._seen.clear()
                self._stale = False
        found: dict[str, Inputs] = {}
        for desired in wanted:
            for name, image in desired.images.items():
                if image.build is not None and name not in found:
                    found[name] = self._told(name, self._look(name, image, now), built.get(name))
        return found

    def _look(self, name: str, image: DesiredImage, now: float) -> BuildInputs | Fault:
        at, seen, found = self._seen.get(name, (0.0, None, BuildInputs("")))
        if seen == image and now - at < FRESH:
            return found
        try:
            found = self._runtime.build_inputs(render.build_request(image))
        except Fault as fault:
            found = fault
        self._seen[name] = (now, image, found)
        return found

    def _told(self, name: str, found: BuildInputs | Fault, built: Built | None) -> Inputs:
        if isinstance(found, Fault):
            return Inputs(code=found.code, reason=str(found))
        if built is not None and built.key == found.key:
            self._built[name] = found
        before = self._built.get(name)
        known = before is not None and built is not None and before.key == built.key
        return Inputs(found.key, differences(before.parts, found.parts) if before and known else "")


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """`context file app/main.py changed, argument B is new`; empty where nothing is told apart."""
    lines = []
    for part in sorted(before.keys() | after.keys()):
        if before.get(part) != after.get(part):
            what = "is new" if part not in before else "is gone" if part not in after else "changed"
            lines.append(f"{part} {what}")
    more = len(lines) - TOLD
    return ", ".join(lines[:TOLD]) + (f" and {more} more" if more > 0 else "")
