"""Effects: the images of this node: what they are called, what they consist of, and how they come and go.

The rooms behind it: `catalog` (rows), `blobs` (bytes), `layers` (unpacked directories), `bring` (in),
`collect` (out).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from runtime import events
from runtime.database import Database
from runtime.faults import Fault
from runtime.images import catalog, indexes, save
from runtime.images.archives import Described
from runtime.images.blobs import BlobStore
from runtime.images.bring import PARALLEL, Bringer, Loaded, Need
from runtime.images.catalog import Catalog, Images, StoredImage
from runtime.images.collect import Collector
from runtime.images.compose import COMPOSE_SCHEMA, CommittedLayer, Composer
from runtime.images.connections import RegistrySettings
from runtime.images.garbage import LIMITS, Limits, Removed
from runtime.images.layers import LayerStore
from runtime.images.manifests import Descriptor
from runtime.images.push import Child, Pushed, Pusher, PushProgress, push_image
from runtime.images.registry import Registries
from runtime.images.save import Saver
from runtime.images.sinks import Sink
from runtime.interface import ProgressCallback
from runtime.paths import Paths
from specs.values import ImageRef

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sqlite3 import Connection

__all__ = ["IMAGES_SCHEMA", "ImageStore", "RegistrySettings", "StoredImage"]

IMAGES_SCHEMA = catalog.IMAGES_SCHEMA + COMPOSE_SCHEMA
Directories = list[Path]  # ImageStore.list hides the builtin in annotations


class ImageStore:
    """Images under `paths`. Thread-safe; several processes may use one store at once."""

    def __init__(
        self,
        paths: Paths,
        database: Database,
        *,
        registries: Mapping[str, RegistrySettings] | None = None,
        docker_config: Path | None = None,
        parallel: int = PARALLEL,
    ) -> None:
        self._root = paths.root
        self.blobs = BlobStore(paths.blobs)
        self.layers = LayerStore(paths.layers)
        self.catalog = Catalog(database)
        self.collector = Collector(paths, self.catalog, self.blobs, self.layers)
        self.composer = Composer(self.catalog, self.blobs, self.layers)
        self.saver = Saver(self.catalog, self.blobs, self.composer)
        self.registries = Registries(registries or {}, docker_config=docker_config)
        self.indexes = indexes.Indexes(paths.root / "manifests", self.registries)
        self.pusher = Pusher(self.catalog, self.blobs, self.registries)
        self.bringer = Bringer(
            self.catalog, self.blobs, self.layers, self.collector, self.registries, parallel
        )

    def close(self) -> None:
        """Cancel downloads and drop connections."""
        self.registries.close()
        self.bringer.close()

    def list(self) -> Images:
        return self.catalog.list()

    def layer_bytes(self) -> int:
        """What all unpacked layers have."""
        return self.catalog.layer_bytes()

    def get(self, name_or_id: str) -> StoredImage | None:
        """By canonical or familiar reference, id, or a prefix of an id that fits one image only."""
        return self.catalog.get(name_or_id)

    def use(self, image_id: str, container: str) -> None:
        """A container is made of the image, in the transaction that records it: whoever removes images sees
        either both or none. Fault image-not-found when it was removed a moment ago."""
        if not self.catalog.touch(image_id):
            cause = "its image was removed at this moment"
            raise Fault("image-not-found", "create container", container, cause, "pull or import it again")

    def mount_into(self, connection: Connection, id: str, name: str, references: Collection[str]) -> None:
        """Container `id` mounts these images, in the transaction that records it: what they are now stays
        until it goes. Fault image-not-found."""
        for reference in references:
            image = self.get(reference)
            if image is None:
                cause = f"image {ImageRef.parse(reference).familiar}, which it mounts, is not in the store"
                raise Fault("image-not-found", "create container", name, cause, "pull or import it")
            self.use(image.id, name)
            connection.execute(
                "INSERT OR REPLACE INTO mounted_images VALUES (?, ?, ?)", (id, reference, image.id)
            )

    def mounted_by(self, id: str) -> dict[str, str]:
        """reference -> image id of what container `id` mounts."""
        query = "SELECT reference, image_id FROM mounted_images WHERE container = ?"
        return {row[0]: row[1] for row in self.catalog.database.read().execute(query, (id,))}

    def mounted(self) -> dict[str, tuple[tuple[str, str], ...]]:
        """container id -> (reference, image id) of what it mounts."""
        found: dict[str, tuple[tuple[str, str], ...]] = {}
        query = "SELECT container, reference, image_id FROM mounted_images ORDER BY reference"
        for container, reference, image_id in self.catalog.database.read().execute(query):
            found[container] = (*found.get(container, ()), (reference, image_id))
        return found

    def check(self, image_id: str) -> bool:
        """Whether every layer's directory is there."""
        return self.bringer.complete(image_id)

    def pull(self, ref: ImageRef, *, platform: str = "", progress: ProgressCallback | None = None) -> str:
        """Bring `ref` into the store, unpacked, and call it so. Returns the image id."""
        id = self.bringer.pull(ref, platform=platform, progress=progress)
        self._tell("pull", id, ref)
        return id

    def measure(self, ref: ImageRef, *, platform: str = "") -> Need:
        """What pulling `ref` would take of the disk. The registry is asked, layers are not downloaded."""
        return self.bringer.measure(ref, platform=platform)

    def import_path(
        self,
        path: Path,
        name: ImageRef | None,
        *,
        platform: str = "",
        described: Described | None = None,
    ) -> str:
        """A root filesystem (which may be `described`), OCI layout or docker-archive, directory or tar,
        becomes `name`. Returns its id."""
        id = self.bringer.import_path(path, name, platform=platform, described=described)
        self._tell("import", id, name)
        return id

    def _tell(self, action: str, id: str, name: ImageRef | None) -> None:
        events.tell(self._root, "image", action, id, name.familiar if name is not None else id)

    def load(self, path: Path, *, platform: str = "") -> Iterator[Loaded]:
        """Every image of an OCI layout or docker-archive, under the names that it has there."""
        for loaded in self.bringer.load(path, platform=platform):
            self._tell("load", loaded.id, next(iter(loaded.names), None))
            yield loaded

    def tag(self, id: str, ref: ImageRef) -> None:
        """Give an image another name; the name leaves whatever image had it."""
        self.catalog.tag(id, ref)

    def ensure_layers(self, image_id: str) -> Directories:
        """The layers' directories, bottom first. One that is missing is unpacked anew from its blob."""
        return self.bringer.ensure_layers(image_id)

    def ensure_lowers(self, image_id: str) -> Directories:
        """What is under a container's writable layer, bottom first: `ensure_layers`, and places to mount on
        that they lack."""
        return self.collector.points.over(self.ensure_layers(image_id), self.hold)

    # ------------------------------------------------------------ made here

    def config_of(self, id: str) -> bytes:
        """The image's config as it came. Fault image-not-found."""
        return self.composer.config_of(id)

    def hold(self) -> AbstractContextManager[bool]:
        """Nothing is collected meanwhile: neither layers that no image has yet, nor archives of them."""
        return self.collector.using()

    def commit_layer(self, upper: Path, parent: str, *, epoch: int | None = None) -> CommittedLayer:
        """A finished overlay upper directory becomes the layer over the chain id `parent`, and is gone."""
        with self.hold():
            return self.composer.commit_layer(upper, parent, epoch=epoch)

    def layer_tar(self, chain_id: str) -> Iterator[bytes]:
        """The layer's uncompressed archive; Fault digest-mismatch at its end where it rotted."""
        return self.composer.layer_tar(chain_id)

    def layer_blob(self, chain_id: str, compression: str = "gzip") -> Descriptor:
        """The layer's archive (gzip, zstd, none) as a blob of the store, made where there is none."""
        with self.hold():
            return self.composer.layer_blob(chain_id, compression)

    def add_image(
        self, config: bytes, chain: Sequence[str], names: Sequence[ImageRef], parent: str = ""
    ) -> str:
        """An image of layers that are here, its config as it is, made from the image `parent` (an id).
        Returns its id."""
        with self.hold():
            return self.composer.add_image(config, chain, names, parent)

    def manifest_of(self, image_id: str) -> bytes:
        """The manifest that the image came with, as long as all it names is here; else one made for it."""
        with self.hold():
            return self.composer.manifest_of(image_id)

    # ------------------------------------------------------------ out

    def push(
        self, ref: ImageRef, *, platform: str = "", listener: Callable[[PushProgress], None] = lambda _: None
    ) -> Pushed:
        """The image that is called `ref` goes to the registry that the name says, under that name. `platform`
        is what it must be for. Repeatable: what the registry has is not sent."""
        with self.hold():
            pushed = push_image(self.pusher, self.composer, ref, platform, listener)
        self._tell("push", str(ref), ref)
        return pushed

    def push_index(
        self,
        ref: ImageRef,
        image_ids: Sequence[str],
        *,
        listener: Callable[[PushProgress], None] = lambda _: None,
    ) -> Pushed:
        """Images of this store, each for a platform of its own, go to a registry as one index."""
        with self.hold():
            entries = [self._entry(image_id) for image_id in image_ids]
            return self._push_draft(ref, indexes.Draft(str(ref), tuple(entries)), listener)

    def push_draft(
        self, ref: ImageRef, *, listener: Callable[[PushProgress], None] = lambda _: None
    ) -> Pushed:
        """An index that was put together here (`indexes`). Faults request-invalid, image-not-found,
        registry-*.
        """
        with self.hold():
            return self._push_draft(ref, self.indexes.checked(ref), listener)

    def _push_draft(
        self, ref: ImageRef, draft: indexes.Draft, listener: Callable[[PushProgress], None]
    ) -> Pushed:
        children = [Child(entry.data, indexes.source_repository(entry, ref.host)) for entry in draft.entries]
        return self.pusher.push_index(ref, draft.document(), children, listener)

    def create_draft(self, ref: ImageRef, sources: Sequence[ImageRef], *, amend: bool = False) -> None:
        """An index of images that registries have, or this store, kept here until it is pushed."""

        def local(source: ImageRef) -> indexes.Entry | None:
            image = self.get(str(source))
            return self._entry(image.id, str(source)) if image is not None else None

        self.indexes.create(ref, sources, amend=amend, local=local)

    def _entry(self, image_id: str, source: str = "") -> indexes.Entry:
        manifest = self.manifest_of(image_id)
        config = self.catalog.config(image_id)
        return indexes.Entry(source or image_id, manifest.decode(), indexes.target_of(config, image_id))

    def save(self, names: Sequence[str], form: str, sink: Sink) -> None:
        """The images as files (one of save.FORMATS), each once, under the names that are asked for."""
        with self.hold():
            self.saver.save(save.chosen(self.catalog, names), form, sink)

    def remove(self, name: str, *, force: bool = False) -> tuple[str, ...]:
        """Take a name away, and with its last name the image. Returns `Untagged:` and `Deleted:` lines."""
        return self.collector.remove(name, force=force)

    def collect(self, keep: Collection[str], now: float, limits: Limits = LIMITS) -> tuple[Removed, ...]:
        """Remove what nothing needs and the limits let go: neither the images `keep` (ids), nor what a
        container uses. `now` is seconds since the epoch. Nothing while something is being brought in or
        built; may be called as often as one likes. Returns what went, with the reason."""
        return self.collector.evict(keep, now, limits)

    def sweep(self) -> tuple[str, ...]:
        """Remove what a crash left half-made and what no image has. Returns what was removed."""
        return self.collector.sweep()
