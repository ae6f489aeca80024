"""Effects: images that are made here: a finished upper directory becomes a layer, layers and a config become
an image, and what is sent to others (archives of layers, manifests) is made of them.

A layer that was made here has no archive until somebody wants one: its directory is what it is made of, and
its diff id (OCI image-spec, config.md) is the digest that whatever is made of it must have.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from runtime.faults import Fault, faults
from runtime.images.blobs import CHUNK, BlobStore, sync_directory
from runtime.images.catalog import Catalog, NewImage
from runtime.images.changes import Copied, Settled, Unwritable, write_changes
from runtime.images.compression import CompressionError, compressor, decompressed, detect
from runtime.images.difference import Stack
from runtime.images.layers import LayerJob, LayerStore, chain_ids
from runtime.images.lowers import Lowers
from runtime.images.manifests import (
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    parse_config,
    parse_manifest,
)
from runtime.linux import libc, trees
from specs.values import ImageRef

COMPOSE_SCHEMA = """
CREATE TABLE IF NOT EXISTS layer_parents (
    chain_id    TEXT PRIMARY KEY REFERENCES layers(chain_id) ON DELETE CASCADE,
    parent      TEXT NOT NULL       -- chain id of what is below, empty: nothing
) STRICT;
CREATE TABLE IF NOT EXISTS layer_archives (
    chain_id    TEXT NOT NULL REFERENCES layers(chain_id) ON DELETE CASCADE,
    compression TEXT NOT NULL,      -- gzip, zstd or none
    blob        TEXT NOT NULL,      -- digest of an archive beside the one in layers.blob
    PRIMARY KEY (chain_id, compression)
) STRICT, WITHOUT ROWID;
"""

_SUFFIXES = {"gzip": "+gzip", "zstd": "+zstd", "none": ""}


@dataclass(frozen=True, slots=True)
class CommittedLayer:
    """`size` is the bytes of the files in it."""

    chain_id: str
    diff_id: str
    size: int


@dataclass(frozen=True, slots=True)
class CopiedLayer:
    """A layer whose archive is the blob `blob`, and whose directory is to be made."""

    chain_id: str
    diff_id: str
    blob: str


class Composer:
    """Thread-safe; several processes may use one store at once. The caller holds the store meanwhile."""

    def __init__(self, catalog: Catalog, blobs: BlobStore, layers: LayerStore) -> None:
        self._catalog, self._blobs, self._layers = catalog, blobs, layers

    # ------------------------------------------------------------ layers

    def commit_layer(self, upper: Path, parent: str, *, epoch: int | None = None) -> CommittedLayer:
        """The finished upper directory, which is on the store's file system, becomes the layer over `parent`
        (a chain id; empty: nothing). Times later than `epoch` (seconds) become it. The directory is gone
        afterwards: moved durably, or dropped where that layer is there already.

        Fault layer-invalid for what no layer can hold, disk-full, kernel-error; then `upper` is left.
        """
        chain = self._chain(parent)
        with faults("commit layer", str(upper)), closing(_Below(self._layers, chain)) as below:
            settled = Settled(upper, below.has_directory, epoch)
            digest = hashlib.sha256()
            try:
                for piece in settled.write():
                    digest.update(piece)
            except Unwritable as error:
                raise Fault("layer-invalid", "commit layer", str(upper), str(error)) from error
            diff_id = f"sha256:{digest.hexdigest()}"
            chain_id = chain_above(parent, diff_id)
            self._adopt(upper, chain_id)
        self._record(chain_id, diff_id, "", settled.size, chain)
        return CommittedLayer(chain_id, diff_id, settled.size)

    def copy_layer(
        self, stack: Stack, omit: Collection[bytes], parent: str, subject: str
    ) -> CopiedLayer | None:
        """A copy of an upper directory that stays where it is, as a layer over `parent`, without the paths
        `omit`: read into an archive first, unpacked later. None: there is nothing in it.

        `stack` must be that of `parent`'s chain. Fault layer-invalid.
        """
        copied = Copied(stack.upper, stack.hides, omit)
        digest, engine = hashlib.sha256(), compressor("gzip")
        with faults("commit", subject), self._blobs.incoming() as incoming:
            try:
                for piece in copied.write():
                    digest.update(piece)
                    incoming.write(engine.compress(piece))
            except Unwritable as error:
                raise Fault("layer-invalid", "commit", subject, str(error)) from error
            if copied.bare:
                return None
            incoming.write(engine.flush())
            diff_id = f"sha256:{digest.hexdigest()}"
            return CopiedLayer(chain_above(parent, diff_id), diff_id, incoming.keep())

    def unpack_copy(self, layer: CopiedLayer, chain: Sequence[str], subject: str) -> None:
        """Have the copy's directory, over the layers `chain`, bottom first."""

        def data() -> Iterator[bytes]:
            with self._blobs.open(layer.blob) as file:
                while piece := file.read(CHUNK):
                    yield piece

        size = self._layers.unpack(LayerJob(layer.chain_id, layer.diff_id, chain, data), subject)
        self._record(layer.chain_id, layer.diff_id, layer.blob, size or 0, chain[::-1])

    def _record(self, chain_id: str, diff_id: str, blob: str, size: int, below: Sequence[str]) -> None:
        """A layer that is on disk over those `below`, top first: each of them remembers what is under it, for
        the image that knew it may go before the layers do."""
        chain = [chain_id, *below]
        with self._catalog.database.write() as connection:
            self._catalog.add_layer(chain_id, diff_id, blob, size)
            connection.executemany(
                "INSERT OR IGNORE INTO layer_parents SELECT chain_id, ? FROM layers WHERE chain_id = ?",
                [(under, over) for over, under in zip(chain, [*chain[1:], ""], strict=True)],
            )

    def _adopt(self, upper: Path, chain_id: str) -> None:
        """Under its name at once and durably. Whoever unpacks the same layer holds its lock."""
        final = self._layers.path(chain_id)
        with _locked(self._layers, chain_id):
            if not final.exists():
                fd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    libc.call("syncfs", fd, subject=str(upper))
                finally:
                    os.close(fd)
                os.rename(upper, final)
                sync_directory(self._layers.directory)
                return
        trees.remove(upper)

    def _chain(self, top: str) -> list[str]:
        """Chain ids down from `top`. Fault layer-invalid where the store does not know what is below."""
        chain: list[str] = []
        connection = self._catalog.database.read()
        while top:
            chain.append(top)
            row = connection.execute("SELECT parent FROM layer_parents WHERE chain_id = ?", (top,)).fetchone()
            if row is None:
                query = (
                    "SELECT below.chain_id FROM image_layers AS own LEFT JOIN image_layers AS below"
                    " ON below.image = own.image AND below.position = own.position - 1"
                    " WHERE own.chain_id = ? LIMIT 1"
                )
                row = connection.execute(query, (top,)).fetchone()
            if row is None:
                raise self._unknown(top)
            top = row[0] or ""
        return chain

    def _unknown(self, chain_id: str) -> Fault:
        return Fault("layer-invalid", "read layer", chain_id, "it is not in the store")

    def layer_tar(self, chain_id: str) -> Iterator[bytes]:
        """The layer's archive, uncompressed: as it came, where that is kept, else made of its directory.

        Fault digest-mismatch at its end where it is not what the diff id says, layer-invalid.
        """
        row = self._catalog.layer(chain_id)
        if row is None:
            raise self._unknown(chain_id)
        digest = hashlib.sha256()
        with faults("read layer", chain_id):
            try:
                for piece in self._plain(chain_id, row["blob"]):
                    digest.update(piece)
                    yield piece
            except (Unwritable, CompressionError) as error:
                raise Fault("layer-invalid", "read layer", chain_id, str(error)) from error
        found = f"sha256:{digest.hexdigest()}"
        if found != row["diff_id"]:
            cause = f"its content is {found}, not {row['diff_id']}"
            raise Fault("digest-mismatch", "read layer", chain_id, cause, "pull, import or build it again")

    def _plain(self, chain_id: str, blob: str) -> Iterator[bytes]:
        if blob and self._blobs.has(blob):
            with self._blobs.open(blob) as file:
                yield from decompressed(file)
        elif self._layers.has(chain_id):
            yield from write_changes(self._layers.path(chain_id))
        else:
            raise self._unknown(chain_id)

    def layer_blob(self, chain_id: str, compression: str = "gzip") -> Descriptor:
        """The layer's archive as a blob of the store: the one that it came as where that is compressed so,
        else one that is made, once. `compression` is gzip, zstd or none."""
        row = self._catalog.layer(chain_id)
        if row is None:
            raise self._unknown(chain_id)
        for blob in (row["blob"], self._archive(chain_id, compression)):
            if blob and self._blobs.has(blob):
                with self._blobs.open(blob) as file:
                    found = detect(file.read(16)) or "none"
                    size = os.fstat(file.fileno()).st_size
                if found == compression:
                    return Descriptor(OCI_LAYER + _SUFFIXES[compression], blob, size)
        with faults("compress layer", chain_id), self._blobs.incoming() as incoming:
            engine = compressor(compression)
            for piece in self.layer_tar(chain_id):
                incoming.write(engine.compress(piece))
            incoming.write(engine.flush())
            blob = incoming.keep()
            self._remember(chain_id, row["blob"], compression, blob)
            return Descriptor(OCI_LAYER + _SUFFIXES[compression], blob, incoming.size)

    def _archive(self, chain_id: str, compression: str) -> str:
        query = "SELECT blob FROM layer_archives WHERE chain_id = ? AND compression = ?"
        row = self._catalog.database.read().execute(query, (chain_id, compression)).fetchone()
        return str(row[0]) if row else ""

    def _remember(self, chain_id: str, before: str, compression: str, blob: str) -> None:
        with self._catalog.database.write() as connection:
            if before:
                connection.execute(
                    "INSERT OR REPLACE INTO layer_archives VALUES (?, ?, ?)", (chain_id, compression, blob)
                )
            else:
                connection.execute("UPDATE layers SET blob = ? WHERE chain_id = ?", (blob, chain_id))

    # ------------------------------------------------------------ images

    def add_image(
        self, config: bytes, chain: Sequence[str], names: Sequence[ImageRef], parent: str = ""
    ) -> str:
        """An image of layers that are here, its config as it is. Returns its id. Without names it is
        dangling. `parent` is the id of the image that it was made from.

        Fault manifest-invalid where the config names other layers, layer-invalid where one is not here.
        """
        id = f"sha256:{hashlib.sha256(config).hexdigest()}"
        parsed = parse_config(config, id)
        if chain_ids(parsed.diff_ids) != tuple(chain):
            raise Fault("manifest-invalid", "add image", id, "its config names other layers than it has")
        blobs = []
        for chain_id in chain:
            row = self._catalog.layer(chain_id)
            if row is None:
                raise self._unknown(chain_id)
            blobs.append(row["blob"])
        with faults("add image", id):
            self._blobs.put(config)
        return self._catalog.record(NewImage(id, config, parsed, blobs, parent=parent), names)

    def manifest_of(self, image_id: str) -> bytes:
        """What describes the image to others: the manifest that it came with, as long as all it speaks of is
        here, else one that is made of its config and its layers' archives."""
        return self._own_manifest(image_id) or self._made_manifest(image_id)

    def oci_manifest_of(self, image_id: str) -> bytes:
        """The same, but not in Docker's format."""
        own = self._own_manifest(image_id)
        if own and json.loads(own).get("mediaType", OCI_MANIFEST) == OCI_MANIFEST:
            return own
        return self._made_manifest(image_id)

    def _own_manifest(self, image_id: str) -> bytes:
        """Empty where there is none, or where something that it speaks of is not here."""
        digest = self._image_column(image_id, "manifest")
        if not digest or not self._blobs.has(digest):
            return b""
        data = self._blobs.read(digest)
        manifest = parse_manifest(data, image_id)
        if not isinstance(manifest, Manifest):
            return b""
        there = all(self._blobs.has(item.digest) for item in (manifest.config, *manifest.layers))
        return data if there else b""

    def _made_manifest(self, image_id: str) -> bytes:
        layers = [self.layer_blob(chain_id) for chain_id in self._catalog.chain(image_id)]
        return oci_manifest(Descriptor(OCI_CONFIG, image_id, len(self.config_of(image_id))), layers)

    def config_of(self, image_id: str) -> bytes:
        """The config as it came. Fault image-not-found."""
        return self._image_column(image_id, "config").encode()

    def _image_column(self, image_id: str, column: str) -> str:
        query = f"SELECT {column} FROM images WHERE id = ?"
        row = self._catalog.database.read().execute(query, (image_id,)).fetchone()
        if row is None:
            raise Fault("image-not-found", "read image", image_id, "it is not in the store")
        return str(row[0])


def chain_above(parent: str, diff_id: str) -> str:
    """The chain id of a layer over `parent` (empty: nothing)."""
    if not parent:
        return diff_id
    return f"sha256:{hashlib.sha256(f'{parent} {diff_id}'.encode()).hexdigest()}"


def described(item: Descriptor) -> dict[str, object]:
    """OCI image-spec, descriptor.md."""
    return {"mediaType": item.media_type, "digest": item.digest, "size": item.size}


def oci_manifest(config: Descriptor, layers: Sequence[Descriptor]) -> bytes:
    """OCI image-spec, manifest.md."""

    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": described(config),
        "layers": [described(layer) for layer in layers],
    }
    return json.dumps(document, separators=(",", ":")).encode()


class _Below:
    """What the layers of a chain (top first) show together; opened when first asked."""

    def __init__(self, layers: LayerStore, chain: Sequence[str]) -> None:
        self._layers, self._chain = layers, chain
        self._lowers: Lowers | None = None

    def has_directory(self, path: bytes) -> bool:
        if not self._chain:
            return False
        if self._lowers is None:
            fd = os.open(self._layers.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._lowers = Lowers(fd, [self._layers.path(chain_id).name for chain_id in self._chain])
            finally:
                os.close(fd)
        found = self._lowers.lookup(path)
        return found is not None and stat.S_ISDIR(found.status.st_mode)

    def close(self) -> None:
        if self._lowers is not None:
            self._lowers.close()


@contextmanager
def _locked(layers: LayerStore, chain_id: str) -> Iterator[None]:
    """The lock of a chain id, which is that of unpacking it: the flock of its hidden directory."""
    hidden = layers.directory / f".{layers.path(chain_id).name}"
    while True:
        with suppress(FileExistsError):
            os.mkdir(hidden, 0o700)
        try:
            fd = os.open(hidden, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if hidden.exists() and os.path.samestat(os.fstat(fd), os.stat(hidden)):
                try:
                    yield
                finally:
                    trees.remove(hidden)
                return
        finally:
            os.close(fd)
