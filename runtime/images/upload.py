"""Effects: one blob into one repository of a registry: looked for, mounted from beside it, or uploaded.

Source: OCI distribution-spec 1.1, "Push" and "Pushing a blob in chunks", with docker-registry's answers
about an upload that broke off.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlsplit

import urllib3

from runtime.faults import Fault
from runtime.images import auth
from runtime.images.answers import MIN_PROGRESS, Trouble, dismiss
from runtime.images.connections import Errand, checked
from runtime.images.endpoint import ATTEMPTS, Body, Endpoint, Request
from runtime.images.manifests import Descriptor

CHUNK = 64 * 1024  # bytes sent at once
MONOLITHIC = 4 * 1024 * 1024  # bytes up to which a blob goes in the request that completes it
MAX_SOURCES = 3  # repositories that a blob is tried to be mounted from

#: exists: it was there; mounted: taken from another repository of the registry; pushed: its bytes were sent;
#: foreign: only its author distributes it
State = Literal["exists", "mounted", "pushed", "foreign"]


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of one blob. `source` is the repository that it was mounted from, `bytes` what was sent."""

    descriptor: Descriptor
    state: State
    source: str = ""
    bytes: int = 0
    seconds: float = 0.0


class Upload:
    """One blob on its way. `opened` gives its bytes from an offset on; `progress` hears how many are
    there.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        repository: str,
        subject: str,
        descriptor: Descriptor,
        path: Path,
        progress: Callable[[int], None],
        stopped: Callable[[], bool],
    ) -> None:
        self._endpoint, self._repository = endpoint, repository
        self._descriptor, self._path = descriptor, path
        self._progress, self._stopped = progress, stopped
        self._errand = Errand("push image", subject, repository, (auth.push_scope(repository),))
        self._location = ""  # URL of the upload that is under way
        self._done = 0  # bytes of it that the registry has
        self._sent = 0  # bytes that went over the network

    def run(self, sources: Sequence[str]) -> Sent:
        """Afterwards the repository has the blob. `sources` are repositories of the registry that may have
        it.

        Faults registry-*, image-not-found where there is nothing to send.
        """
        begin = time.monotonic()
        if self._is_there():
            return Sent(self._descriptor, "exists")
        for source in sources[:MAX_SOURCES]:
            if self._mount(source):
                return Sent(self._descriptor, "mounted", source)
        if not self._path.exists():
            if self._descriptor.urls:
                return Sent(self._descriptor, "foreign")
            cause = f"blob {self._descriptor.digest} is neither in the registry nor in the store"
            raise self._errand.fault("image-not-found", cause, "pull or build the image again")
        self._upload()
        return Sent(self._descriptor, "pushed", "", self._sent, time.monotonic() - begin)

    # ------------------------------------------------------------ without sending

    def _is_there(self) -> bool:
        path = f"{self._repository}/blobs/{self._descriptor.digest}"
        response = self._endpoint.ask(Request("HEAD", path, self._errand))
        response.release_conn()
        return response.status == 200

    def _mount(self, source: str) -> bool:
        """Whether the registry took the blob from another of its repositories. What it opens instead, when it
        does not, is used for the upload."""
        scopes = (*self._errand.scopes, auth.pull_scope(source))
        errand = Errand("push image", self._errand.subject, self._repository, scopes)
        self._cancel()
        query = f"mount={quote(self._descriptor.digest)}&from={quote(source, safe='')}"
        try:
            response = self._post(f"?{query}", errand)
        except Fault as fault:
            if fault.code not in ("registry-denied", "registry-refused"):
                raise
            return False
        if response.status == 201:
            return True
        self._begun(response)
        return False

    def _cancel(self) -> None:
        """An upload that another place is tried instead of: registries keep those that nobody ends for
        days.
        """
        if self._location:
            location, self._location = self._location, ""
            with suppress(Trouble, Fault):
                accepts = (400, 404, 405)
                dismiss(self._endpoint.ask_once(Request("DELETE", location, self._errand, accepts=accepts)))

    # ------------------------------------------------------------ sending

    def _upload(self) -> None:
        failures, best = 0, 0
        while True:
            try:
                if not self._location:
                    if failures and self._is_there():
                        return
                    self._begun(self._post("", self._errand))
                self._send()
                return
            except Trouble as trouble:
                failures += 1
                if failures >= ATTEMPTS:
                    raise self._endpoint.given_up(trouble, self._errand) from trouble
                self._endpoint.wait(failures, trouble)
            self._look_up()
            if self._done - best >= MIN_PROGRESS:  # what was lost again is no progress when it is sent again
                failures, best = 0, self._done

    def _post(self, query: str, errand: Errand) -> urllib3.BaseHTTPResponse:
        response = self._endpoint.ask(
            Request("POST", f"{self._repository}/blobs/uploads/{query}", errand, accepts=())
        )
        dismiss(response)
        return response

    def _begun(self, response: urllib3.BaseHTTPResponse) -> None:
        self._done = 0
        self._move(response)
        if not self._location:
            cause = f"{self._endpoint.address} names no place to upload to"
            raise self._errand.fault("registry-unreachable", cause)

    def _move(self, response: urllib3.BaseHTTPResponse) -> None:
        """Where the upload goes on: relative to the request, and with a query, if the registry likes."""
        location = response.headers.get("Location", "")
        if location:
            base = f"{self._endpoint.connections.base}/v2/{self._repository}/blobs/uploads/"
            target = checked(self._location or base, location, self._errand)
            self._location = with_tls_of(self._endpoint.connections.base, target)
            self._endpoint.check_target(self._location, self._errand)

    def _send(self) -> None:
        """Small blobs at once; of large ones all that is missing, which can go on where it broke; then the
        end.
        """
        size = self._descriptor.size
        if size > MONOLITHIC:
            while self._done < size:
                self._patch()
        rest = size - self._done
        joint = "&" if "?" in self._location else "?"
        target = f"{self._location}{joint}digest={quote(self._descriptor.digest)}"
        response = self._ask("PUT", target, Body(rest, lambda: self._bytes(self._done)))
        if response.status not in (201, 204):
            self._location = ""
            raise Trouble(f"it answered {response.status} to the end of an upload")

    def _patch(self) -> None:
        start, size = self._done, self._descriptor.size
        headers = {"Content-Range": f"{start}-{size - 1}"}
        response = self._ask("PATCH", self._location, Body(size - start, lambda: self._bytes(start)), headers)
        if response.status == 416:
            raise Trouble("it has other bytes of an upload than were sent")
        if response.status not in (202, 204, 201):
            self._location = ""
            raise Trouble(f"it answered {response.status} to an upload")
        self._move(response)
        self._done = _received(response, size)
        if not start < self._done <= size:
            self._location = ""
            raise Trouble(f"it says that it has {self._done} of {size} bytes after an upload from {start}")

    def _ask(
        self, method: str, url: str, body: Body, more: dict[str, str] | None = None
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Content-Type": "application/octet-stream", **(more or {})}
        response = self._endpoint.ask_once(Request(method, url, self._errand, headers, body))
        dismiss(response)
        return response

    def _bytes(self, start: int) -> Iterator[bytes]:
        with open(self._path, "rb") as file:
            file.seek(start)
            done = start
            while data := file.read(CHUNK):
                if self._stopped():
                    raise self._errand.fault("registry-unreachable", "the push was cancelled")
                yield data
                done += len(data)
                self._sent += len(data)
                self._progress(done)

    def _look_up(self) -> None:
        """How far a broken upload came; from its beginning where the registry does not know it any more."""
        if not self._location:
            self._done = 0
            return
        try:
            response = self._endpoint.ask(Request("GET", self._location, self._errand, accepts=(404,)))
            dismiss(response)
        except Fault as fault:
            if fault.code != "registry-unreachable":
                raise
            self._location, self._done = "", 0
            return
        if response.status not in (202, 204):
            self._location, self._done = "", 0
            return
        self._move(response)
        self._done = _received(response, 0)
        if self._done > self._descriptor.size:
            self._location, self._done = "", 0


def with_tls_of(base: str, target: str) -> str:
    """A registry behind something that does TLS for it often does not know that, and names its own host
    without: that host is asked as before."""
    own, there = urlsplit(base), urlsplit(target)
    if (own.scheme, there.scheme) == ("https", "http") and own.hostname == there.hostname:
        return there._replace(scheme="https", netloc=own.netloc).geturl()
    return target


def _received(response: urllib3.BaseHTTPResponse, default: int) -> int:
    """The bytes that a registry says it has, by `Range: 0-<last>`. `0-0` is what docker-registry says of
    none.
    """
    last = response.headers.get("Range", "").removeprefix("bytes=").partition("-")[2]
    if not (last.isascii() and last.isdigit() and len(last) < 19):
        return default
    return int(last) + 1 if int(last) else 0
