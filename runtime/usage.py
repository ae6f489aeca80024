"""Effects: what of the disk images, containers, volumes and the build cache have, and what of it could go.

Sizes are bytes of files, a file with several links counted once. What changes while it is counted may be
counted as before or after.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from runtime.linux import trees

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

    from runtime.images.listing import LayerSizes, Listed
    from runtime.paths import Paths
    from runtime.records import ContainerRecord


@dataclass(frozen=True, slots=True)
class ImageUse:
    """`shared` are bytes of layers that other images have as well, `unique` the rest; both unpacked."""

    image: Listed
    shared: int
    unique: int


@dataclass(frozen=True, slots=True)
class ContainerUse:
    """`size` of the writable layer, `volumes` how many named volumes it mounts."""

    record: ContainerRecord
    size: int
    volumes: int


@dataclass(frozen=True, slots=True)
class VolumeUse:
    """`links` is how many containers mount it."""

    name: str
    size: int
    links: int


@dataclass(frozen=True, slots=True)
class CacheUse:
    """A step of a build, or a directory of RUN --mount=type=cache. `shared`: an image has its layer, too.
    Times are seconds since the epoch."""

    id: str
    kind: str
    size: int
    used: float
    shared: bool
    text: str


@dataclass(frozen=True, slots=True)
class Images:
    """`size` is of all layers that images have, with their archives; `reclaimable` of those that only images
    without a container have."""

    images: tuple[ImageUse, ...]
    size: int
    reclaimable: int


def of_images(images: Sequence[Listed], layers: Mapping[str, LayerSizes]) -> Images:
    """Pure."""
    users = Counter(chain_id for image in images for chain_id in image.chain)
    needed = {chain_id for image in images if image.containers for chain_id in image.chain}
    uses = []
    for image in images:
        own = [layers[chain_id] for chain_id in image.chain if users[chain_id] == 1 and chain_id in layers]
        unique = sum(layer.unpacked for layer in own)
        uses.append(ImageUse(image, image.size - unique, unique))
    sizes = {chain_id: layers[chain_id].total for chain_id in users if chain_id in layers}
    idle = sum(
        size for chain_id, size in sizes.items() if chain_id not in needed and not layers[chain_id].pinned
    )
    return Images(tuple(uses), sum(sizes.values()), idle)


def of_containers(
    connection: sqlite3.Connection, paths: Paths, records: Sequence[ContainerRecord]
) -> list[ContainerUse]:
    from runtime.volumes.records import read_users

    links = Counter(user for users in read_users(connection).values() for user in users)
    return [
        ContainerUse(record, tree_size(paths.container(record.id) / "upper"), links[record.name])
        for record in records
    ]


def of_volumes(connection: sqlite3.Connection, paths: Paths) -> list[VolumeUse]:
    """Of one with a file system of its own, only while that is mounted."""
    from runtime.volumes.records import read_users, read_volumes

    users = read_users(connection)
    return [
        VolumeUse(volume.name, tree_size(volume.path), len(users.get(volume.name, ())))
        for volume in read_volumes(connection, paths.volumes)
    ]


def of_cache(
    connection: sqlite3.Connection, paths: Paths, layers: Mapping[str, LayerSizes], images: Sequence[Listed]
) -> list[CacheUse]:
    """The most recently used first. Two steps that made one layer count it once."""
    shared = {chain_id for image in images for chain_id in image.chain}
    seen: set[str] = set()
    found = []
    query = "SELECT key, chain_id, used, text FROM build_cache ORDER BY used DESC, key"
    for key, chain_id, used, text in connection.execute(query):
        size = layers[chain_id].total if chain_id in layers and chain_id not in seen else 0
        seen.add(chain_id)
        found.append(CacheUse(key, "regular", size, used, chain_id in shared, text))
    directory = _mounts(paths)
    for name in sorted(os.listdir(directory)) if directory.is_dir() else ():
        size, used = tree_size(directory / name), os.lstat(directory / name).st_mtime
        found.append(CacheUse(name, "exec.cachemount", size, used, False, "RUN --mount=type=cache"))
    return found


def _mounts(paths: Paths) -> Path:
    from runtime.build.workspace import DIRECTORY

    return paths.root / DIRECTORY / "cache"


def tree_size(path: Path) -> int:
    """Bytes of the files below `path`, without what is mounted there; 0 where it is not. Of a tree whose
    directories are moved about meanwhile, what was seen before."""
    total, seen = 0, set[int]()
    try:
        for fd, names in trees.walk(path):
            for name in names:
                status = _status(name, fd)
                if status is None or not stat.S_ISREG(status.st_mode) or status.st_ino in seen:
                    continue
                if status.st_nlink > 1:
                    seen.add(status.st_ino)
                total += status.st_size
    except OSError:
        pass
    return total


def _status(name: str, fd: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except OSError:
        return None
