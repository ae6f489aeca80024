"""Effects: end this process by SIGKILL at a named place of the runtime, or write down which places it passes.

A place is a function of the product and one of its two ends: "runtime/linux/mounts.py:unmount call" (nothing
of it is done yet) or "... return" (it is done, and nobody was told). With a number behind it, the nth time.
With an error before it ("ENOSPC runtime/paths.py:write_atomically call 1") nothing ends: the call fails so.
No line of the product knows of this: the interpreter's profiler calls us at each call and return.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType

REPOSITORY = str(Path(__file__).resolve().parents[2]) + "/"
#: what changes the machine, and what is remembered of versions
INSIDE = (REPOSITORY + "runtime/", REPOSITORY + "agent/rollouts.py")


class Bomb:
    """`place` empty: nothing ends, `seen` is filled. The children of the dead are written to `survivors`."""

    def __init__(self, place: str, survivors: Path) -> None:
        self.seen: Counter[str] = Counter()
        first, _, rest = place.partition(" ")
        self._error = getattr(errno, first, 0)
        place = rest if self._error else place
        words = place.rsplit(" ", 1)
        numbered = words[-1].isdigit()
        self._place, self._nth = (words[0], int(words[1])) if numbered else (place, 1)
        self._survivors = survivors
        self._names: dict[CodeType, str] = {}
        self._lock = threading.Lock()

    def arm(self) -> None:
        """From now on, in this thread and in those that begin later."""
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)

    def _profile(self, frame: FrameType, event: str, _argument: object) -> None:
        if event not in ("call", "return"):
            return
        code = frame.f_code
        name = self._names.get(code)
        if name is None:
            inside = code.co_filename.startswith(INSIDE)
            name = f"{code.co_filename.removeprefix(REPOSITORY)}:{code.co_qualname}" if inside else ""
            self._names[code] = name
        if not name:
            return
        place = f"{name} {event}"
        with self._lock:
            self.seen[place] += 1
            if place != self._place or self.seen[place] != self._nth:
                return
            if not self._error:
                self._die()
        raise OSError(self._error, os.strerror(self._error))

    def _die(self) -> None:
        self._survivors.write_text(json.dumps(children(os.getpid())))
        os.kill(os.getpid(), signal.SIGKILL)


def children(pid: int) -> list[int]:
    """Of all of its threads; those that are gone meanwhile are left out."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += [int(word) for word in (task / "children").read_text().split()]
        except OSError:
            continue
    return found
