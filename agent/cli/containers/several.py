"""Effects: one operation on several containers side by side: each name is printed, each failure said."""

from __future__ import annotations

import sys

from agent.cli import calling
from agent.cli.main import Problem
from runtime.faults import Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from runtime.paths import Paths


def each(paths: Paths, op: str, names: Sequence[str], **args: Any) -> int:
    """Exit code 1 when one of them failed; the others are done all the same."""
    answers = calling.call(paths, "each", op=op, names=list(names), args=args)
    failed = False
    for answer in answers:
        name = answer["name"]
        if refused := answer.get("fault"):
            print(f"stead: {Fault(**refused)}", file=sys.stderr)
            failed = True
        elif answer["result"] == {}:  # nothing was there to be done, and that is well
            print(f"stead: there is no container {name}", file=sys.stderr)
        else:
            print(name)
    return int(failed)


def seconds(text: str | None) -> float | None:
    """Of --timeout. Raises Problem."""
    try:
        found = None if text is None else float(int(text))
    except ValueError:
        found = -1.0
    if found is not None and found < 0:
        raise Problem(f"cannot read timeout {text!r}: write seconds", 2)
    return found
