"""Effects: HTTP to one registry host: connections, redirects, authentication, retries.

Plain HTTP is spoken only to loopback hosts and to those that the settings call insecure; of these TLS is
tried first, without checking who answers. Credentials go to their own registry and its token server only,
never along a redirect.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import urllib3

from runtime.faults import Fault
from runtime.images import auth

CONNECT_TIMEOUT = 10.0  # seconds
READ_TIMEOUT = 30.0  # seconds without a byte
STALL = 60.0  # seconds in which MIN_PROGRESS must come, or all that there is
MIN_PROGRESS = 64 * 1024  # bytes; a connection that brought less before it broke was a failure
ATTEMPTS = 4
FIRST_DELAY = 0.2  # seconds before the second attempt; doubles
MAX_REDIRECTS = 5
MAX_PAUSE = 3600.0  # seconds that a registry may ask to be left alone
MAX_TOKEN = 1024 * 1024  # bytes of a token server's answer
POOL_SIZE = 8  # connections kept for one host
USER_AGENT = "stead/0.1"

_REDIRECTS = (301, 302, 303, 307, 308)
_API_HOSTS = {"docker.io": "registry-1.docker.io"}


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """How to talk to one registry host. `mirrors` (hosts or URLs) are asked before it, in order, by pulls."""

    insecure: bool = False
    ca_file: str = ""
    username: str = ""
    password_file: str = ""
    mirrors: tuple[str, ...] = ()


class Trouble(Exception):
    """An attempt failed in a way that may pass: `cause` is for people."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


def unreachable(subject: str, cause: str, hint: str = "") -> Fault:
    return Fault("registry-unreachable", "pull image", subject, cause, hint)


def is_loopback(host: str) -> bool:
    """Whether a host (without port) is this machine, as Docker has it: its traffic needs no TLS."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Endpoint:
    """One registry, or mirror, as `address` names it: `host[:port]`, or a URL with a path. Thread-safe."""

    def __init__(self, address: str, settings: RegistrySettings, *, pause: threading.Event) -> None:
        self.address, self.settings = address, settings
        self._pause = pause  # waited on between attempts, so that closing does not wait for them
        self._lock = threading.Lock()
        self._base = ""
        self._is_doubtful = False  # the base was found while the host could not be reached
        self._pool: urllib3.PoolManager | None = None
        self._foreign: dict[str, urllib3.PoolManager] = {}  # by proxy
        self._credentials: dict[str, str] = {}  # Authorization by repository
        self._busy_until = 0.0  # time.monotonic; no request before

    def close(self) -> None:
        for pool in (self._pool, *self._foreign.values()):
            if pool is not None:
                pool.clear()

    # ------------------------------------------------------------ requests

    def ask(
        self,
        method: str,
        path: str,
        repository: str,
        subject: str,
        headers: Mapping[str, str],
    ) -> urllib3.BaseHTTPResponse:
        """The answer to `/v2/<repository>/<path>`, its body unread; statuses 2xx, 404 and 416 are returned.

        Retries what may pass, answers a challenge once. Faults registry-unreachable, -denied, -busy.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self.ask_once(method, path, repository, subject, headers)
            except Trouble as trouble:
                if attempt == ATTEMPTS:
                    raise unreachable(subject, f"{self.address}: {trouble.cause}") from trouble
                self.wait(attempt)
        raise AssertionError("ATTEMPTS is at least 1")

    def wait(self, attempt: int) -> None:
        self._pause.wait(FIRST_DELAY * 2.0 ** (attempt - 1))

    def ask_once(
        self, method: str, path: str, repository: str, subject: str, headers: Mapping[str, str]
    ) -> urllib3.BaseHTTPResponse:
        """As `ask`, but without a second attempt: raises Trouble for what may pass."""
        left = self._busy_until - time.monotonic()
        if left > 0:
            raise busy(subject, self.address, str(math.ceil(left)))
        url = f"{self._locate(subject)}/v2/{repository}/{path}"
        challenged = False
        while True:
            credential = self._credentials.get(repository, "")
            response, host = self._follow(method, url, headers, credential, subject)
            status = response.status
            if 200 <= status < 300 or status in (404, 416):
                return response
            challenges = auth.parse_challenges(", ".join(response.headers.getlist("www-authenticate")))
            after = response.headers.get("Retry-After", "")
            response.close()
            if host and status in (401, 403):  # its challenge is not ours to answer
                cause = f"{self.address} redirects to {host}, which wants credentials of its own ({status})"
                raise Fault("registry-denied", "pull image", subject, cause)
            if status == 401 and not challenged:
                self._credentials[repository] = self._answer(challenges, repository, subject)
                challenged = True
            elif status == 429:
                raise self._busy(subject, self.address, after)
            elif status >= 500:
                raise Trouble(f"the registry answered {status}")
            else:
                raise self._denied(subject, status)

    def _busy(self, subject: str, address: str, after: str) -> Fault:
        """The registry is left alone for as long as it asks: an agent would come back after its own time."""
        if after.isdigit():
            self._busy_until = time.monotonic() + min(float(after), MAX_PAUSE)
        return busy(subject, address, after)

    def _denied(self, subject: str, status: int) -> Fault:
        if status not in (401, 403):
            return unreachable(subject, f"{self.address} answered {status}")
        if self.settings.username:
            cause, hint = f"{self.address} refuses {self.settings.username} ({status})", ""
        else:
            cause = f"{self.address} has no such image, or wants credentials ({status})"
            hint = "set username and password_file of this registry"
        return Fault("registry-denied", "pull image", subject, cause, hint)

    def _follow(
        self, method: str, url: str, headers: Mapping[str, str], credential: str, subject: str
    ) -> tuple[urllib3.BaseHTTPResponse, str]:
        """Follow redirects; the Authorization header stays with the origin it is meant for.

        The answer, and the host it is from where that is another origin than `url`'s.
        """
        origin = _origin(url)
        for _ in range(MAX_REDIRECTS + 1):
            own = _origin(url) == origin
            sent = dict(headers)
            if own and credential:
                sent["Authorization"] = credential
            response = self._send(method, url, sent)
            if response.status not in _REDIRECTS or "Location" not in response.headers:
                return response, "" if own else urlsplit(url).netloc
            target = urljoin(url, response.headers["Location"])
            response.close()
            scheme = urlsplit(target).scheme
            if scheme not in ("http", "https") or (scheme == "http" and origin[0] == "https"):
                raise unreachable(subject, f"{self.address} redirects to {scheme}, which is not safe")
            url = target
        raise unreachable(subject, f"{self.address} redirects more than {MAX_REDIRECTS} times")

    def _send(self, method: str, url: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        is_own = _origin(url) == _origin(self._base)
        pool = self._pool if is_own else self._others(url)
        assert pool is not None
        try:
            return pool.request(
                method,
                url,
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers},
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
            )
        except urllib3.exceptions.HTTPError as error:
            self._is_doubtful = self._is_doubtful or is_own
            raise Trouble(explain(error)) from error

    # ------------------------------------------------------------ authentication

    def _answer(self, challenges: tuple[auth.Challenge, ...], repository: str, subject: str) -> str:
        """The Authorization value that a 401 asks for."""
        challenge = auth.choose(challenges)
        if challenge is None:
            raise self._denied(subject, 401)
        own = self._own_credential(subject)
        if challenge.scheme == "basic":
            if not own:
                raise self._denied(subject, 401)
            return own
        return f"Bearer {self._token(challenge, repository, own, subject)}"

    def _own_credential(self, subject: str) -> str:
        settings = self.settings
        if not settings.username:
            return ""
        try:
            password = Path(settings.password_file).read_text().strip() if settings.password_file else ""
        except (OSError, ValueError) as error:
            cause = f"cannot read {settings.password_file}: {str(error).lower()}"
            raise Fault("registry-denied", "pull image", subject, cause) from error
        return auth.basic(settings.username, password)

    def _token(self, challenge: auth.Challenge, repository: str, own: str, subject: str) -> str:
        url = auth.token_url(challenge, repository)
        parts = urlsplit(url)
        safe = parts.scheme == "https" or (parts.scheme == "http" and self._base.startswith("http:"))
        if not safe:
            raise unreachable(subject, f"{self.address} sends to the token server {url!r}, which is not safe")
        response, _ = self._follow("GET", url, {}, own, subject)
        try:
            body = read_whole(response, MAX_TOKEN)
        finally:
            response.close()
        if response.status == 429:
            after = response.headers.get("Retry-After", "")
            raise self._busy(subject, urlsplit(url).netloc, after)
        if response.status >= 500:
            raise Trouble(f"the token server answered {response.status}")
        if response.status != 200:
            raise self._denied(subject, response.status)
        try:
            return auth.parse_token(body).text
        except ValueError as error:
            raise unreachable(subject, f"{self.address}: {error}") from error

    # ------------------------------------------------------------ connections

    def _locate(self, subject: str) -> str:
        """The base URL. For hosts that may do without TLS: finds out whether they do, and again after they
        could not be reached: one that was down speaks TLS when it is up, or has another certificate.
        """
        with self._lock:
            if not self._base or self._is_doubtful:
                self._base = self._find(subject)
                self._is_doubtful = False
            return self._base

    def _find(self, subject: str) -> str:
        scheme, _, rest = self.address.rpartition("://")
        netloc, slash, prefix = rest.partition("/")
        parts = urlsplit(f"//{_API_HOSTS.get(netloc, netloc)}")
        host = parts.hostname or ""
        relaxed = self.settings.insecure or is_loopback(host)
        if scheme == "http" and not relaxed:
            raise Fault(
                "request-invalid",
                "pull image",
                subject,
                f"{self.address} is not https",
                "set insecure = true for it",
            )
        fingerprint = ""
        if relaxed and not self.settings.ca_file and scheme != "http":
            fingerprint = probe_tls(host, parts.port or 443)
        plain = relaxed and not fingerprint and not self.settings.ca_file
        scheme = "http" if plain else "https"
        self._pool = self._connect(scheme, host, fingerprint, subject)
        return f"{scheme}://{parts.netloc}{slash}{prefix}".rstrip("/")

    def _connect(self, scheme: str, host: str, fingerprint: str, subject: str) -> urllib3.PoolManager:
        options: dict[str, Any] = {}
        if scheme == "https":
            try:
                context = ssl.create_default_context(cafile=self.settings.ca_file or None)
            except (OSError, ssl.SSLError) as error:
                cause = f"cannot read {self.settings.ca_file}: {str(error).lower()}"
                raise Fault("registry-denied", "pull image", subject, cause) from error
            if fingerprint:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
                options["assert_fingerprint"] = fingerprint
            options["ssl_context"] = context
        return _pool(_proxy(scheme, host), options)

    def _others(self, url: str) -> urllib3.PoolManager:
        """For the hosts that a registry redirects to: their certificates are checked."""
        parts = urlsplit(url)
        proxy = _proxy(parts.scheme, parts.hostname or "")
        with self._lock:
            if proxy not in self._foreign:
                self._foreign[proxy] = _pool(proxy, {"ssl_context": ssl.create_default_context()})
            return self._foreign[proxy]


def _pool(proxy: str, options: dict[str, Any]) -> urllib3.PoolManager:
    timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT, read=READ_TIMEOUT)
    if proxy:
        return urllib3.ProxyManager(proxy, maxsize=POOL_SIZE, timeout=timeout, **options)
    return urllib3.PoolManager(maxsize=POOL_SIZE, timeout=timeout, **options)


def _proxy(scheme: str, host: str) -> str:
    """The environment's HTTP_PROXY, HTTPS_PROXY and NO_PROXY; none for this machine itself."""
    if is_loopback(host) or urllib.request.proxy_bypass(host):
        return ""
    return urllib.request.getproxies().get(scheme, "")


def probe_tls(host: str, port: int) -> str:
    """The sha256 fingerprint of the certificate that a server shows, to hold it to; empty: no TLS there."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), CONNECT_TIMEOUT) as plain:
            with context.wrap_socket(plain, server_hostname=host) as secure:
                return hashlib.sha256(secure.getpeercert(True) or b"").hexdigest()
    except OSError:
        return ""


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def busy(subject: str, address: str, after: str) -> Fault:
    when = f"in {after} s" if after.isdigit() else after or "later"
    return Fault(
        "registry-busy", "pull image", subject, f"{address} allows no more requests, come back {when}"
    )


class Pace:
    """Holds a server to MIN_PROGRESS bytes in STALL seconds: one that drips would hold a place for ever."""

    def __init__(self) -> None:
        self._begin, self._bytes = time.monotonic(), 0

    def keep(self, size: int) -> None:
        """`size` bytes have come. Raises Trouble."""
        self._bytes += size
        now = time.monotonic()
        if now - self._begin > STALL:
            if self._bytes < MIN_PROGRESS:
                raise Trouble(f"only {self._bytes} bytes came in {STALL:g} s")
            self._begin, self._bytes = now, 0


def read_some(response: urllib3.BaseHTTPResponse, size: int) -> bytes:
    """What has come of a body, at most `size` bytes; empty at its end. Raises Trouble."""
    try:
        return response.read1(size, decode_content=False)
    except urllib3.exceptions.HTTPError as error:
        raise Trouble(explain(error)) from error


def read_whole(response: urllib3.BaseHTTPResponse, limit: int) -> bytes:
    """A short body, or its first `limit` bytes. Raises Trouble."""
    data, pace = bytearray(), Pace()
    while len(data) < limit and (piece := read_some(response, limit - len(data))):
        data += piece
        pace.keep(len(piece))
    return bytes(data)


def explain(error: BaseException) -> str:
    """The innermost reason of an error of urllib3, in a few words."""
    reason: BaseException = error
    while (inner := getattr(reason, "reason", None)) is not None and isinstance(inner, BaseException):
        reason = inner
    if isinstance(reason, urllib3.exceptions.NewConnectionError) and reason.__cause__ is not None:
        reason = reason.__cause__
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror.lower()
    return str(reason).rpartition(": ")[2].lower() or type(reason).__name__.lower()
