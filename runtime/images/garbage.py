"""Decisions: which images go by themselves, in which order, and why.

Nothing that a container, the caller's `keep`, or an image made from it needs. First what has had no name and
no use for a while; then, when the disk is fuller than the high water mark, the least recently used, those
without a name first, until it would be at the low water mark. What came a moment ago stays in any case:
whoever brought it is about to use it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from runtime.images.listing import LayerSizes, Listed

SPARE = 600.0  # seconds since an image was brought or used, in which it stays whatever the disk says


@dataclass(frozen=True, slots=True)
class Limits:
    """`high` and `low` are parts of the disk in use, 0 to 1. `keep_for` is how long, in seconds, an image
    without a tag stays after its last use; `unused_for` the same for one with tags, 0: as long as there is
    room."""

    high: float = 0.85
    low: float = 0.80
    keep_for: float = 7 * 86400.0
    unused_for: float = 0.0


LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes of the file system that the store is on: all of them, and those free for us."""

    total: int
    free: int

    @property
    def used(self) -> float:
        """The part in use, 0 to 1."""
        return 1 - self.free / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class Removed:
    """An image that goes or went: its names, the bytes that this frees, and one clause why."""

    image: str
    names: tuple[str, ...]
    size: int
    reason: str


class _Count:
    """How many images need each layer, while some of them go."""

    def __init__(self, images: Sequence[Listed], layers: Mapping[str, LayerSizes]) -> None:
        self._users = Counter(chain_id for image in images for chain_id in image.chain)
        self._layers = layers

    def remove(self, image: Listed) -> int:
        """Bytes that become free."""
        freed = 0
        for chain_id in image.chain:
            self._users[chain_id] -= 1
            layer = self._layers.get(chain_id)
            if layer is not None and not self._users[chain_id] and not layer.pinned:
                freed += layer.total
        return freed


def choose(
    images: Sequence[Listed],
    layers: Mapping[str, LayerSizes],
    keep: Collection[str],
    now: float,
    disk: Disk,
    limits: Limits,
) -> list[Removed]:
    """The images to remove, in this order. `keep` are ids."""
    count = _Count(images, layers)
    removed: list[Removed] = []
    gone: set[str] = set()
    free = disk.free

    def take(image: Listed, reason: str) -> None:
        nonlocal free
        size = count.remove(image)
        free += size
        gone.add(image.id)
        removed.append(Removed(image.id, image.names, size, reason))

    for image in _idle(images, keep, now, gone):
        idle, most = now - _last(image), limits.unused_for if image.tags else limits.keep_for
        if most and idle > most:
            what = "not used" if image.tags else "no name and not used"
            take(image, f"{what} for {_days(idle)}")
    if Disk(disk.total, free).used < limits.high:
        return removed
    for image in _idle(images, keep, now, gone):
        if Disk(disk.total, free).used <= limits.low:
            break
        take(image, f"the disk was {disk.used:.0%} full, and it was the least recently used")
    return removed


def _idle(images: Sequence[Listed], keep: Collection[str], now: float, gone: set[str]) -> Iterator[Listed]:
    """What may go, best first; an image follows those that were made from it, as they go."""
    waiting = [
        image
        for image in images
        if not image.containers and image.id not in keep and now - _last(image) > SPARE
    ]
    waiting.sort(key=lambda image: (bool(image.tags), _last(image), image.id))
    while True:
        chosen = next(
            (image for image in waiting if image.id not in gone and gone.issuperset(image.children)), None
        )
        if chosen is None:
            return
        waiting.remove(chosen)
        yield chosen


def _last(image: Listed) -> float:
    return max(image.added, image.used)


def _days(seconds: float) -> str:
    return f"{seconds / 86400:.1f} days" if seconds >= 86400 else f"{seconds / 3600:.1f} hours"
