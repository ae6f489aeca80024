"""Effects: bodies of HTTP answers, read with limits of size and time; and what their errors mean to
people.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import urllib3

STALL = 60.0  # seconds in which MIN_PROGRESS must come, or all that there is
MIN_PROGRESS = 64 * 1024  # bytes; a connection that brought less before it broke was a failure
MAX_REST = 16 * 1024  # bytes of a body that nobody wants, up to which its connection is kept
MAX_WORDS = 200  # characters of a registry's own words that are repeated


class Trouble(Exception):
    """An attempt failed in a way that may pass: `cause` is for people. `after` is seconds that the other side
    asks to wait, `is_busy` whether it did so because of too many requests.
    """

    def __init__(self, cause: str, after: float = 0.0, *, is_busy: bool = False) -> None:
        super().__init__(cause)
        self.cause, self.after, self.is_busy = cause, after, is_busy


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


def dismiss(response: urllib3.BaseHTTPResponse) -> None:
    """Done with an answer whose body says nothing: a short one is read away, so that its connection can be
    used again.
    """
    try:
        rest = read_whole(response, MAX_REST + 1)
    except Trouble:
        response.close()
        return
    response.release_conn() if len(rest) <= MAX_REST else response.close()


def encoding(response: urllib3.BaseHTTPResponse) -> str:
    """The Content-Encoding of an answer that was asked for without one: nothing is ever inflated here, so
    that no small answer becomes a large one. Empty: none.
    """
    named = response.headers.get("Content-Encoding", "").strip().lower()
    return "" if named == "identity" else named


def error_words(response: urllib3.BaseHTTPResponse, limit: int) -> str:
    """What the registry says about an error, in one line; empty when it says nothing that is meant for
    people.

    Source: distribution-spec, "Error Codes".
    """
    try:
        value = json.loads(read_whole(response, limit))
    except (Trouble, ValueError, RecursionError):
        return ""
    errors = value.get("errors") if isinstance(value, dict) else None
    first = errors[0] if isinstance(errors, list) and errors else value
    if not isinstance(first, dict):
        return ""
    words = first.get("message") or first.get("details") or first.get("code") or ""
    if not isinstance(words, str):
        return ""
    return "".join(char for char in " ".join(words.split()) if char.isprintable())[:MAX_WORDS]


def retry_after(value: str, now: float) -> float | None:
    """Seconds from `now` (since 1970) that a Retry-After asks for: a number or a date (RFC 9110, 10.2.3)."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.fromtimestamp(now, UTC)).total_seconds())


def explain(error: BaseException) -> str:
    """The innermost reason of an error of urllib3, in a few words."""
    reason: BaseException = error
    while (inner := getattr(reason, "reason", None)) is not None and isinstance(inner, BaseException):
        reason = inner
    if isinstance(reason, urllib3.exceptions.ProxyError):
        reason = reason.original_error
    if isinstance(reason, urllib3.exceptions.NewConnectionError) and reason.__cause__ is not None:
        reason = reason.__cause__
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror.lower()
    return str(reason).rpartition(": ")[2].lower() or type(reason).__name__.lower()
