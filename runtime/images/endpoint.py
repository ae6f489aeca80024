"""Effects: requests to one registry host: redirects, authentication, retries, and when to leave it alone.

Credentials go to the registry itself and to its token server only, never along a redirect.
"""

from __future__ import annotations

import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import urllib3

from runtime.faults import Fault
from runtime.images import auth
from runtime.images.answers import (
    Trouble,
    error_words,
    explain,
    read_whole,
    retry_after,
)
from runtime.images.connections import (
    Connections,
    Errand,
    Origin,
    RegistrySettings,
    checked,
    origin,
)
from runtime.images.credentials import Credential
from runtime.images.tokens import Authenticator

ATTEMPTS = 4
FIRST_DELAY = 0.2  # seconds before the second attempt, more or less; doubles
MAX_REDIRECTS = 5
MAX_PAUSE = 3600.0  # seconds that a registry may ask to be left alone
MAX_WAIT = 5.0  # seconds of such a pause that are waited for on the spot
MAX_TOKEN = 1024 * 1024  # bytes of a token server's answer
MAX_ERROR = 16 * 1024  # bytes of an error's body that are looked at
SEND_TIMEOUT = 60.0  # seconds in which a piece of an upload (upload.CHUNK) must be taken
COMMIT_TIMEOUT = 300.0  # seconds for the answer to an upload: large blobs are hashed before it
USER_AGENT = "stead/0.1"

_REDIRECTS = (301, 302, 303, 307, 308)
_READS = ("GET", "HEAD")
_COMMITS = ("PUT", "PATCH")


@dataclass(frozen=True, slots=True)
class Body:
    """What is sent: `chunks` gives it from its beginning, each time it is asked. `size` is bytes."""

    size: int
    chunks: Callable[[], Iterable[bytes]]

    @classmethod
    def of(cls, data: bytes) -> Body:
        return cls(len(data), lambda: (data,))


@dataclass(frozen=True, slots=True)
class Request:
    """`path` is what follows /v2/, or a whole URL. Statuses 2xx and those in `accepts` are answers. A body
    that `is_secret` is sent to no other origin.
    """

    method: str
    path: str
    errand: Errand
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = None
    accepts: tuple[int, ...] = (404, 416)
    is_secret: bool = False


class Endpoint:
    """One registry, or mirror, as `address` names it: `host[:port]`, or a URL with a path. Thread-safe."""

    def __init__(
        self,
        address: str,
        settings: RegistrySettings,
        *,
        pause: threading.Event,
        credentials: Callable[[str], Credential] = lambda _: Credential(),
        certs: Path | None = None,
        environment: Mapping[str, str] = os.environ,
        offline: bool = False,
    ) -> None:
        self.address = address
        self.connections = Connections(address, settings, certs, environment)
        self.authenticator = Authenticator(address, credentials, self._fetch_token, offline=offline)
        self._pause = pause  # waited on between attempts, so that closing does not wait for them
        self._busy_until = 0.0  # time.monotonic; no request before

    def close(self) -> None:
        self.connections.close()

    @property
    def host(self) -> str:
        return self.address.rpartition("://")[2].partition("/")[0]

    # ------------------------------------------------------------ requests

    def ask(self, request: Request) -> urllib3.BaseHTTPResponse:
        """The answer, its body unread. Retries what may pass, answers a challenge once.

        Faults registry-unreachable, -denied, -busy, -refused.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self.ask_once(request)
            except Trouble as trouble:
                if attempt == ATTEMPTS:
                    raise self.given_up(trouble, request.errand) from trouble
                self.wait(attempt, trouble)
        raise AssertionError("ATTEMPTS is at least 1")

    def wait(self, attempt: int, trouble: Trouble | None = None) -> None:
        asked = trouble.after if trouble is not None else 0.0
        self._pause.wait(max(asked, backoff(attempt, random.random())))

    def given_up(self, trouble: Trouble, errand: Errand) -> Fault:
        if trouble.is_busy:
            return busy(errand, self.address, trouble.after)
        return errand.fault("registry-unreachable", f"{self.address}: {trouble.cause}")

    def ask_once(self, request: Request) -> urllib3.BaseHTTPResponse:
        """As `ask`, but without a second attempt: raises Trouble for what may pass."""
        errand = request.errand
        left = self._busy_until - time.monotonic()
        if left > MAX_WAIT:
            raise busy(errand, self.address, left)
        if left > 0:
            raise Trouble("it asked to be left alone", left, is_busy=True)
        base = self.connections.locate(errand)
        url = request.path if "://" in request.path else f"{base}/v2/{request.path}"
        credential, challenged = self.authenticator.current(errand, base), False
        while True:
            response, host = self._follow(request, url, origin(base), credential)
            status = response.status
            if 200 <= status < 300 or status in request.accepts:
                return response
            challenges = auth.parse_challenges(", ".join(response.headers.getlist("www-authenticate")))
            after, words = response.headers.get("Retry-After", ""), error_words(response, MAX_ERROR)
            response.close()
            if host and status in (401, 403):  # its challenge is not ours to answer
                cause = f"{self.address} redirects to {host}, which wants credentials of its own ({status})"
                raise errand.fault("registry-denied", cause)
            if status == 401 and not challenged:
                credential = self.authenticator.answer(challenges, errand, credential)
                challenged = True
                continue
            if status == 403 and not challenged and (newer := self.authenticator.anew(errand, credential)):
                credential, challenged = newer, True
                continue
            raise self._failure(request, status, after, words)

    def _failure(self, request: Request, status: int, after: str, words: str) -> Exception:
        """The Trouble or Fault that an answer means which is none."""
        errand, said = request.errand, f"{status}{': ' if words else ''}{words}"
        if status == 429:
            return self._leave_alone(errand, self.address, after)
        if status >= 500 or status == 408:
            pause = retry_after(after, time.time()) or 0.0
            return Trouble(f"the registry answered {said}", min(pause, MAX_WAIT))
        if status in (401, 403):
            return self.authenticator.denied(errand, said)
        code = "registry-unreachable" if request.method in _READS else "registry-refused"
        return errand.fault(code, f"{self.address} answered {said}")

    def _leave_alone(self, errand: Errand, address: str, after: str) -> Exception:
        """The registry is left alone for as long as it asks: an agent would come back after its own time."""
        pause = retry_after(after, time.time())
        if pause is None:
            return busy(errand, address, 0.0)
        pause = min(pause, MAX_PAUSE)
        self._busy_until = time.monotonic() + pause
        if pause > MAX_WAIT:
            return busy(errand, address, pause)
        return Trouble("it allows no more requests", pause, is_busy=True)

    def _follow(
        self, request: Request, url: str, home: Origin, credential: str
    ) -> tuple[urllib3.BaseHTTPResponse, str]:
        """Follow redirects; the Authorization header goes to `home` only.

        The answer, and the host it is from where that is another origin. A request that writes is sent again
        only where the status says so (RFC 9110, 15.4).
        """
        errand = request.errand
        for _ in range(MAX_REDIRECTS + 1):
            own = origin(url) == home
            response = self._send(request, url, credential if own else "")
            moved = response.status in _REDIRECTS and "Location" in response.headers
            if not moved or (request.method not in _READS and response.status not in (307, 308)):
                return response, "" if own else urlsplit(url).netloc
            response.close()
            target = checked(url, response.headers["Location"], errand)
            self.check_target(target, errand)
            if request.is_secret and origin(target) != home:
                cause = f"{self.address} redirects an identity token to {urlsplit(target).netloc}"
                raise errand.fault("registry-unreachable", f"{cause}, which is not safe")
            url = target
        cause = f"{self.address} redirects more than {MAX_REDIRECTS} times"
        raise errand.fault("registry-unreachable", cause)

    def check_target(self, url: str, errand: Errand) -> None:
        """Refuse to be sent from TLS to something less. Fault registry-unreachable."""
        scheme, secure = urlsplit(url).scheme, self.connections.base.startswith("https:")
        if scheme not in ("http", "https") or (scheme == "http" and secure):
            cause = f"{self.address} redirects to {scheme[:20]}, which is not safe"
            raise errand.fault("registry-unreachable", cause)

    def _send(self, request: Request, url: str, credential: str) -> urllib3.BaseHTTPResponse:
        pool = self.connections.pool(url, request.errand)
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **request.headers}
        if credential:
            headers["Authorization"] = credential
        options: dict[str, Any] = {}
        if request.method not in _READS:
            headers["Content-Length"] = str(request.body.size if request.body else 0)
        if request.method in _COMMITS:
            options["timeout"] = urllib3.Timeout(connect=SEND_TIMEOUT, read=COMMIT_TIMEOUT)
        try:
            return pool.request(
                request.method,
                url,
                headers=headers,
                body=request.body.chunks() if request.body else None,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
                **options,
            )
        except urllib3.exceptions.HTTPError as error:
            self.connections.doubt(url)
            raise Trouble(explain(error)) from error

    # ------------------------------------------------------------ tokens

    def _fetch_token(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, errand: Errand
    ) -> bytes:
        plain = {key: value for key, value in headers.items() if key != "Authorization"}
        form = Body.of(body) if body is not None else None
        request = Request(method, url, errand, plain, form, is_secret=body is not None)
        response, _ = self._follow(request, url, origin(url), headers.get("Authorization", ""))
        try:
            answer = read_whole(response, MAX_TOKEN)
        finally:
            response.close()
        status = response.status
        if status == 200:
            return answer
        if status == 429:
            after = response.headers.get("Retry-After", "")
            raise self._leave_alone(errand, urlsplit(url).netloc, after)
        if status >= 500:
            raise Trouble(f"the token server answered {status}")
        if status in (400, 401, 403):
            raise self.authenticator.denied(errand, str(status))
        raise errand.fault("registry-unreachable", f"{self.address}: its token server answered {status}")


def backoff(attempt: int, chance: float) -> float:
    """Seconds to wait after the failure number `attempt`; `chance` (0 to 1) keeps many clients apart."""
    return FIRST_DELAY * 2.0 ** (attempt - 1) * (0.5 + chance)


def busy(errand: Errand, address: str, pause: float) -> Fault:
    when = f"in {math.ceil(pause)} s" if pause else "later"
    return errand.fault("registry-busy", f"{address} allows no more requests, come back {when}")
