"""Effects: what builds that were killed left behind: found by the lock that nobody holds, and taken away.

Mounts and network namespaces go by themselves with the processes that had them; directories, cgroups and rows
of leases do not.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from runtime.build.workspace import DIRECTORY, KEPT, LOCK, SLICE, mark_of
from runtime.faults import faults
from runtime.linux import trees
from runtime.paths import Paths

#: Seconds that a build has between its directory and its lock.
GRACE = 60.0


def dead(paths: Paths) -> list[str]:
    """Ids of builds whose directory is there while nobody holds it."""
    return [id for id in _ids(paths) if not _is_held(paths, id)]


def alive(paths: Paths) -> list[str]:
    """Ids of builds that are under way."""
    return [id for id in _ids(paths) if _is_held(paths, id)]


def sweep(paths: Paths, release: Callable[[str], None]) -> list[str]:
    """Remove what dead builds left. `release` gives back the leases whose ids begin with a mark. Returns what
    was removed."""
    removed = []
    for id in _ids(paths):
        with _taken(paths, id) as is_ours, faults("sweep build", id):
            if is_ours:
                _end_processes(id)
                release(mark_of(id))
                for directory in (paths.run / DIRECTORY / id, paths.root / DIRECTORY / id):
                    trees.remove(directory, ignore_errors=True)
                removed.append(f"build {id}")
    return removed


def _ids(paths: Paths) -> list[str]:
    try:
        return sorted(set(os.listdir(paths.root / DIRECTORY)) - set(KEPT))
    except FileNotFoundError:
        return []


def _is_held(paths: Paths, id: str) -> bool:
    with _taken(paths, id) as is_ours:
        return not is_ours


@contextmanager
def _taken(paths: Paths, id: str) -> Iterator[bool]:
    """Whether nobody has the build. Nobody gets it in the block: one that has made its lock and not taken it
    yet waits for it, and finds what was done (workspace)."""
    directory = paths.root / DIRECTORY / id
    try:
        fd = os.open(directory / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        try:
            young = time.time() - directory.stat().st_mtime < GRACE
        except FileNotFoundError:
            young = True
        yield not young
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        yield False
        return
    try:
        yield True
    finally:
        os.close(fd)


def _end_processes(id: str) -> None:
    from runtime.linux import cgroups

    host = cgroups.detect()
    for name in _of_build(host.children(SLICE), id):
        host.kill(f"{SLICE}/{name}")
        host.remove(f"{SLICE}/{name}")


def _of_build(names: Iterable[str], id: str) -> list[str]:
    return [name for name in names if name.startswith(f"{mark_of(id)}-")]
