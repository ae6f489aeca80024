"""Effects: places to mount something on that an image does not have, made once for all its containers.

Every container mounts /proc, /etc/hosts and so on. Where the image lacks such a path it would be made in the
writable layer of each container, and removed with it. So there is one more layer over those of the image,
with nothing but what is missing; Docker calls its own the init layer. It belongs to no image: what is
committed, pushed or compared knows nothing of it. A directory that the image has keeps its owner, mode and
attributes, since the topmost of several counts (Documentation/filesystems/overlayfs.rst).
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path

from runtime.images.lowers import Found, Lowers
from runtime.linux import overlay, trees
from runtime.metadata import copy_metadata

#: What all containers mount something on.
DIRECTORIES = (b"dev", b"etc", b"proc", b"sys")
FILES = (b"etc/hostname", b"etc/hosts", b"etc/resolv.conf")


class Points:
    """One directory for each image that lacks something, by the chain id of its uppermost layer; an empty
    one where it lacks nothing. Thread-safe, and safe against other processes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[str, bool] = {}  # whether there is something in it

    def over(self, layers: Sequence[Path], hold: Callable[[], AbstractContextManager[object]]) -> list[Path]:
        """These layers of one image (bottom first), and what is over them, if anything. Where that cannot be
        made, each container makes the places for itself, and says why if it cannot either. `hold` the store,
        so that nothing is removed meanwhile."""
        name = layers[-1].name
        place = self._directory / name
        if not place.is_dir():
            if len(layers) >= overlay.MAX_LAYERS:
                return list(layers)
            try:
                with hold():
                    self._make(place, layers)
            except OSError:
                return list(layers)
            self._known.pop(name, None)
        if name not in self._known:
            self._known[name] = bool(os.listdir(place))
        return [*layers, place] if self._known[name] else list(layers)

    def keep(self, chain_ids: Collection[str]) -> None:
        """Remove those of other images, and what a crash has left. Nobody makes one meanwhile."""
        kept = {chain_id.partition(":")[2] for chain_id in chain_ids}
        with suppress(FileNotFoundError):
            for name in os.listdir(self._directory):
                if name not in kept:
                    trees.remove(self._directory / name, ignore_errors=True)
                    self._known.pop(name, None)

    def _make(self, place: Path, layers: Sequence[Path]) -> None:
        """One after the other, so that every unfinished one that is found is a crash's."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            for name in os.listdir(self._directory):
                if name.startswith("."):
                    trees.remove(self._directory / name, ignore_errors=True)
            if place.is_dir():
                return  # another one was faster
            new = self._directory / f".{place.name}.tmp"
            try:
                with closing(Lowers(-1, [str(layer) for layer in reversed(layers)])) as below:
                    _directory(os.fsencode(new), below.lookup(b""))
                    _fill(os.fsencode(new), below)
                os.rename(new, place)
            except OSError:
                trees.remove(new, ignore_errors=True)
                raise
        finally:
            os.close(fd)


def _fill(new: bytes, below: Lowers) -> None:
    for path in DIRECTORIES:
        if below.lookup(path) is None:
            _directory(os.path.join(new, path), None)
    etc = below.lookup(b"etc")
    if etc is not None and not stat.S_ISDIR(etc.status.st_mode):
        return  # a link: a container follows it, and makes what is missing there
    missing = [path for path in FILES if below.lookup(path) is None]
    if missing:
        _directory(os.path.join(new, b"etc"), below.lookup(b"etc"))
    for path in missing:
        fd = os.open(os.path.join(new, path), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.fchmod(fd, 0o644)
        os.close(fd)


def _directory(made: bytes, found: Found | None) -> None:
    """Like the one that the image has, if it has one. Repeatable."""
    if os.path.isdir(made):
        return
    os.mkdir(made, 0o755)
    os.chmod(made, 0o755)
    if found is not None:
        source = Path(f"/proc/self/fd/{found.fd}", os.fsdecode(found.name))
        copy_metadata(source, Path(os.fsdecode(made)), found.status)
