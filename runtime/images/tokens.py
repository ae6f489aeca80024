"""Effects: the Authorization header for one registry host: asked for once, kept while it is good.

Sources: distribution spec "Token Authentication Specification" (GET with Basic) and "OAuth2 Token
Authentication" (POST with an identity token). Credentials go to the registry's own host and to its token
server, and to that one over plain HTTP only where the registry itself speaks it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from runtime.faults import Fault
from runtime.images import auth
from runtime.images.connections import Errand, checked
from runtime.images.credentials import Credential

MARGIN = 5.0  # seconds before its end from which a token is not used any more
MAX_TOKENS = 1000  # that are kept for one host


class Fetch(Protocol):
    """The body of a token server's 200; raises Fault or Trouble for all else."""

    def __call__(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, errand: Errand
    ) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Kept:
    header: str = field(repr=False)
    until: float  # time.monotonic
    own: Credential  # what it was given for


class Authenticator:
    """For one registry. `credentials` gives what there is for a repository, when it is needed.
    Thread-safe.
    """

    def __init__(
        self,
        address: str,
        credentials: Callable[[str], Credential],
        fetch: Fetch,
        clock: Callable[[], float] = time.monotonic,
        *,
        offline: bool = False,
    ) -> None:
        self.address, self._offline = address, offline
        self.identity = ""  # the identity token that came along, if `offline` asked for one
        self._credentials, self._fetch, self._clock = credentials, fetch, clock
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, ...], _Kept] = {}  # by scopes
        self._bearer: auth.Challenge | None = None  # whose token server answered last
        self._base = ""

    @property
    def was_asked(self) -> bool:
        """Whether the registry wanted to know who we are, and was told."""
        return bool(self._kept)

    def current(self, errand: Errand, base: str) -> str:
        """What to send without having been asked; empty: nothing. A token that ended is renewed in
        advance.
        """
        with self._lock:
            self._base = base
            kept = self._kept.get(errand.scopes)
            if kept is not None and kept.until > self._clock():
                return kept.header
            if self._bearer is None:
                return ""
            return self._renew(self._bearer, errand, "")

    def answer(self, challenges: tuple[auth.Challenge, ...], errand: Errand, refused: str) -> str:
        """What answers a 401 to a request that was sent with `refused`. Fault registry-denied."""
        challenge = auth.choose(challenges)
        if challenge is None:
            raise self.denied(errand, "401")
        with self._lock:
            kept = self._kept.get(errand.scopes)
            if kept is not None and kept.header != refused and kept.until > self._clock():
                return kept.header  # another thread was faster
            self._kept.pop(errand.scopes, None)
            if challenge.scheme == "basic":
                return self._basic(errand, refused)
            return self._renew(challenge, errand, challenge.parameters.get("scope", ""))

    def anew(self, errand: Errand, refused: str) -> str:
        """Another token than the one that was kept from before and is not enough, for somebody may have
        logged in since; empty where that makes no difference."""
        with self._lock:
            kept = self._kept.get(errand.scopes)
            if self._bearer is None or kept is None or kept.header != refused:
                return ""
            if self._credentials(errand.repository) == kept.own:
                return ""
            return self._renew(self._bearer, errand, "")

    def _basic(self, errand: Errand, refused: str) -> str:
        own = self._credentials(errand.repository)
        header = auth.basic(own.username, own.password) if own.username else ""
        if not header or header == refused:
            raise self.denied(errand, "401")
        self._keep(errand, _Kept(header, float("inf"), own))
        return header

    def _renew(self, challenge: auth.Challenge, errand: Errand, asked: str) -> str:
        own = self._credentials(errand.repository)
        if own.registry_token:
            token = auth.Token(own.registry_token)
        else:
            token = self._token(challenge, auth.merge_scopes(errand.scopes, asked), own, errand)
            self.identity = token.refresh or self.identity
        header = f"Bearer {token.text}"
        self._keep(errand, _Kept(header, self._clock() + token.lifetime - MARGIN, own))
        self._bearer = challenge
        return header

    def _keep(self, errand: Errand, kept: _Kept) -> None:
        self._kept[errand.scopes] = kept
        while len(self._kept) > MAX_TOKENS:
            del self._kept[next(iter(self._kept))]

    def _token(
        self, challenge: auth.Challenge, scopes: tuple[str, ...], own: Credential, errand: Errand
    ) -> auth.Token:
        """A token from the server that the challenge names."""
        realm = urlsplit(checked("", challenge.parameters["realm"], errand))
        if realm.scheme != "https" and not (realm.scheme == "http" and self._base.startswith("http:")):
            place = f"{realm.scheme}://{realm.netloc}"
            cause = f"{self.address} sends to the token server {place!r}, which is not safe"
            raise errand.fault("registry-unreachable", cause)
        if own.identity_token:
            form = auth.refresh_form(challenge, scopes, own.identity_token)
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            body = self._fetch("POST", challenge.parameters["realm"], headers, form, errand)
        else:
            more = [("account", own.username)] if own.username else []
            if self._offline:
                more += [("client_id", auth.CLIENT), ("offline_token", "true")]
            headers = {"Authorization": auth.basic(own.username, own.password)} if own.username else {}
            body = self._fetch("GET", auth.token_url(challenge, scopes, more), headers, None, errand)
        try:
            return auth.parse_token(body)
        except ValueError as error:
            raise errand.fault("registry-unreachable", f"{self.address}: {error}") from error

    def denied(self, errand: Errand, answer: str) -> Fault:
        """`answer` is what the registry said: the status, and its own words where there are some."""
        own = self._credentials(errand.repository)
        hint = f"stead login {self.address}, or username and password_file of this registry in the settings"
        if own.username:
            cause, hint = f"{self.address} refuses {own.username} ({answer})", ""
        elif own:
            cause = f"{self.address} refuses the token that is kept for it ({answer})"
        elif errand.operation.startswith("push"):
            cause = f"{self.address} wants credentials for {errand.repository} ({answer})"
        else:
            cause = f"{self.address} has no such image, or wants credentials ({answer})"
        return errand.fault("registry-denied", cause, hint)
