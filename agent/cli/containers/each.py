"""Effects: one operation on each of several containers, as docker does it: a name a line, errors beside."""

from __future__ import annotations

import sys

from runtime.faults import Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from runtime.paths import Paths


def each(paths: Paths, operation: str, names: Sequence[str], **args: Any) -> int:
    """Each that is done is printed as it was named; the exit code is 1 when one was not."""
    from agent.cli.calling import call
    from runtime import attend

    failed = False
    for name in names:
        try:
            call(paths, operation, name=attend.find(paths, name).name, **args)
        except Fault as fault:
            failed = True
            print(f"stead: {fault}", file=sys.stderr)
        else:
            print(name, flush=True)
    return 1 if failed else 0
