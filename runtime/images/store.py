"""Effects: the images of this node: what they are called, what they consist of, and how they get here.

Names, ids and layer order are in the database; bytes are blobs; unpacked layers are directories. A row is
written only after all that it speaks of is on disk: whenever the machine loses power, an image that is listed
is complete, and what is not listed is swept away.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.database import Database
from runtime.faults import Fault, faults
from runtime.images import archives
from runtime.images.blobs import BlobStore
from runtime.images.compression import decompressed
from runtime.images.endpoint import RegistrySettings
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
from runtime.images.registry import Document, Registries, Remote
from runtime.interface import ObservedImage, Progress, ProgressCallback
from runtime.paths import Paths
from specs.values import ImageRef

__all__ = ["IMAGES_SCHEMA", "ImageStore", "RegistrySettings", "StoredImage"]

IMAGES_SCHEMA = """
CREATE TABLE IF NOT EXISTS images (
    id          TEXT PRIMARY KEY,   -- sha256 of the config's bytes
    config      TEXT NOT NULL,      -- those bytes
    manifest    TEXT NOT NULL,      -- digest of the manifest, empty when imported without one
    platform    TEXT NOT NULL,
    size        INTEGER NOT NULL,   -- of the unpacked layers, bytes
    created     TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS image_names (
    reference   TEXT PRIMARY KEY,   -- canonical: host/repository:tag or host/repository@digest
    image       TEXT NOT NULL REFERENCES images(id),
    digest      TEXT NOT NULL       -- what the registry calls it: of the index or manifest that was pulled
) STRICT;
CREATE INDEX IF NOT EXISTS image_names_by_image ON image_names(image);
CREATE TABLE IF NOT EXISTS layers (
    chain_id    TEXT PRIMARY KEY,
    diff_id     TEXT NOT NULL,
    blob        TEXT NOT NULL,      -- digest of the (compressed) archive it came from
    size        INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS image_layers (
    image       TEXT NOT NULL REFERENCES images(id),
    position    INTEGER NOT NULL,   -- 0: bottom
    chain_id    TEXT NOT NULL REFERENCES layers(chain_id),
    PRIMARY KEY (image, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS image_layers_by_chain ON image_layers(chain_id);
"""

Names = list[str]  # ImageStore.list hides the builtin in annotations
Directories = list[Path]

PARALLEL = 3  # downloads at once, over all pulls
PROGRESS_INTERVAL = 0.1  # seconds between two reports of one pull
MAX_NESTED = 3  # indexes that point at indexes
MIN_PREFIX = 4  # hex digits of an abbreviated id
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
class StoredImage:
    """`id` is `sha256:<hex>` of the config, `config` the whole config document, `chain_ids` bottom first."""

    id: str
    names: tuple[str, ...]
    config: Mapping[str, Any]
    chain_ids: tuple[str, ...]
    size: int = 0
    created: str = ""


@dataclass(frozen=True, slots=True)
class _Plan:
    """An image whose config is known, and where its layers' blobs come from."""

    subject: str
    id: str
    config: ImageConfig
    text: bytes
    manifest: str
    blobs: tuple[Descriptor, ...]
    fetch: Callable[[Descriptor], object]  # makes sure that a blob is in the store
    cancel: Callable[[], None] = lambda: None  # makes running fetches fail soon


class ImageStore:
    """Images under `paths`. Thread-safe; several processes may use one store at once."""

    def __init__(
        self,
        paths: Paths,
        database: Database,
        *,
        registries: Mapping[str, RegistrySettings] | None = None,
        parallel: int = PARALLEL,
    ) -> None:
        self._database = database
        self.blobs = BlobStore(paths.blobs)
        self.layers = LayerStore(paths.layers)
        self._users = paths.root / "images.lock"
        self._registries = Registries(registries or {})
        self._parallel = parallel
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._refused: dict[str, Fault] = {}  # by manifest: its bytes will not be better next time

    def close(self) -> None:
        """Cancel downloads and drop connections."""
        self._registries.close()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    # ------------------------------------------------------------ look

    def list(self) -> list[ObservedImage]:
        names: dict[str, list[str]] = {}
        connection = self._database.read()
        for reference, image in connection.execute(
            "SELECT reference, image FROM image_names ORDER BY reference"
        ):
            names.setdefault(image, []).append(reference)
        rows = connection.execute("SELECT id, size, created, platform FROM images ORDER BY id").fetchall()
        return [ObservedImage(row[0], tuple(names.get(row[0], ())), *row[1:]) for row in rows]

    def get(self, name_or_id: str) -> StoredImage | None:
        """By canonical or familiar reference, id, or a prefix of an id that fits one image only."""
        id = self._find(name_or_id)
        if not id:
            return None
        connection = self._database.read()
        row = connection.execute("SELECT config, size, created FROM images WHERE id = ?", (id,)).fetchone()
        if row is None:
            return None
        return StoredImage(id, self._names(id), json.loads(row[0]), self._chain(id), row[1], row[2])

    def _find(self, text: str) -> str:
        connection = self._database.read()
        query = "SELECT image FROM image_names WHERE reference = ?"
        row = connection.execute(query, (text,)).fetchone()
        if row is None:
            try:
                row = connection.execute(query, (str(ImageRef.parse(text)),)).fetchone()
            except ValueError:
                pass
        if row is not None:
            return str(row[0])
        digits = text.removeprefix("sha256:")
        if len(digits) < MIN_PREFIX or not set(digits) <= set("0123456789abcdef"):
            return ""
        like = f"sha256:{digits}%"
        rows = connection.execute("SELECT id FROM images WHERE id LIKE ? LIMIT 2", (like,)).fetchall()
        return str(rows[0][0]) if len(rows) == 1 else ""

    def called(self, image: StoredImage, text: str) -> str:
        """The name by which `text` means the image; empty where it means it by its id."""
        if image.id.startswith(text) or image.id[7:].startswith(text):
            return ""
        return text if text in image.names else str(ImageRef.parse(text))

    def _names(self, id: str) -> tuple[str, ...]:
        query = "SELECT reference FROM image_names WHERE image = ? ORDER BY reference"
        return tuple(row[0] for row in self._database.read().execute(query, (id,)))

    def _chain(self, id: str) -> tuple[str, ...]:
        query = "SELECT chain_id FROM image_layers WHERE image = ? ORDER BY position"
        return tuple(row[0] for row in self._database.read().execute(query, (id,)))

    def check(self, image_id: str) -> bool:
        """Whether every layer's directory is there."""
        chain = self._chain(image_id)
        return all(self.layers.has(chain_id) for chain_id in chain)

    # ------------------------------------------------------------ bring in

    def pull(self, ref: ImageRef, *, platform: str = "", progress: ProgressCallback | None = None) -> str:
        """Bring `ref` into the store, unpacked, and call it so. Returns the image id.

        Does as little as it takes: nothing for a digest that is here, one HEAD for a tag that did not move.
        """
        try:
            wanted = Platform.parse(platform) if platform else host_platform()
        except ValueError as error:
            raise Fault("request-invalid", "pull image", ref.familiar, str(error)) from error
        with self._bringing(), faults("pull image", ref.familiar):
            known = self._known(ref, wanted)
            if ref.digest and known:
                return self._name(ref, known, ref.digest)
            remote = self._registries.remote(ref)
            if known and remote.head() == self._digest_of(ref):
                return known
            document = remote.manifest()
            plan = self._plan(ref, remote, document, wanted, _Meter(ref.familiar, progress))
            self._bring_once(plan)
            return self._record(plan, ref, document.digest)

    @contextmanager
    def _bringing(self) -> Iterator[None]:
        """Hold the store against collection; nothing stays of an image that is refused."""
        try:
            with self._using():
                yield
        except Fault as fault:
            if fault.code in _REFUSED:
                with suppress(Fault, OSError, sqlite3.Error):
                    self._collect()
            raise

    def _bring_once(self, plan: _Plan) -> None:
        """A manifest whose layer was refused is refused again without its layers being downloaded again."""
        known = self._refused.get(plan.manifest)
        if known is not None:
            raise Fault(known.code, known.operation, plan.subject, known.cause, known.hint)
        try:
            self._bring(plan)
        except Fault as fault:
            if fault.code == "layer-invalid":
                with self._lock:
                    self._refused[plan.manifest] = fault
                    while len(self._refused) > MAX_REFUSED:
                        del self._refused[next(iter(self._refused))]
            raise

    def _known(self, ref: ImageRef, wanted: Platform) -> str:
        """The id of a complete image that is called `ref`, or has its digest, and is for `wanted`."""
        connection = self._database.read()
        row = connection.execute(
            "SELECT images.id, platform FROM image_names JOIN images ON image = id WHERE reference = ?"
            " OR (? <> '' AND digest = ? AND reference LIKE ?) LIMIT 1",
            (str(ref), ref.digest, ref.digest, f"{ref.name}:%"),
        ).fetchone()
        if row is None or Platform.parse(row[1]).fitness(wanted) == 0:
            return ""
        return str(row[0]) if self.check(row[0]) else ""

    def _digest_of(self, ref: ImageRef) -> str:
        query = "SELECT digest FROM image_names WHERE reference = ?"
        row = self._database.read().execute(query, (str(ref),)).fetchone()
        return str(row[0]) if row and row[0] else "unknown"

    def _plan(
        self, ref: ImageRef, remote: Remote, document: Document, wanted: Platform, meter: _Meter
    ) -> _Plan:
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
        self.blobs.fetch(parsed.config, lambda writer: remote.blob(parsed.config, writer, lambda _: None))
        text = self.blobs.read(parsed.config.digest)
        config = parse_config(text, subject)
        match_layers(parsed, config, subject)
        check_platform(config, wanted, subject)

        def fetch(descriptor: Descriptor) -> object:
            return self.blobs.fetch(
                descriptor,
                lambda writer: remote.blob(descriptor, writer, lambda done: meter.report(descriptor, done)),
            )

        self.blobs.put(document.data)
        meter.expect(parsed.layers)
        return _Plan(
            subject, parsed.config.digest, config, text, document.digest, parsed.layers, fetch, remote.cancel
        )

    def import_path(self, path: Path, name: ImageRef) -> str:
        """A root filesystem, OCI layout or docker-archive (directory or tar) becomes `name`.

        Importing the same content twice gives the same id. Returns the image id.
        """
        if name.digest:
            cause = f"{name.familiar} has a digest, which stands for what a registry has"
            raise Fault("request-invalid", "import image", str(path), cause, "write NAME:TAG")
        with self._bringing(), faults("import image", str(path)):
            with archives.open_archive(path, self.blobs, name, host_platform()) as found:
                plan = _Plan(
                    name.familiar,
                    found.id,
                    found.config,
                    found.text,
                    found.manifest,
                    found.layers,
                    found.fetch,
                )
                self._bring(plan)
                return self._record(plan, name, found.manifest)

    def _bring(self, plan: _Plan) -> None:
        """Have every layer unpacked: downloads run side by side, unpacking follows bottom first."""
        diff_ids = plan.config.diff_ids
        chain = chain_ids(diff_ids)
        missing = [index for index in range(len(chain)) if not self.layers.has(chain[index])]
        pool = self._executor()
        downloads: dict[int, Future[object]] = {}
        try:
            downloads = {index: pool.submit(plan.fetch, plan.blobs[index]) for index in missing}
            for index in missing:
                downloads[index].result()
                self._unpack(plan.subject, chain, index, diff_ids[index], plan.blobs[index].digest)
        except BaseException:
            plan.cancel()
            raise
        finally:
            for download in downloads.values():
                download.cancel()
            for download in downloads.values():
                if not download.cancelled():
                    download.exception()

    def _executor(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._parallel, "pull")
            return self._pool

    def _unpack(self, subject: str, chain: Sequence[str], index: int, diff_id: str, blob: str) -> None:
        def data() -> Iterator[bytes]:
            with self.blobs.open(blob) as file:
                yield from decompressed(file)

        job = LayerJob(chain[index], diff_id, chain[:index], data)
        size = self.layers.unpack(job, subject)
        if size is None and self._layer(chain[index]) is not None:
            return
        with self._database.write() as connection:
            connection.execute(
                "INSERT INTO layers VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET blob = excluded.blob, size = max(size, excluded.size)",
                (chain[index], diff_id, blob, size or 0),
            )

    def _layer(self, chain_id: str) -> sqlite3.Row | None:
        row: sqlite3.Row | None = (
            self._database.read().execute("SELECT * FROM layers WHERE chain_id = ?", (chain_id,)).fetchone()
        )
        return row

    def _record(self, plan: _Plan, ref: ImageRef, digest: str) -> str:
        chain = chain_ids(plan.config.diff_ids)
        with self._database.write() as connection:
            for chain_id, diff_id, blob in zip(chain, plan.config.diff_ids, plan.blobs, strict=True):
                connection.execute(
                    "INSERT OR IGNORE INTO layers VALUES (?, ?, ?, 0)", (chain_id, diff_id, blob.digest)
                )
            marks = ",".join("?" * len(chain))
            size = connection.execute(
                f"SELECT coalesce(sum(size), 0) FROM layers WHERE chain_id IN ({marks})", chain
            ).fetchone()[0]
            connection.execute(
                "INSERT INTO images VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET size = excluded.size",
                (
                    plan.id,
                    plan.text.decode(),
                    plan.manifest,
                    str(plan.config.platform),
                    size,
                    plan.config.created,
                ),
            )
            connection.executemany(
                "INSERT OR IGNORE INTO image_layers VALUES (?, ?, ?)",
                [(plan.id, position, chain_id) for position, chain_id in enumerate(chain)],
            )
            return self._name(ref, plan.id, digest)

    def _name(self, ref: ImageRef, id: str, digest: str) -> str:
        with self._database.write() as connection:
            connection.execute(
                "INSERT INTO image_names VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET image = excluded.image, digest = excluded.digest",
                (str(ref), id, digest),
            )
        return id

    def tag(self, id: str, ref: ImageRef) -> None:
        """Give an image another name; the name leaves whatever image had it."""
        image = self.get(id)
        if image is None:
            raise Fault("image-not-found", "tag image", id, "it is not in the store")
        if ref.digest:
            raise Fault("request-invalid", "tag image", id, "a name with a digest cannot be given")
        self._name(ref, image.id, "")

    def ensure_layers(self, image_id: str) -> Directories:
        """The layers' directories, bottom first. One that is missing is unpacked anew from its blob."""
        chain = self._chain(image_id)
        for index, chain_id in enumerate(chain):
            if not self.layers.has(chain_id):
                self._restore(image_id, chain, index)
        return [self.layers.path(chain_id) for chain_id in chain]

    def _restore(self, image_id: str, chain: Sequence[str], index: int) -> None:
        image = self.get(image_id)
        subject = image.names[0] if image and image.names else image_id
        row = self._layer(chain[index])
        if row is None or not self.blobs.has(row["blob"]):
            raise Fault(
                "layer-invalid",
                "unpack layer of",
                subject,
                f"neither layer {chain[index][7:19]} nor its archive is in the store",
                "pull or import the image again",
            )
        with faults("unpack layer of", subject), self._using():
            self._unpack(subject, chain, index, row["diff_id"], row["blob"])

    # ------------------------------------------------------------ take away

    def remove(self, name: str) -> tuple[str, ...]:
        """Take a name away; with its last name goes the image, and every layer that no other image has.

        By id when it has one name at most. Returns `Untagged: ...` and `Deleted: ...` lines.
        """
        image = self.get(name)
        if image is None:
            raise Fault("image-not-found", "remove image", name, "it is not in the store")
        called = self.called(image, name)
        if not called and len(image.names) > 1:
            cause = f"it has the names {', '.join(image.names)}"
            raise Fault("request-invalid", "remove image", name, cause, "remove it by name")
        gone = (called,) if called else image.names
        lines = [f"Untagged: {reference}" for reference in gone]
        with self._database.write() as connection:
            connection.executemany("DELETE FROM image_names WHERE reference = ?", [(item,) for item in gone])
            if not self._names(image.id):
                connection.execute("DELETE FROM image_layers WHERE image = ?", (image.id,))
                connection.execute("DELETE FROM images WHERE id = ?", (image.id,))
                lines.append(f"Deleted: {image.id}")
        with faults("remove image", name):
            lines += self._collect()
        return tuple(lines)

    def _collect(self) -> Names:
        """Delete layers and blobs that no image has. Left for later while something is being pulled."""
        with self._using(alone=True) as alone:
            if not alone:
                return []
            with self._database.write() as connection:
                connection.execute(
                    "DELETE FROM layers WHERE chain_id NOT IN (SELECT chain_id FROM image_layers)"
                )
            connection = self._database.read()
            kept = {row[0] for row in connection.execute("SELECT chain_id FROM layers")}
            lines = []
            for chain_id in self.layers.chain_ids():
                if chain_id not in kept:
                    self.layers.remove(chain_id)
                    lines.append(f"Deleted: {chain_id}")
            query = "SELECT blob FROM layers UNION SELECT id FROM images UNION SELECT manifest FROM images"
            used = {row[0] for row in connection.execute(query)}
            for digest in self.blobs.digests():
                if digest not in used:
                    self.blobs.remove(digest)
        return lines

    def sweep(self) -> tuple[str, ...]:
        """Remove what a crash left half-made and what no image has. Returns what was removed."""
        with faults("sweep", "images"):
            removed = self.layers.sweep() + self.blobs.sweep(time.time())
            return tuple(removed + [line.replace("Deleted:", "layer") for line in self._collect()])

    @contextmanager
    def _using(self, *, alone: bool = False) -> Iterator[bool]:
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


class _Meter:
    """Sums the progress of one pull's downloads and passes it on, now and then."""

    def __init__(self, subject: str, callback: ProgressCallback | None) -> None:
        self._subject, self._callback = subject, callback
        self._done: dict[str, int] = {}
        self._total, self._next, self._lock = 0, 0.0, threading.Lock()

    def expect(self, layers: Sequence[Descriptor]) -> None:
        self._total = sum(layer.size for layer in layers)

    def report(self, layer: Descriptor, done: int) -> None:
        if self._callback is None:
            return
        with self._lock:
            self._done[layer.digest] = done
            now = time.monotonic()
            if now < self._next and done < layer.size:
                return
            self._next = now + PROGRESS_INTERVAL
            total = sum(self._done.values())
        self._callback(Progress(self._subject, "download", total, self._total))
