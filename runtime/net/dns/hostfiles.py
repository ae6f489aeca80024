"""Effects: hear at once when a file of the host changes, in whatever way that is done. inotify(7).

Programs rewrite /etc/resolv.conf in place, rename another file over it, or switch a link on the way to it,
and what that leads to may not be there yet. So each directory on the way is watched for the next name, and
the file itself for being written; after each event the way is looked at anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from runtime.linux import inotify

_ENTRIES = (
    inotify.IN_CREATE
    | inotify.IN_MOVED_TO
    | inotify.IN_MOVED_FROM
    | inotify.IN_DELETE
    | inotify.IN_DELETE_SELF
    | inotify.IN_MOVE_SELF
    | inotify.IN_ONLYDIR
)
_CONTENTS = inotify.IN_MODIFY | inotify.IN_CLOSE_WRITE
#: Links that are followed on one way: path_resolution(7).
MAX_LINKS = 40


class HostFiles:
    """`fd` is readable when something may have changed."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = tuple(paths)
        self.fd = inotify.open_inotify()
        self._names: dict[int, set[str]] = {}  # watch -> names that count in that directory; none: a file
        self._look()

    def close(self) -> None:
        os.close(self.fd)

    def drain(self) -> bool:
        """Whether anything happened to one of the files or on the way to it."""
        changed = False
        while events := inotify.read_events(self.fd):
            changed = changed or any(self._counts(*event) for event in events)
        if changed:
            self._look()
        return changed

    def _counts(self, watch: int, mask: int, name: str) -> bool:
        if mask & inotify.IN_Q_OVERFLOW:
            return True
        names = self._names.get(watch)
        return names is not None and (not name or name in names)

    def _look(self) -> None:
        """Watch the ways as they are now. Watching what is watched already changes nothing."""
        before, self._names = self._names, {}
        for path in self._paths:
            for directory, name in way(path):
                self._add(directory, _ENTRIES, name)
            self._add(path, _CONTENTS, "")
        for watch in before.keys() - self._names.keys():
            try:
                inotify.remove_watch(self.fd, watch)
            except OSError:
                pass  # it went by itself, with what it watched

    def _add(self, path: str, mask: int, name: str) -> None:
        try:
            names = self._names.setdefault(inotify.add_watch(self.fd, path, mask), set())
        except OSError:
            return  # not there, not ours to see, or no watches are left: the look at its status remains
        if name:
            names.add(name)


def way(path: str) -> Iterator[tuple[str, str]]:
    """(directory, name) of each step from the root to what `path`, which is absolute, leads to; as far as it
    goes when something is missing."""
    steps, at, links = path.split("/")[::-1], "/", 0
    while steps:
        name = steps.pop()
        if name in ("", "."):
            continue
        if name == "..":
            at = os.path.dirname(at)
            continue
        yield at, name
        here = os.path.join(at, name)
        try:
            target = os.readlink(here)
        except FileNotFoundError:
            return
        except OSError:  # no link
            at = here
            continue
        links += 1
        if links > MAX_LINKS:
            return
        at = "/" if target.startswith("/") else at
        steps += target.split("/")[::-1]
