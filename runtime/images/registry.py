"""Effects: manifests and blobs from registries: mirrors first, then the registry that the name says.

Source: OCI distribution-spec 1.1, "Pull". Everything that comes is limited in size and verified; tags
excepted, whose digest is only known when the registry says it.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import urllib3

from runtime.faults import Fault
from runtime.images import auth
from runtime.images.answers import MIN_PROGRESS, Pace, Trouble, encoding, read_some, read_whole
from runtime.images.blobs import Writer
from runtime.images.connections import Errand, RegistrySettings
from runtime.images.credentials import HUB_HOSTS, Credential, DockerConfig
from runtime.images.endpoint import ATTEMPTS, Endpoint, Request
from runtime.images.manifests import ACCEPT, MAX_MANIFEST, Descriptor
from runtime.images.tags import read_tags
from runtime.images.tls import CERTS
from runtime.interface import Transfer
from specs.values import DEFAULT_HOST, ImageRef

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
    """All registries and mirrors that this process talks to; connections and tokens are kept. Thread-safe.

    `docker_config` is where credentials are that the settings do not have; `certs` is as Docker's certs.d.
    `on_transfer` is called from any thread.
    """

    def __init__(
        self,
        settings: Mapping[str, RegistrySettings],
        *,
        docker_config: Path | None = None,
        certs: Path | None = CERTS,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._settings = {
            DEFAULT_HOST if host in HUB_HOSTS else host: item for host, item in settings.items()
        }
        self._certs, self._environment = certs, environment
        self._config = DockerConfig(docker_config, environment) if docker_config is not None else None
        self._endpoints: dict[str, Endpoint] = {}
        self._lock = threading.Lock()
        self.closing = threading.Event()
        self.on_transfer: Callable[[Transfer], None] = lambda _: None

    def close(self) -> None:
        self.closing.set()
        for endpoint in self._endpoints.values():
            endpoint.close()

    def remote(self, ref: ImageRef, operation: str = "pull image") -> Remote:
        own = self._settings.get(ref.host, RegistrySettings())
        names = [*own.mirrors, ref.host]
        return Remote(ref, [self.endpoint(name) for name in names], self, operation)

    def digest(self, ref: ImageRef) -> str:
        """What the name stands for now: one HEAD where that says it. Fault image-not-found."""
        remote = self.remote(ref, "look up image")
        return remote.head() or remote.manifest().digest

    def tags(self, ref: ImageRef) -> list[ImageRef]:
        """The names of all tags of the repository that `ref` is of, see runtime.images.tags."""
        return read_tags(self.endpoint(ref.host), ref)

    def endpoint(self, address: str) -> Endpoint:
        host = address.rpartition("://")[2].partition("/")[0]
        with self._lock:
            if address not in self._endpoints:
                settings = self._settings.get(address) or self._settings.get(host) or RegistrySettings()
                self._endpoints[address] = Endpoint(
                    address,
                    settings,
                    pause=self.closing,
                    credentials=lambda repository: self.credential(host, settings, repository),
                    certs=self._certs,
                    environment=self._environment,
                )
            return self._endpoints[address]

    def trial(self, host: str, credential: Credential) -> Endpoint:
        """A registry that is talked to with this credential and no other, and asked for an identity token.
        Its caller closes it."""
        return Endpoint(
            host,
            self._settings.get(host, RegistrySettings()),
            pause=self.closing,
            credentials=lambda _: credential,
            certs=self._certs,
            environment=self._environment,
            offline=True,
        )

    def credential(self, host: str, settings: RegistrySettings, repository: str) -> Credential:
        """What the settings say, else what config.json and its helpers have."""
        if settings.username:
            try:
                path = settings.password_file
                password = Path(path).read_text().rstrip("\r\n") if path else ""
            except (OSError, ValueError) as error:
                cause = f"cannot read {settings.password_file}: {str(error).lower()}"
                raise Fault("registry-denied", "get credentials for", host, cause) from error
            return Credential(settings.username, password)
        return self._config.find(host, repository) if self._config is not None else Credential()


class Remote:
    """One repository, wherever it can be had. `endpoints` end with the registry of the name itself."""

    def __init__(
        self, ref: ImageRef, endpoints: list[Endpoint], registries: Registries, operation: str
    ) -> None:
        self._ref, self._endpoints, self._registries = ref, endpoints, registries
        self._given_up: set[Endpoint] = set()  # mirrors that failed during this pull
        self._cancelled = False
        scopes = (auth.pull_scope(ref.repository),)
        self._errand = Errand(operation, ref.familiar, ref.repository, scopes)

    def cancel(self) -> None:
        """End the downloads that are under way."""
        self._cancelled = True

    def _stopped(self) -> bool:
        return self._cancelled or self._registries.closing.is_set()

    def _request(self, method: str, path: str, headers: Mapping[str, str]) -> Request:
        return Request(method, f"{self._ref.repository}/{path}", self._errand, headers)

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
        accepts = (400, 404, 405, 416)  # some know no HEAD
        response = endpoint.ask(replace(self._request("HEAD", path, headers), accepts=accepts))
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
            response = endpoint.ask(self._request("GET", path, headers))
            try:
                if response.status != 200:
                    raise self._errand.fault("image-not-found", f"{endpoint.address} has no such image")
                data = read_manifest(response, self._errand)
                break
            except Trouble as trouble:
                if attempt == ATTEMPTS:
                    raise endpoint.given_up(trouble, self._errand) from trouble
                endpoint.wait(attempt, trouble)
            finally:
                response.close()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        wanted = reference if ":" in reference else response.headers.get("Docker-Content-Digest", digest)
        algorithm = wanted.partition(":")[0]
        if algorithm in _ALGORITHMS:
            found = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
            if found != wanted:
                cause = f"{endpoint.address} sent a manifest with {found} as {wanted}"
                raise self._errand.fault("digest-mismatch", cause)
        return Document(data, response.headers.get("Content-Type", ""), digest)

    def read(self, descriptor: Descriptor, limit: int) -> bytes:
        """A blob of at most `limit` bytes, verified."""
        if descriptor.size > limit:
            cause = f"{descriptor.digest} has {descriptor.size} bytes, more than {limit}"
            raise self._errand.fault("manifest-invalid", cause)
        return self._try(lambda endpoint: self._read(endpoint, descriptor))

    def _read(self, endpoint: Endpoint, descriptor: Descriptor) -> bytes:
        for attempt in range(1, ATTEMPTS + 1):
            response = endpoint.ask(self._request("GET", f"blobs/{descriptor.digest}", {}))
            try:
                if response.status != 200:
                    raise self._missing(endpoint, descriptor)
                data = read_whole(response, descriptor.size + 1)
                break
            except Trouble as trouble:
                if attempt == ATTEMPTS:
                    raise endpoint.given_up(trouble, self._errand) from trouble
                endpoint.wait(attempt, trouble)
            finally:
                response.close()
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != descriptor.digest:
            cause = f"{endpoint.address} sent other bytes as {descriptor.digest}"
            raise self._errand.fault("digest-mismatch", cause)
        return data

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
        failures, best, trouble = 0, writer.done, None
        while writer.done < descriptor.size:
            before, begin = writer.done, time.monotonic()
            try:
                trouble = None
                self._piece(endpoint, descriptor, writer, progress)
            except Trouble as found:
                trouble = found
            finally:
                if (came := writer.done - before) > 0:
                    seconds = time.monotonic() - begin
                    self._registries.on_transfer(Transfer("pull", endpoint.host, came, seconds))
            if self._stopped():
                raise self._errand.fault("registry-unreachable", "the pull was cancelled")
            failures += 1
            if writer.done - best >= MIN_PROGRESS:  # what was dropped is no progress when it comes again
                failures, best = 1, writer.done
            if writer.done < descriptor.size:
                if failures >= ATTEMPTS and trouble is not None:
                    raise endpoint.given_up(trouble, self._errand) from trouble
                if failures >= ATTEMPTS:
                    writer.verify()
                endpoint.wait(failures, trouble)

    def _piece(
        self, endpoint: Endpoint, descriptor: Descriptor, writer: Writer, progress: Callable[[int], None]
    ) -> None:
        headers = {"Range": f"bytes={writer.done}-"} if writer.done else {}
        response = endpoint.ask_once(self._request("GET", f"blobs/{descriptor.digest}", headers))
        is_read = False
        try:
            if response.status == 404:
                raise self._missing(endpoint, descriptor)
            if response.status == 416:
                writer.restart()
                return
            if response.status == 206:
                found = response.headers.get("Content-Range", "")
                if not found.startswith(f"bytes {writer.done}-"):
                    writer.restart()
                    raise Trouble(f"it sent {found[:60] or 'a part'} where bytes were asked for")
            elif writer.done:
                writer.restart()  # all of it comes again
            pace = Pace()
            while data := read_some(response, CHUNK):
                writer.write(data)
                progress(writer.done)
                pace.keep(len(data))
                if self._stopped():
                    return
            is_read = True
        finally:
            response.release_conn() if is_read else response.close()

    def _missing(self, endpoint: Endpoint, descriptor: Descriptor) -> Fault:
        cause = f"{endpoint.address} has no blob {descriptor.digest}"
        if descriptor.urls:  # the image's author chose them: they are no place for a host to ask
            cause += f", a layer that is only at {descriptor.urls[0]}: such are not supported"
        return self._errand.fault("image-not-found", cause)


def read_manifest(response: urllib3.BaseHTTPResponse, errand: Errand) -> bytes:
    """Its body; a server that sends more than MAX_MANIFEST is cut off there. Raises Trouble."""
    if named := encoding(response):
        cause = f"its manifest came with Content-Encoding {named[:40]}, which was not asked for"
        raise errand.fault("manifest-invalid", cause)
    headers = response.headers
    is_bounded = "Content-Length" in headers or "chunked" in headers.get("Transfer-Encoding", "").lower()
    data = read_whole(response, MAX_MANIFEST + 1)
    if len(data) > MAX_MANIFEST:
        raise errand.fault("manifest-invalid", f"its manifest has more than {MAX_MANIFEST} bytes")
    if not is_bounded and not data.rstrip().endswith(b"}"):  # its head may have broken off, too
        raise Trouble("its answer broke off")
    return data
