"""Effects: resource limits of this process. getrlimit(2)."""

from __future__ import annotations

import errno
import resource

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any


def apply(limits: Sequence[Mapping[str, Any]]) -> None:
    """OCI rlimits ({type, soft, hard}; -1 or 2^64-1: unlimited). OSError(EPERM) names one that is above our
    own
    hard limit where CAP_SYS_RESOURCE is missing, EINVAL one that the kernel does not know or soft > hard."""
    for limit in limits:
        name = str(limit["type"])
        number = getattr(resource, name, None)
        if number is None:
            raise OSError(errno.EINVAL, "set ulimit: no such limit", name)
        soft, hard = (_value(limit[key]) for key in ("soft", "hard"))
        try:
            resource.setrlimit(number, (soft, hard))
        except ValueError as error:
            own = resource.getrlimit(number)[1]
            above = hard == resource.RLIM_INFINITY or 0 <= own < hard
            text = f"{hard} is above the host's hard limit {own}" if above else str(error)
            raise OSError(errno.EPERM if above else errno.EINVAL, f"set ulimit: {text}", name) from None


def _value(number: int) -> int:
    return resource.RLIM_INFINITY if number < 0 or number >= 2**63 else number
