"""Effects: images of this store into registries: blobs that are missing there, then manifests, then an index.

Source: OCI distribution-spec 1.1, "Push". A name is given last: whoever pulls it finds all that it speaks of.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from runtime.faults import Fault, faults
from runtime.images import auth
from runtime.images.answers import dismiss
from runtime.images.blobs import BlobStore
from runtime.images.catalog import Catalog
from runtime.images.compose import Composer
from runtime.images.connections import Errand
from runtime.images.endpoint import Body, Endpoint, Request
from runtime.images.manifests import (
    ACCEPT,
    DOCKER_CONFIG,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    Platform,
    config_platform,
    parse_manifest,
)
from runtime.images.registry import Registries
from runtime.images.upload import Sent, Upload
from runtime.interface import Transfer
from specs.values import ImageRef

PARALLEL = 5  # blobs of one image that are sent at once, as docker has it


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a name stands for in its registry from now on; `size` is that of the manifest, bytes."""

    ref: ImageRef
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class PushProgress:
    """One blob of a push. `state` is waiting, pushing, or how it ended: exists, mounted (from `source`),
    pushed, foreign."""

    digest: str
    state: str
    done: int
    total: int
    source: str = ""


Listener = Callable[[PushProgress], None]


@dataclass(frozen=True, slots=True)
class Child:
    """A manifest of an index, and repositories of the same registry that its blobs may be mounted from."""

    manifest: bytes
    sources: tuple[str, ...] = ()


class Pusher:
    """Thread-safe. The caller holds the store meanwhile."""

    def __init__(self, catalog: Catalog, blobs: BlobStore, registries: Registries) -> None:
        self.catalog, self._blobs, self._registries = catalog, blobs, registries

    def push(self, ref: ImageRef, manifest: bytes, listener: Listener = lambda _: None) -> Pushed:
        """All blobs of a manifest, and the manifest under the name. Repeatable. Faults registry-*,
        request-invalid.
        """
        self._blobs_of(ref, manifest, listener)
        return self._put(ref, ref.tag, manifest)

    def push_index(
        self, ref: ImageRef, index: bytes, children: Sequence[Child], listener: Listener = lambda _: None
    ) -> Pushed:
        """The manifests that an index names, by their digests, and then the index under the name."""
        for child in children:
            if not self._has(ref, digest_of(child.manifest)):
                self._blobs_of(ref, child.manifest, listener, child.sources)
                self._put(ref, digest_of(child.manifest), child.manifest)
        return self._put(ref, ref.tag, index)

    def _has(self, ref: ImageRef, digest: str) -> bool:
        headers = {"Accept": ", ".join(ACCEPT)}
        path = f"{ref.repository}/manifests/{digest}"
        response = self.endpoint(ref.host).ask(Request("HEAD", path, self._errand(ref), headers))
        response.release_conn()
        return response.status == 200

    def _errand(self, ref: ImageRef) -> Errand:
        return Errand("push image", ref.familiar, ref.repository, (auth.push_scope(ref.repository),))

    def _blobs_of(
        self, ref: ImageRef, manifest: bytes, listener: Listener, sources: Sequence[str] = ()
    ) -> None:
        if ref.digest:
            cause = "a digest cannot be chosen"
            raise Fault("request-invalid", "push image", ref.familiar, cause, "push a name with a tag")
        parsed = parse_manifest(manifest, ref.familiar)
        assert isinstance(parsed, Manifest), "an index has manifests of its own"
        unique = {item.digest: item for item in (*parsed.layers, parsed.config)}
        _Blobs(self, ref, listener, sources).run(tuple(unique.values()))

    def _put(self, ref: ImageRef, reference: str, data: bytes) -> Pushed:
        errand, endpoint = self._errand(ref), self.endpoint(ref.host)
        headers = {"Content-Type": media_type(data, ref.familiar)}
        path = f"{ref.repository}/manifests/{reference}"
        response = endpoint.ask(Request("PUT", path, errand, headers, Body.of(data), accepts=()))
        dismiss(response)
        digest = digest_of(data)
        said = response.headers.get("Docker-Content-Digest", digest)
        if said.startswith("sha256:") and said != digest:
            cause = f"{endpoint.address} made {said} of a manifest with {digest}"
            raise errand.fault("digest-mismatch", cause)
        return Pushed(ref, digest, len(data))

    def endpoint(self, host: str) -> Endpoint:
        return self._registries.endpoint(host)

    def is_stopping(self) -> bool:
        return self._registries.closing.is_set()

    def blob_path(self, digest: str) -> Path:
        return self._blobs.path(digest)

    def count(self, ref: ImageRef, sent: Sent) -> None:
        if sent.bytes:
            self._registries.on_transfer(Transfer("push", ref.host, sent.bytes, sent.seconds))

    def sources(self, ref: ImageRef, digest: str) -> tuple[str, ...]:
        """Other repositories of the registry that had the blob when an image was pulled from or pushed to
        them.
        """
        query = (
            "SELECT DISTINCT reference FROM layers JOIN image_layers USING (chain_id)"
            " JOIN image_names USING (image) WHERE blob = ? AND digest <> '' ORDER BY reference"
        )
        rows = self.catalog.database.read().execute(query, (digest,)).fetchall()
        known = (ImageRef.parse(row[0]) for row in rows)
        found = (item.repository for item in known if item.host == ref.host)
        return tuple(dict.fromkeys(name for name in found if name != ref.repository))


def push_image(
    pusher: Pusher, composer: Composer, ref: ImageRef, platform: str, listener: Listener
) -> Pushed:
    """The image of this store that is called `ref`. Fault image-not-found, platform-missing, registry-*."""
    image = pusher.catalog.get(str(ref))
    if image is None:
        raise Fault("image-not-found", "push image", ref.familiar, "it is not in the store")
    try:
        wanted = Platform.parse(platform) if platform else None
    except ValueError as error:
        raise Fault("request-invalid", "push image", ref.familiar, str(error)) from error
    found = config_platform(image.config)
    if wanted is not None and not found.fitness(wanted):
        cause = f"the image here is for {found}, not for {wanted}"
        raise Fault("platform-missing", "push image", ref.familiar, cause)
    with faults("push image", ref.familiar):
        pushed = pusher.push(ref, composer.manifest_of(image.id), listener)
    pusher.catalog.name(ref, image.id, pushed.digest)
    return pushed


class _Blobs:
    """The blobs of one push, several at once."""

    def __init__(
        self, pusher: Pusher, ref: ImageRef, listener: Listener, sources: Sequence[str] = ()
    ) -> None:
        self._pusher, self._ref, self._listener = pusher, ref, listener
        self._sources = [name for name in sources if name != ref.repository]
        self._lock, self._failed = threading.Lock(), threading.Event()

    def run(self, blobs: Sequence[Descriptor]) -> None:
        """The first failure ends the others, and is raised."""
        for blob in blobs:
            self._tell(PushProgress(blob.digest, "waiting", 0, blob.size))
        sources = [[*self._sources, *self._pusher.sources(self._ref, blob.digest)] for blob in blobs]
        with ThreadPoolExecutor(PARALLEL, "push") as pool:
            running = [pool.submit(self._one, *each) for each in zip(blobs, sources, strict=True)]
            try:
                wait(running, return_when=FIRST_EXCEPTION)
            finally:
                self._failed.set()
                for future in running:
                    future.cancel()
        _raise_first(running)

    def _one(self, blob: Descriptor, sources: Sequence[str]) -> None:
        pusher, ref = self._pusher, self._ref

        def progress(done: int) -> None:
            self._tell(PushProgress(blob.digest, "pushing", done, blob.size))

        def stopped() -> bool:
            return self._failed.is_set() or pusher.is_stopping()

        path = pusher.blob_path(blob.digest)
        upload = Upload(
            pusher.endpoint(ref.host), ref.repository, ref.familiar, blob, path, progress, stopped
        )
        sent = upload.run(sources)
        pusher.count(ref, sent)
        self._tell(PushProgress(blob.digest, sent.state, blob.size, blob.size, sent.source))

    def _tell(self, progress: PushProgress) -> None:
        with self._lock:
            self._listener(progress)


def _raise_first(futures: Iterable[Future[None]]) -> None:
    """The failure that ended the others: theirs is only that they were cancelled."""
    errors = [item.exception() for item in futures if not item.cancelled()]
    found = [error for error in errors if error is not None]
    found.sort(key=lambda error: isinstance(error, Fault) and error.cause == "the push was cancelled")
    if found:
        raise found[0]


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def media_type(data: bytes, subject: str) -> str:
    """The Content-Type of a manifest or index: what it says itself, or what its content shows."""
    value = json.loads(data)
    said = value.get("mediaType")
    if isinstance(said, str) and said:
        return said
    parsed = parse_manifest(data, subject)
    if not isinstance(parsed, Manifest):
        return OCI_INDEX
    return DOCKER_MANIFEST if parsed.config.media_type == DOCKER_CONFIG else OCI_MANIFEST
