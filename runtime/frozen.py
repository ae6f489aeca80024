"""Values: the mark of a container that a person paused: run/containers/<id>/paused.

Who commits or backs up freezes a cgroup, too, and leaves no mark: that is nobody's wish and passes. The mark
is made before the cgroup is frozen and goes before it is thawed (runtime.shim.monitor thaws what it is told
to end); it does not survive a boot, as a paused container does not.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

MARK = "paused"
PAUSED = "paused"  # the word of runtime.observations.Phase


def is_paused(live: Path) -> bool:
    """`live` is the container's directory under run."""
    return os.path.exists(f"{live}/{MARK}")


def phase(live: Path, said: str) -> str:
    """The phase of a container whose shim `said` one."""
    return PAUSED if said == "running" and is_paused(live) else said


def who(live: Path) -> dict[str, str]:
    """What the mark says: by (who), at (seconds since the epoch, as text); empty where there is none."""
    try:
        found = json.loads(Path(live, MARK).read_bytes() or b"{}")
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
