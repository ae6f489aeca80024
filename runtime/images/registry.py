"""Effects: manifests and blobs from registries: mirrors first, then the registry that the name says.

Source: OCI distribution-spec 1.1, "Pull". Everything that comes is limited in size and verified; tags
excepted, whose digest is only known when the registry says it.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import urllib3

from runtime.faults import Fault
from runtime.images.blobs import Writer
from runtime.images.endpoint import (
    ATTEMPTS,
    MIN_PROGRESS,
    Endpoint,
    Pace,
    RegistrySettings,
    Trouble,
    read_some,
    read_whole,
    unreachable,
)
from runtime.images.manifests import ACCEPT, MAX_MANIFEST, Descriptor
from specs.values import ImageRef

CHUNK = 512 * 1024  # bytes read from a connection at once

_FALL_THROUGH = frozenset(
    {
        "image-not-found",
        "registry-unreachable",
        "registry-denied",
        "registry-busy",
        "digest-mismatch",
        "manifest-invalid",
        "request-invalid",
    }
)
_ALGORITHMS = ("sha256", "sha384", "sha512")  # of a manifest's digest, as a name may have it
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or index, verbatim. `digest` is that of its bytes."""

    data: bytes
    media_type: str
    digest: str


class Registries:
    """All registries and mirrors that this process talks to; connections and tokens are kept. Thread-safe."""

    def __init__(self, settings: Mapping[str, RegistrySettings]) -> None:
        self._settings = settings
        self._endpoints: dict[str, Endpoint] = {}
        self._lock = threading.Lock()
        self.closing = threading.Event()

    def close(self) -> None:
        self.closing.set()
        for endpoint in self._endpoints.values():
            endpoint.close()

    def remote(self, ref: ImageRef) -> Remote:
        own = self._settings.get(ref.host, RegistrySettings())
        names = [*own.mirrors, ref.host]
        return Remote(ref, [self._endpoint(name) for name in names], self.closing)

    def _endpoint(self, address: str) -> Endpoint:
        host = address.rpartition("://")[2].partition("/")[0]
        with self._lock:
            if address not in self._endpoints:
                settings = self._settings.get(address) or self._settings.get(host) or RegistrySettings()
                self._endpoints[address] = Endpoint(address, settings, pause=self.closing)
            return self._endpoints[address]


class Remote:
    """One repository, wherever it can be had. `endpoints` end with the registry of the name itself."""

    def __init__(self, ref: ImageRef, endpoints: list[Endpoint], closing: threading.Event) -> None:
        self._ref, self._endpoints, self._closing = ref, endpoints, closing
        self._given_up: set[Endpoint] = set()  # mirrors that failed during this pull
        self._cancelled = False
        self._subject = ref.familiar

    def cancel(self) -> None:
        """End the downloads that are under way."""
        self._cancelled = True

    def _stopped(self) -> bool:
        return self._cancelled or self._closing.is_set()

    def _try(self, action: Callable[[Endpoint], T]) -> T:
        """The first endpoint that can; what the last one, the registry itself, says is what counts."""
        for endpoint in [item for item in self._endpoints[:-1] if item not in self._given_up]:
            try:
                return action(endpoint)
            except Fault as fault:
                if fault.code not in _FALL_THROUGH:
                    raise
                if fault.code != "image-not-found":
                    self._given_up.add(endpoint)
        return action(self._endpoints[-1])

    def head(self) -> str:
        """The digest that the name stands for now, by a request that counts against no rate limit; empty when
        the registry does not say.
        """
        try:
            return self._try(self._head)
        except Fault as fault:
            if fault.code in ("registry-busy", "registry-denied", "registry-unreachable"):
                raise
            return ""

    def _head(self, endpoint: Endpoint) -> str:
        headers = {"Accept": ", ".join(ACCEPT)}
        path = f"manifests/{self._ref.digest or self._ref.tag}"
        response = endpoint.ask("HEAD", path, self._ref.repository, self._subject, headers)
        response.release_conn()
        return response.headers.get("Docker-Content-Digest", "") if response.status == 200 else ""

    def manifest(self, reference: str = "") -> Document:
        """The manifest or index of the name, or of a digest in its repository. Nothing is cached."""
        return self._try(lambda endpoint: self._manifest(endpoint, reference))

    def _manifest(self, endpoint: Endpoint, reference: str) -> Document:
        reference = reference or self._ref.digest or self._ref.tag
        for attempt in range(1, ATTEMPTS + 1):
            headers = {"Accept": ", ".join(ACCEPT)}
            path = f"manifests/{reference}"
            response = endpoint.ask("GET", path, self._ref.repository, self._subject, headers)
            try:
                if response.status != 200:
                    raise Fault(
                        "image-not-found",
                        "pull image",
                        self._subject,
                        f"{endpoint.address} has no such image",
                    )
                data = read_manifest(response, self._subject)
                break
            except Trouble as trouble:
                if attempt == ATTEMPTS:
                    raise unreachable(self._subject, f"{endpoint.address}: {trouble.cause}") from trouble
                endpoint.wait(attempt)
            finally:
                response.close()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        wanted = reference if ":" in reference else response.headers.get("Docker-Content-Digest", digest)
        algorithm = wanted.partition(":")[0]
        if algorithm in _ALGORITHMS:
            found = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
            if found != wanted:
                cause = f"{endpoint.address} sent a manifest with {found} as {wanted}"
                raise Fault("digest-mismatch", "pull image", self._subject, cause)
        return Document(data, response.headers.get("Content-Type", ""), digest)

    def blob(self, descriptor: Descriptor, writer: Writer, progress: Callable[[int], None]) -> None:
        """Append what is missing of a blob, and verify it. Goes on where a connection broke."""

        def action(endpoint: Endpoint) -> None:
            try:
                self._blob(endpoint, descriptor, writer, progress)
                writer.verify()
            except Fault as fault:
                if fault.code == "digest-mismatch":
                    writer.restart()
                raise

        self._try(action)

    def _blob(
        self, endpoint: Endpoint, descriptor: Descriptor, writer: Writer, progress: Callable[[int], None]
    ) -> None:
        failures, cause = 0, ""
        while writer.done < descriptor.size:
            before = writer.done
            try:
                cause = ""
                self._piece(endpoint, descriptor, writer, progress)
            except Trouble as trouble:
                cause = trouble.cause
            if self._stopped():
                raise unreachable(self._subject, "the pull was cancelled")
            failures = 1 if writer.done - before >= MIN_PROGRESS else failures + 1
            if writer.done < descriptor.size:
                if failures >= ATTEMPTS and cause:
                    raise unreachable(self._subject, f"{endpoint.address}: {cause}")
                if failures >= ATTEMPTS:
                    writer.verify()
                endpoint.wait(failures)

    def _piece(
        self, endpoint: Endpoint, descriptor: Descriptor, writer: Writer, progress: Callable[[int], None]
    ) -> None:
        headers = {"Range": f"bytes={writer.done}-"} if writer.done else {}
        path = f"blobs/{descriptor.digest}"
        response = endpoint.ask_once("GET", path, self._ref.repository, self._subject, headers)
        try:
            if response.status == 404:
                cause = f"{endpoint.address} has no blob {descriptor.digest}"
                if descriptor.urls:  # the image's author chose them: they are no place for a host to ask
                    cause += f", a layer that is only at {descriptor.urls[0]}: such are not supported"
                raise Fault("image-not-found", "pull image", self._subject, cause)
            if response.status == 416:
                writer.restart()
                return
            start = f"bytes {writer.done}-"
            if writer.done and not (
                response.status == 206 and response.headers.get("Content-Range", "").startswith(start)
            ):
                writer.restart()
            pace = Pace()
            while data := read_some(response, CHUNK):
                writer.write(data)
                progress(writer.done)
                pace.keep(len(data))
                if self._stopped():
                    return
        finally:
            response.close() if writer.done < descriptor.size else response.release_conn()


def read_manifest(response: urllib3.BaseHTTPResponse, subject: str) -> bytes:
    """Its body; a server that sends more than MAX_MANIFEST is cut off there."""
    data = read_whole(response, MAX_MANIFEST + 1)
    if len(data) > MAX_MANIFEST:
        cause = f"its manifest has more than {MAX_MANIFEST} bytes"
        raise Fault("manifest-invalid", "pull image", subject, cause)
    return data
