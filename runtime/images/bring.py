"""Effects: how an image gets into the store: from a registry or an archive, into directories of layers.

Downloads run side by side; what they bring is verified, unpacked, and only then recorded.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from runtime.faults import Fault, faults
from runtime.images import archives
from runtime.images.arrival import PIECE, Arrival
from runtime.images.blobs import BlobStore, Writer
from runtime.images.catalog import Catalog, NewImage
from runtime.images.collect import Collector
from runtime.images.layers import LayerJob, LayerStore, chain_ids
from runtime.images.manifests import (
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    check_platform,
    host_platform,
    match_layers,
    parse_config,
    parse_manifest,
    select,
)
from runtime.images.meter import Meter
from runtime.images.pipeline import Piece, Pipeline, Source, Watch
from runtime.images.registry import Document, Registries, Remote
from runtime.interface import ProgressCallback
from specs.values import ImageRef

PARALLEL = 3  # downloads at once, over all pulls
EXPANSION = 3  # times its size that an archive is about, unpacked: gzip makes a third of most systems
MAX_NESTED = 3  # indexes that point at indexes
MAX_REFUSED = 64  # manifests that are remembered

#: faults after which what was brought of an image is of no use, or in the way
_REFUSED = frozenset(
    {
        "archive-invalid",
        "digest-mismatch",
        "disk-full",
        "layer-invalid",
        "manifest-invalid",
        "platform-missing",
    }
)


@dataclass(frozen=True, slots=True)
class _Plan:
    """An image whose config is known, and where its layers' blobs come from."""

    subject: str
    id: str
    config: ImageConfig
    text: bytes
    manifest: str
    blobs: tuple[Descriptor, ...]
    source: Source
    watch: Watch


@dataclass(frozen=True, slots=True)
class Need:
    """What a pull would take of the disk, in bytes: archives that would come, and about what they unpack to.
    Both stay. `download` 0 and `unpacked` 0: nothing is missing.
    """

    download: int
    unpacked: int


@dataclass(frozen=True, slots=True)
class _Offer:
    """An image as a registry has it, for one platform."""

    id: str
    manifest: Document
    layers: tuple[Descriptor, ...]
    config: ImageConfig
    text: bytes


@dataclass(frozen=True, slots=True)
class Loaded:
    """An image that came out of an archive, and what it is called there."""

    id: str
    names: tuple[ImageRef, ...]


def _platform(text: str, operation: str, subject: str) -> Platform:
    """As asked, else this machine's. Fault request-invalid."""
    try:
        return Platform.parse(text) if text else host_platform()
    except ValueError as error:
        raise Fault("request-invalid", operation, subject, str(error)) from error


class Bringer:
    """Thread-safe; several processes may bring into one store at once."""

    def __init__(
        self,
        catalog: Catalog,
        blobs: BlobStore,
        layers: LayerStore,
        collector: Collector,
        registries: Registries,
        parallel: int = PARALLEL,
    ) -> None:
        self._catalog, self._blobs, self._layers = catalog, blobs, layers
        self._collector, self._registries = collector, registries
        self._parallel = parallel
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._refused: dict[str, Fault] = {}  # by manifest: its bytes will not be better next time
        self._running: dict[str, Future[None]] = {}  # by manifest: what is being brought

    def close(self) -> None:
        """Cancel downloads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def pull(self, ref: ImageRef, *, platform: str = "", progress: ProgressCallback | None = None) -> str:
        """Bring `ref` into the store, unpacked, and call it so. Returns the image id.

        Does as little as it takes: nothing for a digest that is here, one HEAD for a tag that did not move.
        """
        wanted = _platform(platform, "pull image", ref.familiar)
        with self._bringing(), faults("pull image", ref.familiar):
            known = self._known(ref, wanted)
            if ref.digest and known:
                return self._catalog.name(ref, known, ref.digest)
            remote = self._registries.remote(ref)
            if known and remote.head() == self._catalog.digest_of(ref):
                return known
            document = remote.manifest()
            offer = self._offer(ref, remote, document, wanted)
            plan = self._plan(ref, remote, offer, Meter(ref.familiar, progress))
            self._bring_together(plan)
            return self._record(plan, [ref], document.digest)

    def measure(self, ref: ImageRef, *, platform: str = "") -> Need:
        """What pulling `ref` would need now. Asks the registry as `pull` does; layers are not downloaded."""
        wanted = _platform(platform, "pull image", ref.familiar)
        with self._bringing(), faults("pull image", ref.familiar):
            known = self._known(ref, wanted)
            remote = self._registries.remote(ref)
            if known and (ref.digest or remote.head() == self._catalog.digest_of(ref)):
                return Need(0, 0)
            offer = self._offer(ref, remote, remote.manifest(), wanted)
            chain = chain_ids(offer.config.diff_ids)
            missing = {
                blob.digest: blob.size
                for blob, chain_id in zip(offer.layers, chain, strict=True)
                if not self._layers.has(chain_id)
            }
            download = sum(size for digest, size in missing.items() if not self._blobs.has(digest))
            return Need(download, EXPANSION * sum(missing.values()))

    @contextmanager
    def _bringing(self) -> Iterator[None]:
        """Hold the store against collection; nothing stays of an image that is refused."""
        try:
            with self._collector.using():
                yield
        except Fault as fault:
            if fault.code in _REFUSED:
                with suppress(Fault, OSError, sqlite3.Error):
                    self._collector.collect()
            raise

    def _bring_together(self, plan: _Plan) -> None:
        """Whoever comes while the same image is being brought waits for it, and fails as it does."""
        with self._lock:
            running = self._running.get(plan.manifest)
            if running is None:
                own = self._running[plan.manifest] = Future[None]()
        if running is not None:
            running.result()
            self._bring(plan)  # that nothing is missing is seen here
            return
        try:
            self._bring_once(plan)
        except BaseException as error:
            own.set_exception(error)
            raise
        else:
            own.set_result(None)
        finally:
            with self._lock:
                del self._running[plan.manifest]

    def _bring_once(self, plan: _Plan) -> None:
        """A manifest whose layer was refused is refused again without its layers being downloaded again."""
        known = self._refused.get(plan.manifest)
        if known is not None:
            raise Fault(known.code, known.operation, plan.subject, known.cause, known.hint)
        try:
            self._bring(plan)
        except Fault as fault:
            if fault.code in _REFUSED:
                for blob in plan.blobs:
                    self._blobs.abandon(blob.digest)
            if fault.code == "layer-invalid":
                with self._lock:
                    self._refused[plan.manifest] = fault
                    while len(self._refused) > MAX_REFUSED:
                        del self._refused[next(iter(self._refused))]
            raise

    def _known(self, ref: ImageRef, wanted: Platform) -> str:
        """The id of a complete image that is called `ref`, or has its digest, and is for `wanted`."""
        connection = self._catalog.database.read()
        row = connection.execute(
            "SELECT images.id, platform FROM image_names JOIN images ON image = id WHERE reference = ?"
            " OR (? <> '' AND digest = ? AND reference LIKE ?) LIMIT 1",
            (str(ref), ref.digest, ref.digest, f"{ref.name}:%"),
        ).fetchone()
        if row is None or Platform.parse(row[1]).fitness(wanted) == 0:
            return ""
        return str(row[0]) if self.complete(row[0]) and self._archived(row[0]) else ""

    def _archived(self, id: str) -> bool:
        """Whether the archives that its layers came from are all there."""
        query = "SELECT blob FROM layers JOIN image_layers USING (chain_id) WHERE image = ? AND blob <> ''"
        return all(self._blobs.has(row[0]) for row in self._catalog.database.read().execute(query, (id,)))

    def _offer(self, ref: ImageRef, remote: Remote, document: Document, wanted: Platform) -> _Offer:
        """Find the manifest for this platform and read its config."""
        subject = ref.familiar
        parsed = parse_manifest(document.data, subject, document.media_type)
        for _ in range(MAX_NESTED):
            if isinstance(parsed, Manifest):
                break
            document = remote.manifest(select(parsed, wanted, subject).digest)
            parsed = parse_manifest(document.data, subject, document.media_type)
        if isinstance(parsed, Index):
            raise Fault(
                "manifest-invalid", "pull image", subject, "its indexes point at indexes without an end"
            )
        self._blobs.fetch(parsed.config, lambda writer: remote.blob(parsed.config, writer, lambda _: None))
        text = self._blobs.read(parsed.config.digest)
        config = parse_config(text, subject)
        match_layers(parsed, config, subject)
        check_platform(config, wanted, subject)
        return _Offer(parsed.config.digest, document, parsed.layers, config, text)

    def _plan(self, ref: ImageRef, remote: Remote, offer: _Offer, meter: Meter) -> _Plan:
        def fetch(blob: Descriptor, arrival: Arrival) -> object:
            def get(writer: Writer) -> None:
                remote.blob(blob, writer, lambda done: meter.downloading(blob, done))

            return self._blobs.fetch(blob, get, arrival)

        self._blobs.put(offer.manifest.data)
        source = Source(fetch, self._blobs.path, remote.cancel)
        return _Plan(
            ref.familiar,
            offer.id,
            offer.config,
            offer.text,
            offer.manifest.digest,
            offer.layers,
            source,
            meter,
        )

    def import_path(
        self,
        path: Path,
        name: ImageRef | None,
        *,
        platform: str = "",
        described: archives.Described | None = None,
    ) -> str:
        """A root filesystem, OCI layout or docker-archive (directory or tar) becomes `name`; without one it
        is dangling. Only a root filesystem may be `described`.

        Importing the same content twice gives the same id. Returns the image id.
        """
        if name is not None and name.digest:
            cause = f"{name.familiar} has a digest, which stands for what a registry has"
            raise Fault("request-invalid", "import image", str(path), cause, "write NAME:TAG")
        wanted = _platform(platform, "import image", str(path))
        with self._bringing(), faults("import image", str(path)):
            with archives.open_archive(path, self._blobs, name, wanted, described) as found:
                subject = name.familiar if name else str(path)
                return self._take(found, [name] if name else [], subject, found.manifest)

    def load(self, path: Path, *, platform: str = "") -> Iterator[Loaded]:
        """Every image of an OCI layout or docker-archive (directory or tar), each as soon as it is here,
        under the names that it has there. What was loaded stays when a later one is refused."""
        wanted = _platform(platform, "import image", str(path))
        with self._bringing(), faults("import image", str(path)):
            with archives.open_images(path, self._blobs, wanted, other=not platform) as images:
                for found in images:
                    subject = found.names[0].familiar if found.names else str(path)
                    yield Loaded(self._take(found, found.names, subject), found.names)

    def _take(self, found: archives.Found, names: Sequence[ImageRef], subject: str, digest: str = "") -> str:
        source = Source(lambda blob, _: found.fetch(blob), self._blobs.path)
        plan = _Plan(
            subject, found.id, found.config, found.text, found.manifest, found.layers, source, Watch()
        )
        self._bring(plan)
        return self._record(plan, names, digest)

    def _bring(self, plan: _Plan) -> None:
        """Have every layer unpacked."""
        diff_ids = plan.config.diff_ids
        chain = chain_ids(diff_ids)
        pieces = [
            Piece(index, chain[index], diff_ids[index], plan.blobs[index], chain[:index])
            for index in range(len(chain))
            if not self._layers.has(chain[index])
        ]
        plan.watch.expect(plan.blobs, [piece.blob for piece in pieces])

        def made(piece: Piece, size: int | None) -> None:
            if size is not None or self._catalog.layer(piece.chain_id) is None:
                self._catalog.add_layer(piece.chain_id, piece.diff_id, piece.blob.digest, size or 0)

        Pipeline(self._layers, self._executor(), plan.source, plan.subject, made, plan.watch).run(pieces)
        self._bring_archives(plan, chain)

    def _bring_archives(self, plan: _Plan, chain: Sequence[str]) -> None:
        """Of layers that are there, but whose archives are not: `stead image verify` takes what rotted."""
        for chain_id, diff_id, blob in zip(chain, plan.config.diff_ids, plan.blobs, strict=True):
            row = self._catalog.layer(chain_id)
            if row is not None and row["blob"] and not self._blobs.has(row["blob"]):
                with closing(Arrival()) as arrival:
                    plan.source.fetch(blob, arrival)
                self._catalog.add_layer(chain_id, diff_id, blob.digest, 0)

    def _executor(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._parallel, "pull")
            return self._pool

    def _record(self, plan: _Plan, names: Sequence[ImageRef], digest: str) -> str:
        blobs = [blob.digest for blob in plan.blobs]
        new = NewImage(plan.id, plan.text, plan.config, blobs, plan.manifest)
        return self._catalog.record(new, names, digest)

    def ensure_layers(self, image_id: str) -> list[Path]:
        """The layers' directories, bottom first. One that is missing is unpacked anew from its blob."""
        chain = self._catalog.chain(image_id)
        for index, chain_id in enumerate(chain):
            if not self._layers.has(chain_id):
                self._restore(image_id, chain, index)
        return [self._layers.path(chain_id) for chain_id in chain]

    def _restore(self, image_id: str, chain: Sequence[str], index: int) -> None:
        image = self._catalog.get(image_id)
        subject = image.names[0] if image and image.names else image_id
        row = self._catalog.layer(chain[index])
        if row is None or not self._blobs.has(row["blob"]):
            raise Fault(
                "layer-invalid",
                "unpack layer of",
                subject,
                f"neither layer {chain[index][7:19]} nor its archive is in the store",
                "pull or import the image again",
            )
        blob = row["blob"]

        def data() -> Iterator[bytes]:
            with self._blobs.open(blob) as file:
                while piece := file.read(PIECE):
                    yield piece

        with faults("unpack layer of", subject), self._collector.using():
            job = LayerJob(chain[index], row["diff_id"], chain[:index], data)
            size = self._layers.unpack(job, subject)
            if size is not None:
                self._catalog.add_layer(chain[index], row["diff_id"], blob, size)

    def complete(self, image_id: str) -> bool:
        """Whether every layer's directory is there."""
        chain = self._catalog.chain(image_id)
        return all(self._layers.has(chain_id) for chain_id in chain)
