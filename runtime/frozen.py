"""Effects: the mark of a container that a person paused: run/containers/<id>/paused.

Who commits or backs up freezes a cgroup, too, and leaves no mark: that is nobody's wish, and passes. The mark
is made before the cgroup is frozen and goes before it is thawed (runtime.freezer; runtime.shim.monitor, which
thaws what it is told to end). It does not survive a boot, as a paused container does not.

Whoever freezes one leaves a trace of that beside it: a probe that ran meanwhile may have failed for it.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    StrPath = str | os.PathLike[str]

MARK = "paused"
#: the word of runtime.observations.Phase
PAUSED = "paused"

#: written anew when the container has been frozen, by whomever; runtime.shim.health looks at its time
TRACE = "frozen"


def leave_trace(live: StrPath) -> None:
    """While it is frozen: a probe that begins later is not meant. Of what is going away none is left."""
    path = f"{os.fspath(live)}/{TRACE}"
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        os.utime(path)
    except OSError:
        pass


def is_paused(live: StrPath) -> bool:
    """`live` is the container's directory under run."""
    return os.path.exists(f"{os.fspath(live)}/{MARK}")


def phase(live: StrPath, said: str) -> str:
    """The phase of a container whose shim `said` one."""
    return PAUSED if said == "running" and is_paused(live) else said
