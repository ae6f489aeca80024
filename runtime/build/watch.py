"""Effects: noting what is looked at, for a glance (runtime.build.glance)."""

from __future__ import annotations

import os
import time
from pathlib import Path

from runtime.build import glance, places
from runtime.paths import write_atomically

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

#: Things that a glance lists at most.
MAX_SEEN = 50_000
#: A thing whose last change is not older than this when it is looked at may change again without its times
#: telling (ns): a tick of the kernel's clock, or a whole second where the file system keeps no finer times.
FINE, COARSE = 50_000_000, 2_000_000_000


def settled(changed: int, began: int) -> bool:
    """Whether a thing that was `changed` then (ns since the epoch) shows every change after `began`."""
    return changed + (FINE if changed % 1_000_000_000 else COARSE) < began


class Watch:
    """What was looked at below one open directory, by its path relative to that."""

    __slots__ = ("seen", "whole")

    def __init__(self) -> None:
        self.seen: dict[str, os.stat_result] = {}
        self.whole = True  # everything that counted was noted

    def way(self, root: int, path: str, start: str) -> None:
        """Note each part of `path`, which led to `start`. What leads through a link is not whole."""
        if places.clean(path) != start:
            self.whole = False
            return
        done = ""
        for part in start.split("/") if start else ():
            done = f"{done}/{part}" if done else part
            status = places.status(root, done)
            if status is None:
                break  # the directory that it would be in tells when it comes
            self.seen[done] = status


class Notes:
    """All that a recipe was looked through for, from `began` on. What was changed a moment before may change
    again without a trace: then nothing is kept."""

    def __init__(self, database: Path) -> None:
        self._began, self._steady = time.time_ns(), True
        self._followed: dict[str, str] = {}
        self._seen: dict[str, str] = {}
        self._database = glance.state_of(str(database), self._note)

    def _note(self, changed: int) -> None:
        self._steady = self._steady and settled(changed, self._began)

    def follow(self, paths: Iterable[str]) -> None:
        """Things by what their paths lead to, whether it is there or not."""
        for path in paths:
            self._followed[path] = glance.stamp_of(path, self._note)

    def add(self, directory: str, watch: Watch) -> None:
        """What was looked at below it."""
        self._steady = self._steady and watch.whole
        self.follow([directory])
        for path, status in watch.seen.items():
            self._note(status.st_ctime_ns)
            self._seen[f"{directory}/{path}"] = glance.stamp(status)

    def keep(self, root: str, said: str, environment: Iterable[str], answer: glance.Answer) -> None:
        """Write the glance of a command, where there can be one. Losing it costs time only."""
        if not self._steady or len(self._seen) > MAX_SEEN:
            return
        lists = [
            [glance.variable(name) for name in environment],
            [text for pair in self._followed.items() for text in pair],
            [text for pair in self._seen.items() for text in pair],
        ]
        noted = str(self._began / 1e9)
        fields = [glance.FORMAT, noted, answer.image, answer.out, answer.err, answer.file]
        fields += (self._database, *(str(len(item)) for item in lists))
        fields += (text for item in lists for text in item)
        data = "\0".join([*fields, glance.END]).encode("utf-8", "surrogateescape")
        try:
            write_atomically(Path(glance.place_of(root, said)), data, durable=False)
        except OSError:
            pass
