"""Effects: the build cache made smaller: steps that were not used for long, and caches of RUN --mount."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from runtime.build.cache import LIMIT, Cache, Step, surplus
from runtime.build.workspace import DIRECTORY
from runtime.linux import trees
from runtime.paths import Paths

#: The part of the file system that the cache may have: with LIMIT, the smaller of both.
PART = 0.1


def limit_of(paths: Paths) -> int:
    """Bytes that the cache keeps when nobody says how many."""
    found = os.statvfs(paths.root)
    return min(LIMIT, int(found.f_blocks * found.f_frsize * PART))


def shrink(paths: Paths, cache: Cache) -> list[Step]:
    """Forget the steps that were not used for the longest time, until the rest keeps to the limit. Their
    layers go with the next collection."""
    shared = cache.shared()
    steps = [step for step in cache.steps() if step.chain_id not in shared]
    gone = surplus(steps, limit=limit_of(paths))
    cache.remove(gone)
    return gone


def prune(
    paths: Paths, cache: Cache, *, limit: int | None = None, before: float | None = None
) -> tuple[list[Step], list[str]]:
    """Forget steps: those last used before `before` (seconds since the epoch), and as many as it takes for
    the rest to have at most `limit` bytes; without either all of them. Mount caches go by the same times,
    unless a step has them now. Returns the steps, and the names of the mount caches."""
    # Files first: on a disk that is full to its last byte the database takes no word, not even of a removal.
    mounts: list[str] = []
    if limit is None:
        mounts = _mounts(paths.root / DIRECTORY / "cache", before)
        _mounts(paths.root / DIRECTORY / "git", before)
        if before is None:
            for name in ("sums", "recipes"):
                trees.remove(paths.root / DIRECTORY / name, ignore_errors=True)
    gone = surplus(cache.steps(), limit=limit, before=before)
    cache.remove(gone)
    return gone, mounts


def _mounts(parent: Path, before: float | None) -> list[str]:
    removed = []
    for name in sorted(os.listdir(parent)) if parent.is_dir() else ():
        place = parent / name
        if before is not None and place.stat().st_mtime >= before:
            continue
        if _alone(place, lambda place=place: trees.remove(place, ignore_errors=True)):  # type: ignore[misc]
            removed.append(name)
    return removed


def _alone(place: Path, action: Callable[[], None]) -> bool:
    """Do it while no step has the cache; whether it was done."""
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        action()
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def total(steps: Sequence[Step]) -> int:
    """Bytes of their layers, each counted once."""
    return sum({step.chain_id: step.size for step in steps}.values())
