"""Effects: connections to one registry host, and to the hosts that it sends to: TLS or not, through which
proxy.

Plain HTTP is spoken only to loopback hosts and to those that the settings call insecure; of these TLS is
tried first, without checking who answers. Client certificates are shown to the registry's own host only.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import urllib3

from runtime.faults import Fault
from runtime.images.proxies import is_loopback, proxy_for
from runtime.images.tls import CertificateError, Trust, context, probe

CONNECT_TIMEOUT = 10.0  # seconds
READ_TIMEOUT = 30.0  # seconds without a byte
HEADERS_TIME = 30.0  # seconds that the head of an answer may take after its first byte may have come
POOL_SIZE = 8  # connections kept for one host
SEND_SIZE = 64 * 1024  # bytes sent at once

_API_HOSTS = {"docker.io": "registry-1.docker.io"}

Origin = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """How to talk to one registry host. `mirrors` (hosts or URLs) are asked before it, in order, by pulls."""

    insecure: bool = False
    ca_file: str = ""
    username: str = ""
    password_file: str = ""
    mirrors: tuple[str, ...] = ()
    cert_file: str = ""
    key_file: str = ""


@dataclass(frozen=True, slots=True)
class Errand:
    """On whose behalf a request is made: the words of its Faults, whose credentials it may use, and the
    scopes that its token must allow.
    """

    operation: str
    subject: str
    repository: str = ""
    scopes: tuple[str, ...] = ()

    def fault(self, code: str, cause: str, hint: str = "") -> Fault:
        return Fault(code, self.operation, self.subject, cause, hint)


class Connections:
    """The pools of one registry, or mirror, as `address` names it: `host[:port]`, or a URL with a path.
    Thread-safe.
    """

    def __init__(
        self,
        address: str,
        settings: RegistrySettings,
        certs: Path | None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self.address, self._settings = address, settings
        self._certs, self._environment = certs, environment
        self._lock = threading.Lock()
        self.base = ""  # the URL below which /v2/ is; empty until it was located
        self._is_doubtful = False  # the base was found while the host could not be reached
        self._own: urllib3.PoolManager | None = None
        self._foreign: dict[str, urllib3.PoolManager] = {}  # by proxy

    def close(self) -> None:
        for pool in (self._own, *self._foreign.values()):
            if pool is not None:
                pool.clear()

    def doubt(self, url: str) -> None:
        """`url` could not be reached: what was found out about the registry's own host may be wrong."""
        self._is_doubtful = self._is_doubtful or origin(url) == origin(self.base)

    def locate(self, errand: Errand) -> str:
        """The base URL. For hosts that may do without TLS: finds out whether they do, and again after they
        could not be reached: one that was down speaks TLS when it is up, or has another certificate.
        """
        with self._lock:
            if not self.base or self._is_doubtful:
                former = self._own
                self.base = self._find(errand)
                self._is_doubtful = False
                if former is not None:
                    former.clear()
            return self.base

    def pool(self, url: str, errand: Errand) -> urllib3.PoolManager:
        if origin(url) == origin(self.base):
            assert self._own is not None
            return self._own
        return self._others(url, errand)

    def _find(self, errand: Errand) -> str:
        scheme, _, rest = self.address.rpartition("://")
        netloc, slash, prefix = rest.partition("/")
        parts = urlsplit(f"//{_API_HOSTS.get(netloc, netloc)}")
        host = parts.hostname or ""
        relaxed = self._settings.insecure or is_loopback(host)
        if scheme == "http" and not relaxed:
            raise errand.fault(
                "request-invalid", f"{self.address} is not https", "set insecure = true for it"
            )
        try:
            trust = self._trust(parts.netloc)
            fingerprint = ""
            if relaxed and not trust.authorities and scheme != "http":
                fingerprint = probe(host, parts.port or 443, trust, CONNECT_TIMEOUT)
            plain = scheme == "http" or (relaxed and not fingerprint and not trust.authorities)
            scheme = "http" if plain else "https"
            self._own = self._connect(scheme, host, parts.port, trust, fingerprint, errand)
        except CertificateError as error:
            raise errand.fault("registry-denied", str(error)) from error
        return f"{scheme}://{parts.netloc}{slash}{prefix}".rstrip("/")

    def _trust(self, netloc: str) -> Trust:
        """The settings' certificates, and of each kind that they do not name, those of certs.d."""
        found, settings = Trust.find(netloc, self._certs), self._settings
        authorities = (settings.ca_file,) if settings.ca_file else found.authorities
        own = (settings.cert_file, settings.key_file or settings.cert_file)
        return Trust(authorities, (own,) if settings.cert_file else found.clients)

    def _connect(
        self, scheme: str, host: str, port: int | None, trust: Trust, fingerprint: str, errand: Errand
    ) -> urllib3.PoolManager:
        options: dict[str, Any] = {}
        if scheme == "https":
            made = context(trust)
            if fingerprint:
                made.check_hostname = False
                made.verify_mode = ssl.CERT_NONE
                options["assert_fingerprint"] = fingerprint
            options["ssl_context"] = made
        return _pool(self._proxy(scheme, host, port), options, errand)

    def _others(self, url: str, errand: Errand) -> urllib3.PoolManager:
        """For the hosts that a registry redirects to, its token server among them: their certificates are
        checked against the system's authorities and those that the registry was given."""
        parts = urlsplit(url)
        proxy = self._proxy(parts.scheme, parts.hostname or "", parts.port)
        with self._lock:
            if proxy not in self._foreign:
                try:
                    netloc = urlsplit(self.base).netloc
                    options = {"ssl_context": context(self._trust(netloc), with_system=True)}
                except CertificateError as error:
                    raise errand.fault("registry-denied", str(error)) from error
                self._foreign[proxy] = _pool(proxy, options, errand)
            return self._foreign[proxy]

    def _proxy(self, scheme: str, host: str, port: int | None) -> str:
        return proxy_for(scheme, host, port or (443 if scheme == "https" else 80), self._environment)


class _Limited(urllib3.connection.HTTPConnection):
    """The head of an answer has a limit in time as a whole: a server that drips it would hold a place for
    ever.
    """

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as urllib3 has it
        limit = HEADERS_TIME + (self.timeout if isinstance(self.timeout, (int, float)) else READ_TIMEOUT)
        is_over = threading.Event()
        timer = threading.Timer(limit, _break, (self.sock, is_over))
        timer.daemon = True
        timer.start()
        try:
            answer = super().getresponse()
        finally:
            timer.cancel()
        if is_over.is_set():  # http.client takes the end of a connection for the end of the head
            answer.close()
            raise TimeoutError(f"the head of an answer took more than {limit:g} s")
        return answer


class _LimitedTls(_Limited, urllib3.connection.HTTPSConnection):
    pass


class _Plain(urllib3.HTTPConnectionPool):
    ConnectionCls = _Limited


class _Secure(urllib3.HTTPSConnectionPool):
    ConnectionCls = _LimitedTls


def _break(sock: socket.socket, is_over: threading.Event) -> None:
    """End what another thread reads: without unwrapping TLS, which is not ours to touch here."""
    is_over.set()
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _pool(proxy: str, options: dict[str, Any], errand: Errand) -> urllib3.PoolManager:
    timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT, read=READ_TIMEOUT)
    options = {"maxsize": POOL_SIZE, "timeout": timeout, "blocksize": SEND_SIZE, **options}
    if not proxy:
        return _limited(urllib3.PoolManager(**options))
    parts = urlsplit(proxy)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        cause = f"the environment asks for a proxy of kind {parts.scheme!r}"
        raise errand.fault("registry-unreachable", cause, "http and https proxies are supported")
    headers = None
    if parts.username:
        account = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers = urllib3.make_headers(proxy_basic_auth=account)
    place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return _limited(urllib3.ProxyManager(place, proxy_headers=headers, **options))


def _limited(manager: urllib3.PoolManager) -> urllib3.PoolManager:
    manager.pool_classes_by_scheme = {"http": _Plain, "https": _Secure}
    return manager


def checked(base: str, target: str, errand: Errand) -> str:
    """The URL that `target`, which a registry gave, means beside `base`. Fault registry-unreachable for
    none.
    """
    try:
        url = urljoin(base, target)
        if not origin(url)[1]:
            raise ValueError("no host")
    except ValueError as error:
        raise errand.fault(
            "registry-unreachable", f"it sends to {target[:100]!r}, which is no URL"
        ) from error
    return url


def origin(url: str) -> Origin:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
