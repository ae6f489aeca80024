"""Effects: what is known of a container's restarts before its next start, as its last shim left it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runtime.linux.regular import read_regular
from runtime.shim import client

#: A file of a container's directory, written by its shim.
RESTARTS = "restarts.json"


@dataclass(frozen=True, slots=True)
class Restarts:
    """`reasons`: restarts since the container was created, by supervise.REASONS; the others as in
    supervise.RestartMemory."""

    reasons: Mapping[str, int] = field(default_factory=dict)
    streak: int = 0
    attempts: int = 0


NO_RESTARTS = Restarts()


def read(live: Path, home: Path, *, goes_on: bool) -> Restarts:
    """The counts that a start begins with. `goes_on`: nobody stopped it and it did not end, its shim was lost
    with its machine or alone; then the streak goes on too, and is none of a new start's else.

    The live record is gone after a stop and after a power cut, the exit record is there after an end only;
    RESTARTS is there from the first restart after a start on, and supervise.json says what that began with.
    """
    for state in (client.read_state(live), client.read_exit(home)):
        if state is not None:
            found = Restarts(state.restart_reasons, state.streak, state.attempts)
            break
    else:
        found = _document(home / RESTARTS) or _document(home / "supervise.json") or NO_RESTARTS
    return found if goes_on else Restarts(found.reasons)


def _document(path: Path) -> Restarts | None:
    try:
        document = json.loads(read_regular(path))
        reasons = {str(reason): int(count) for reason, count in document["restart_reasons"].items()}
        return Restarts(reasons, int(document.get("streak") or 0), int(document.get("attempts") or 0))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
