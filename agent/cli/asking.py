"""Effects: a question on the terminal before something goes for good."""

from __future__ import annotations

import sys

from agent.cli.main import Problem


def agreed(what: str) -> bool:
    """Whether the person says yes to the removal of `what`. Problem with code 130 at Ctrl-C."""
    print(f"WARNING! This will remove {what}.")
    print("Are you sure you want to continue? [y/N] ", end="", flush=True)
    try:
        return sys.stdin.readline().strip().lower() in ("y", "yes")
    except KeyboardInterrupt:
        raise Problem("nothing was removed", 130) from None
