"""Effects: names, images, layers and blobs that nobody needs any more go; layers that are gone come back.

Whoever brings something in holds the store (`using`); what nobody has is deleted only while nobody does.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.faults import Fault, faults
from runtime.images.blobs import BlobStore
from runtime.images.catalog import Catalog
from runtime.images.layers import LayerStore
from runtime.paths import Paths


class Collector:
    """Thread-safe; several processes may use one store at once."""

    def __init__(self, paths: Paths, catalog: Catalog, blobs: BlobStore, layers: LayerStore) -> None:
        self._catalog, self._blobs, self._layers = catalog, blobs, layers
        self._users = paths.root / "images.lock"

    def remove(self, name: str) -> tuple[str, ...]:
        """Take a name away; with its last name goes the image, and every layer that no other image has.

        By id when it has one name at most. Returns `Untagged: ...` and `Deleted: ...` lines.
        """
        image = self._catalog.get(name)
        if image is None:
            raise Fault("image-not-found", "remove image", name, "it is not in the store")
        called = self._catalog.called(image, name)
        if not called and len(image.names) > 1:
            cause = f"it has the names {', '.join(image.names)}"
            raise Fault("request-invalid", "remove image", name, cause, "remove it by name")
        gone = (called,) if called else image.names
        lines = [f"Untagged: {reference}" for reference in gone]
        with self._catalog.database.write() as connection:
            connection.executemany("DELETE FROM image_names WHERE reference = ?", [(item,) for item in gone])
            if not self._catalog.names(image.id):
                connection.execute("DELETE FROM image_layers WHERE image = ?", (image.id,))
                connection.execute("DELETE FROM images WHERE id = ?", (image.id,))
                lines.append(f"Deleted: {image.id}")
        with faults("remove image", name):
            lines += self.collect()
        return tuple(lines)

    def collect(self) -> list[str]:
        """Delete layers and blobs that no image has. Left for later while something is being pulled."""
        with self.using(alone=True) as alone:
            if not alone:
                return []
            with self._catalog.database.write() as connection:
                connection.execute(
                    "DELETE FROM layers WHERE chain_id NOT IN"
                    " (SELECT chain_id FROM image_layers UNION SELECT chain_id FROM layer_pins)"
                )
            connection = self._catalog.database.read()
            kept = {row[0] for row in connection.execute("SELECT chain_id FROM layers")}
            lines = []
            for chain_id in self._layers.chain_ids():
                if chain_id not in kept:
                    self._layers.remove(chain_id)
                    lines.append(f"Deleted: {chain_id}")
            query = (
                "SELECT blob FROM layers UNION SELECT blob FROM layer_archives"
                " UNION SELECT id FROM images UNION SELECT manifest FROM images"
            )
            used = {row[0] for row in connection.execute(query)}
            for digest in self._blobs.digests():
                if digest not in used:
                    self._blobs.remove(digest)
        return lines

    def sweep(self) -> tuple[str, ...]:
        """Remove what a crash left half-made and what no image has. Returns what was removed."""
        with faults("sweep", "images"):
            removed = self._layers.sweep() + self._blobs.sweep(time.time())
            return tuple(removed + [line.replace("Deleted:", "layer") for line in self.collect()])

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
