"""Effects: names, images, layers and blobs that nobody needs any more go; layers that are gone come back.

Whoever brings something in holds the store (`using`); what nobody has is deleted only while nobody does.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from runtime import events
from runtime.faults import faults
from runtime.images import removal
from runtime.images.blobs import BlobStore
from runtime.images.catalog import Catalog
from runtime.images.garbage import Disk, Limits, Removed, choose
from runtime.images.layers import LayerStore
from runtime.images.listing import LayerSizes, Listed, read_images
from runtime.images.points import Points
from runtime.paths import Paths
from specs.values import ImageRef

#: What rows refer to. A name's digest may be that of an index, which is kept where somebody stored it.
_USED_BLOBS = """
SELECT blob FROM layers UNION SELECT blob FROM layer_archives UNION SELECT id FROM images
UNION SELECT manifest FROM images UNION SELECT digest FROM image_names
"""

_IN_CONTAINERS = """
SELECT DISTINCT chain_id FROM image_layers WHERE image IN
    (SELECT image_id FROM containers UNION SELECT image_id FROM mounted_images)
"""


class Collector:
    """Thread-safe; several processes may use one store at once."""

    def __init__(self, paths: Paths, catalog: Catalog, blobs: BlobStore, layers: LayerStore) -> None:
        self.catalog, self.blobs, self.layers = catalog, blobs, layers
        self.points = Points(paths.root / "points")
        self._root, self._users = paths.root, paths.root / "images.lock"

    def remove(self, name: str, *, force: bool = False, parents: bool = True) -> tuple[str, ...]:
        """Take a name away; with its last name goes the image, and every layer that no other image has.

        By id when all its names are one, or with `force`. With `parents` the nameless images go, too,
        that were here only because it was made from them. Fault image-in-use names the containers or the
        image that need it. Returns `Untagged: ...` and `Deleted: ...` lines in the order of what happened.
        """
        with self.catalog.database.write() as connection:
            id = self.catalog.need(name, "remove image")
            (image,) = read_images(connection, id)
            decided = removal.remove(image, self.catalog.called(name), subject=name, force=force)
            lines, gone = self._perform(decided, parents)
        with faults("remove image", name):
            return tuple(lines + (self._cleared(gone) if gone else []))

    def prune(
        self, *, everything: bool = False, wanted: Callable[[Listed], bool] = lambda _: True
    ) -> tuple[tuple[str, ...], int]:
        """Remove images without a tag, with `everything` all that nothing uses, as far as `wanted`. Returns
        `Untagged: ...` and `Deleted: ...` lines, and the bytes that are free now."""
        lines: list[str] = []
        gone: list[Listed] = []
        with self.catalog.database.write() as connection:
            before = self.sizes()
            while True:
                count = len(gone)
                for image in read_images(connection):
                    decided = removal.prune(image, everything=everything, wanted=wanted)
                    if decided is not None and image.id not in {item.id for item in gone}:
                        more, images = self._perform(decided)
                        lines += more
                        gone += images
                if len(gone) == count:  # what others were made from goes once they are gone
                    break
        with faults("prune", "images"):
            lines += self._cleared(gone)
        after = self.sizes()
        return tuple(lines), sum(before[chain_id].total for chain_id in before if chain_id not in after)

    def _perform(self, decided: removal.Removal, up: bool = True) -> tuple[list[str], list[Listed]]:
        """In a transaction: the lines that say what happened, and the images that are gone. Who loses its
        last reason to be here, having been left only for the sake of an image made from it, goes as well."""
        names = [ImageRef.parse(name).familiar for name in decided.untagged]
        lines = [f"Untagged: {name}" for name in names]
        for name in names:
            events.tell(self._root, "image", "untag", decided.image.id, name)
        self.catalog.unname(decided.untagged)
        gone: list[Listed] = []
        image: Listed | None = decided.image if decided.deleted else None
        while image is not None:
            self.catalog.delete(image.id)
            lines.append(f"Deleted: {image.id}")
            events.tell(self._root, "image", "delete", image.id, image.id)
            gone.append(image)
            parent = image.parent if up else ""
            parents = read_images(self.catalog.database.read(), parent) if parent else []
            image = next((item for item in parents if removal.orphan(item)), None)
        return lines, gone

    def _cleared(self, gone: Sequence[Listed]) -> list[str]:
        """A line for each layer that went, those of the images in their order, top first."""
        removed = self.collect()
        order = {chain_id: n for n, chain_id in enumerate(c for image in gone for c in reversed(image.chain))}
        return [f"Deleted: {id}" for id in sorted(removed, key=lambda id: order.get(id, len(order)))]

    def evict(self, keep: Collection[str], now: float, limits: Limits) -> tuple[Removed, ...]:
        """Remove what `garbage.choose` says. What could not be looked at alone is left for the next time."""
        with faults("collect", "images"):
            with self.using(alone=True) as alone:
                if not alone:
                    return ()
                status = os.statvfs(self.blobs.directory)
                disk = Disk(status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize)
                with self.catalog.database.write() as connection:
                    images = read_images(connection)
                    removed = choose(images, self.sizes(), keep, now, disk, limits)
                    for item in removed:
                        self.catalog.delete(item.image)
            for item in removed:
                events.tell(self._root, "image", "delete", item.image, item.image)
            self.collect()
        return tuple(removed)

    def sizes(self) -> dict[str, LayerSizes]:
        """Bytes of every layer by chain id, with those of its archives."""
        connection = self.catalog.database.read()
        pinned = {row[0] for row in connection.execute("SELECT DISTINCT chain_id FROM layer_pins")}
        archives: Counter[str] = Counter()
        query = "SELECT chain_id, blob FROM layers UNION SELECT chain_id, blob FROM layer_archives"
        for chain_id, blob in connection.execute(query):
            archives[chain_id] += self.blobs.size(blob)
        rows = connection.execute("SELECT chain_id, size FROM layers")
        return {row[0]: LayerSizes(row[1], archives[row[0]], row[0] in pinned) for row in rows}

    def collect(self) -> list[str]:
        """Delete layers and blobs that no image has. Left for later while something is being pulled. Nobody
        waits for the files of the layers to go. Returns the chain ids of the layers."""
        with self.using(alone=True) as alone:
            if not alone:
                return []
            self.layers.sweep()  # of a collection that was killed
            with self.catalog.database.write() as connection:
                connection.execute(
                    "DELETE FROM layers WHERE chain_id NOT IN"
                    " (SELECT chain_id FROM image_layers UNION SELECT chain_id FROM layer_pins)"
                )
            connection = self.catalog.database.read()
            kept = {row[0] for row in connection.execute("SELECT chain_id FROM layers")}
            unwanted = [chain_id for chain_id in self.layers.chain_ids() if chain_id not in kept]
            hidden = {chain_id: self.layers.hide(chain_id) for chain_id in unwanted}
            self.points.keep(kept)
            used = {row[0] for row in connection.execute(_USED_BLOBS)}
            for digest in self.blobs.digests():
                if digest not in used:
                    self.blobs.remove(digest)
            self.layers.clear_aside({row[0] for row in connection.execute(_IN_CONTAINERS)})
        for path in hidden.values():
            if path is not None:
                self.layers.discard(path)
        return [chain_id for chain_id, path in hidden.items() if path is not None]

    def sweep(self) -> tuple[str, ...]:
        """Remove what a crash left half-made and what no image has. Returns what was removed."""
        with faults("sweep", "images"):
            removed = self.layers.sweep() + self.blobs.sweep(time.time())
            return tuple(removed + [f"layer {chain_id}" for chain_id in self.collect()])

    @contextmanager
    def using(self, *, alone: bool = False) -> Iterator[bool]:
        """Hold the store against collection; `alone` asks, without waiting, whether nobody else does."""
        fd = os.open(self._users, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(fd)
