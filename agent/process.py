"""Effects: the agent as a process: which release it is, and what it has loaded."""

from __future__ import annotations

import gc

from agent import __version__

#: objects more than before, before the garbage collector looks for circles among the young ones
YOUNG = 20_000


def release() -> str:
    return __version__


def settle() -> None:
    """What is loaded by now stays for as long as the process lives: the garbage collector looks at it no more
    (gc.freeze), which is a twentieth of the time of a start; at what comes later, when there is more of it
    than one action makes. To be called once."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG)
