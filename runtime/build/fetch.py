"""Effects: files that ADD has from http and https URLs.

What a URL gave last time is remembered with the server's own marks (ETag, Last-Modified): while these hold,
the step is known without a byte being fetched (RFC 9110, conditional requests)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, urlsplit

from runtime.build.cache import Cache
from runtime.build.remote import shown
from runtime.faults import Fault

#: Bytes of one file, seconds to connect and without a byte, redirects.
MAX_FILE = 1 << 36
CONNECT, READ = 15.0, 60.0
REDIRECTS = 10
TRIES = 4
PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Known:
    """What a URL gives. `name` is the last part of its path, `modified` seconds since the epoch (0: not
    told)."""

    sum: str
    name: str
    modified: int
    size: int


class Fetcher:
    """Fetches into files that `make` opens: anonymous ones of the build's directory."""

    def __init__(self, cache: Cache, make: Callable[[], int]) -> None:
        self._cache, self._make = cache, make

    def look(self, url: str, checksum: str) -> tuple[Known, int]:
        """What the URL gives, and an open file of it; -1 where that is known without fetching it.

        Faults registry-unreachable, request-invalid, digest-mismatch.
        """
        remembered = self._remembered(url)
        if checksum and remembered is not None and f"sha256:{remembered[0].sum}" == checksum:
            return remembered[0], -1
        return self._ask(url, checksum, remembered)

    def fetch(self, url: str, checksum: str) -> tuple[Known, int]:
        """The same, fetched in any case."""
        return self._ask(url, checksum, None)

    def _remembered(self, url: str) -> tuple[Known, dict[str, str]] | None:
        text = self._cache.sum(url, "url")
        if not text:
            return None
        found = json.loads(text)
        return Known(found["sum"], found["name"], found["modified"], found["size"]), found["marks"]

    def _ask(
        self, url: str, checksum: str, remembered: tuple[Known, dict[str, str]] | None
    ) -> tuple[Known, int]:
        import urllib3

        headers = {"User-Agent": "stead", "Accept-Encoding": "identity"}
        if remembered is not None:
            headers |= remembered[1]
        retries = urllib3.Retry(
            TRIES, redirect=REDIRECTS, backoff_factor=0.3, status_forcelist=(429, 500, 502, 503, 504)
        )
        timeout = urllib3.Timeout(connect=CONNECT, read=READ)
        with urllib3.PoolManager() if not _proxy(url) else urllib3.ProxyManager(_proxy(url)) as pool:
            try:
                answer = pool.request(
                    "GET", url, headers=headers, preload_content=False, retries=retries, timeout=timeout
                )
                if answer.status == 304 and remembered is not None:
                    return remembered[0], -1
                if answer.status != 200:
                    cause = f"the server answered {answer.status} {answer.reason or ''}".rstrip()
                    raise Fault("request-invalid", "fetch", shown(url), cause)
                return self._take(url, checksum, answer)
            except urllib3.exceptions.HTTPError as error:
                raise Fault("registry-unreachable", "fetch", shown(url), _cause(error)) from error

    def _take(self, url: str, checksum: str, answer: object) -> tuple[Known, int]:
        fd, size, digest = self._make(), 0, hashlib.sha256()
        try:
            for piece in answer.stream(PIECE, decode_content=False):  # type: ignore[attr-defined]
                size += len(piece)
                if size > MAX_FILE:
                    raise Fault("request-invalid", "fetch", shown(url), f"it has more than {MAX_FILE} bytes")
                digest.update(piece)
                view = memoryview(piece)
                while view:
                    view = view[os.write(fd, view) :]
            os.lseek(fd, 0, os.SEEK_SET)
        except BaseException:
            os.close(fd)
            raise
        found = f"sha256:{digest.hexdigest()}"
        if checksum and found != checksum:
            os.close(fd)
            raise Fault("digest-mismatch", "fetch", shown(url), f"its content is {found}, not {checksum}")
        headers = answer.headers  # type: ignore[attr-defined]
        known = Known(digest.hexdigest(), _name(url), _seconds(headers.get("Last-Modified", "")), size)
        marks = {
            ask: headers[told]
            for told, ask in (("ETag", "If-None-Match"), ("Last-Modified", "If-Modified-Since"))
            if headers.get(told)
        }
        if marks or checksum:
            document = {"sum": known.sum, "name": known.name, "modified": known.modified}
            text = json.dumps({**document, "size": size, "marks": marks})
            self._cache.keep_sum(url, "url", text)
        return known, fd


def _proxy(url: str) -> str:
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    return "" if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme, "")


def _name(url: str) -> str:
    return unquote(urlsplit(url).path.rstrip("/").rpartition("/")[2]).replace("/", "_")


def _seconds(text: str) -> int:
    try:
        return int(parsedate_to_datetime(text).timestamp())
    except (TypeError, ValueError):
        return 0


def _cause(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    return str(reason).rpartition(": ")[2].lower() or type(error).__name__
