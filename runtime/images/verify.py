"""Effects: look through the store for what rotted: archives against their digests, layers against archives.

Every blob is hashed. A layer that was made here must give its diff id again; one that was brought is unpacked
anew beside it, and both are compared. What rotted can be set aside: then it is missing, which the store knows
how to mend: from the archive at the next start, or by the next pull.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from runtime.faults import Fault, faults
from runtime.images.blobs import BlobStore
from runtime.images.catalog import Catalog
from runtime.images.changes import Unwritable, write_changes
from runtime.images.collect import Collector
from runtime.images.layers import LayerJob, LayerStore
from runtime.images.listing import Listed, read_images
from runtime.images.trees import differences
from specs.values import ImageRef

CHUNK = 1024 * 1024  # bytes that are hashed at once
SHOWN = 3  # differences of one layer that are told

Progress = Callable[[int, int], None]  # bytes looked at, of how many


@dataclass(frozen=True, slots=True)
class Rotten:
    """Something that is not what it should be. `kind` is "archive", "config", "manifest" or "layer", `id` its
    digest or chain id, `images` names (or ids) of the images that have it."""

    kind: str
    id: str
    images: tuple[str, ...]
    cause: str

    def __str__(self) -> str:
        of = f" of {', '.join(self.images)}" if self.images else ""
        return f"{self.kind} {self.id[7:19]}{of}: {self.cause}"


@dataclass(frozen=True, slots=True)
class Verified:
    """What was looked at, and what of it is rotten; `skipped` says which layers could not be compared, and
    why not."""

    blobs: int
    layers: int
    rotten: tuple[Rotten, ...]
    skipped: tuple[str, ...] = ()


@dataclass(slots=True)
class _Meter:
    tell: Progress
    total: int
    done: int = field(default=0)

    def add(self, size: int) -> None:
        self.done += size
        self.tell(min(self.done, self.total), self.total)


class Verifier:
    """Holds the store against collection while it looks."""

    def __init__(self, catalog: Catalog, blobs: BlobStore, layers: LayerStore, collector: Collector) -> None:
        self._catalog, self._blobs, self._layers, self._collector = catalog, blobs, layers, collector

    def verify(self, names: Sequence[str] = (), progress: Progress = lambda done, total: None) -> Verified:
        """Look at everything, or at what the images `names` consist of. Changes nothing.

        Fault image-not-found. One layer at a time is unpacked once more, which takes that much room.
        """
        with self._collector.using(), faults("verify", "images"):
            ids = {self._catalog.need(name, "verify image") for name in names}
            images = read_images(self._catalog.database.read())
            chosen = [image for image in images if not ids or image.id in ids]
            blobs, layers = self._blobs_of(chosen, not ids), self._layers_of(chosen, not ids)
            sizes = self._collector.sizes()
            total = sum(map(self._blobs.size, blobs))
            total += sum(sizes[chain_id].unpacked for chain_id in layers if chain_id in sizes)
            meter = _Meter(progress, total)
            rotten = [item for digest in blobs if (item := self._blob(digest, blobs[digest], images, meter))]
            bad = {item.id for item in rotten}
            skipped = []
            for chain_id in layers:
                try:
                    rotten += self._layer(chain_id, layers[chain_id], bad, images)
                except Fault as fault:
                    if fault.code != "disk-full":
                        raise
                    skipped.append(f"layer {chain_id[7:19]}: no room to unpack it once more")
                meter.add(sizes[chain_id].unpacked if chain_id in sizes else 0)
        return Verified(len(blobs), len(layers), tuple(rotten), tuple(skipped))

    # ------------------------------------------------------------ what there is

    def _blobs_of(self, images: Sequence[Listed], everything: bool) -> dict[str, str]:
        """digest -> kind."""
        connection = self._catalog.database.read()
        found = dict.fromkeys(self._blobs.digests(), "archive") if everything else {}
        chains = {chain_id for image in images for chain_id in image.chain}
        query = "SELECT chain_id, blob FROM layers UNION SELECT chain_id, blob FROM layer_archives"
        for chain_id, blob in connection.execute(query):
            if blob and (everything or chain_id in chains):
                found[blob] = "archive"
        for id, manifest in connection.execute("SELECT id, manifest FROM images"):
            if any(image.id == id for image in images):
                found[id] = "config"
                if manifest:
                    found[manifest] = "manifest"
        return found

    def _layers_of(self, images: Sequence[Listed], everything: bool) -> dict[str, tuple[str, ...]]:
        """chain id -> the chain ids below it, bottom first; those below come first."""
        found: dict[str, tuple[str, ...]] = {}
        for image in images:
            for position, chain_id in enumerate(image.chain):
                found.setdefault(chain_id, image.chain[:position])
        if everything:
            connection = self._catalog.database.read()
            parents = dict(map(tuple, connection.execute("SELECT chain_id, parent FROM layer_parents")))
            for (chain_id,) in map(tuple, connection.execute("SELECT DISTINCT chain_id FROM layer_pins")):
                if chain_id not in found:
                    found[chain_id] = _below(chain_id, parents)
        return dict(sorted(found.items(), key=lambda item: len(item[1])))

    # ------------------------------------------------------------ is it well

    def _blob(self, digest: str, kind: str, images: Sequence[Listed], meter: _Meter) -> Rotten | None:
        hasher = hashlib.sha256()
        try:
            with self._blobs.open(digest) as file:
                while data := file.read(CHUNK):
                    hasher.update(data)
                    meter.add(len(data))
        except FileNotFoundError:
            return Rotten(kind, digest, self._owners(digest, images), "it is missing")
        except OSError as error:
            cause = f"it cannot be read: {(error.strerror or str(error)).lower()}"
            return Rotten(kind, digest, self._owners(digest, images), cause)
        found = f"sha256:{hasher.hexdigest()}"
        if found == digest:
            return None
        cause = f"its content has the digest {found[7:19]}, in {self._blobs.path(digest)}"
        return Rotten(kind, digest, self._owners(digest, images), cause)

    def _layer(
        self, chain_id: str, lowers: Sequence[str], bad: Collection[str], images: Sequence[Listed]
    ) -> list[Rotten]:
        """Nothing, or why it is rotten."""
        row = self._catalog.layer(chain_id)
        owners = tuple(name for image in images if chain_id in image.chain for name in _called(image))
        if not self._layers.has(chain_id):
            return [Rotten("layer", chain_id, owners, "it is missing")]
        if row is None:
            return []
        try:
            causes = self._causes(chain_id, row["diff_id"], row["blob"], lowers, bad)
        except (OSError, Unwritable) as error:
            causes = [f"it cannot be read: {str(error).lower()}"]
        return [Rotten("layer", chain_id, owners, "; ".join(causes))] if causes else []

    def _causes(
        self, chain_id: str, diff_id: str, blob: str, lowers: Sequence[str], bad: Collection[str]
    ) -> list[str]:
        path = self._layers.path(chain_id)
        if blob in bad or not self._blobs.has(blob):
            if not self._made_here(chain_id):
                return []  # nothing to compare it with; it serves as it is
            hasher = hashlib.sha256()
            for data in write_changes(path):
                hasher.update(data)
            found = f"sha256:{hasher.hexdigest()}"
            return [] if found == diff_id else [f"its content has the digest {found[7:19]}, in {path}"]
        there = [lower for lower in lowers if self._layers.has(lower)]
        job = LayerJob(chain_id, diff_id, there, lambda: self._read(blob))
        try:
            with self._layers.aside(job, chain_id[7:19]) as wanted:
                lines = list(itertools.islice(differences(path, wanted), SHOWN + 1))
        except Fault as fault:
            if there != list(lowers) and fault.code == "layer-invalid":
                return []  # it needs what is missing below it
            raise
        more = ["and more"] if len(lines) > SHOWN else []
        return [*(f"{path}/{line}" for line in lines[:SHOWN]), *more]

    def _made_here(self, chain_id: str) -> bool:
        query = "SELECT 1 FROM layer_parents WHERE chain_id = ?"
        return self._catalog.database.read().execute(query, (chain_id,)).fetchone() is not None

    def _read(self, blob: str) -> Iterator[bytes]:
        with self._blobs.open(blob) as file:
            while data := file.read(CHUNK):
                yield data

    def _owners(self, digest: str, images: Sequence[Listed]) -> tuple[str, ...]:
        connection = self._catalog.database.read()
        query = (
            "SELECT image FROM image_layers JOIN layers USING (chain_id) WHERE blob = ?1"
            " UNION SELECT image FROM image_layers JOIN layer_archives USING (chain_id) WHERE blob = ?1"
            " UNION SELECT id FROM images WHERE id = ?1 OR manifest = ?1"
        )
        ids = {row[0] for row in connection.execute(query, (digest,))}
        return tuple(name for image in images if image.id in ids for name in _called(image))

    # ------------------------------------------------------------ out of the way

    def set_aside(self, rotten: Sequence[Rotten]) -> None:
        """What is rotten is missing afterwards. A config is written anew, from its row; what can be
        made again, manifests and archives of layers, is forgotten. Running containers keep what they have."""
        with self._collector.using(), faults("set aside", "what rotted"):
            for item in rotten:
                if item.kind == "layer":
                    self._layers.set_aside(item.id)
                    continue
                self._blobs.remove(item.id)
                if item.kind == "config":
                    self._rewrite(item.id)
                with self._catalog.database.write() as connection:
                    connection.execute("DELETE FROM layer_archives WHERE blob = ?", (item.id,))
                    connection.execute("UPDATE images SET manifest = '' WHERE manifest = ?", (item.id,))

    def _rewrite(self, id: str) -> None:
        query = "SELECT config FROM images WHERE id = ?"
        row = self._catalog.database.read().execute(query, (id,)).fetchone()
        if row is not None and f"sha256:{hashlib.sha256(row[0].encode()).hexdigest()}" == id:
            self._blobs.put(row[0].encode())


def _below(chain_id: str, parents: dict[str, str]) -> tuple[str, ...]:
    found: list[str] = []
    while chain_id := parents.get(chain_id, ""):
        found.append(chain_id)
    return tuple(reversed(found))


def _called(image: Listed) -> tuple[str, ...]:
    return tuple(ImageRef.parse(name).familiar for name in image.tags) or (image.id[7:19],)
