"""Decisions: what a registry's WWW-Authenticate header asks for, and what answers it.

Sources: RFC 9110 section 11.6.1; distribution spec "Token Authentication Specification" and "Token Scope
Documentation"; "OAuth2 Token Authentication" for refresh (identity) tokens.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlencode

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PARAMETER = re.compile(
    r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,\"]*))\s*(?:,|\Z)"
)
TOKEN = re.compile(r"[\x21-\x7e]+\Z")  # what may stand in a header
_COMMAS = re.compile(r"[\s,]*")

MAX_HEADER = 8192  # characters that are looked at
DEFAULT_LIFETIME = 60.0  # seconds, when a token server does not say (distribution spec)
CLIENT = "stead"  # OAuth2 client_id


@dataclass(frozen=True, slots=True)
class Challenge:
    """`scheme` and the names of `parameters` are lower case."""

    scheme: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Token:
    """`lifetime` is seconds from the moment of the answer; `refresh` an identity token, where one came."""

    text: str = field(repr=False)
    lifetime: float = DEFAULT_LIFETIME
    refresh: str = field(default="", repr=False)


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """Every challenge of a WWW-Authenticate value, in order; what is malformed ends the list."""
    found: list[Challenge] = []
    header, position = header[:MAX_HEADER], 0
    while True:
        position = _end(_COMMAS, header, position)
        scheme = _TOKEN.match(header, position)
        if scheme is None:
            return tuple(found)
        position = scheme.end()
        parameters: dict[str, str] = {}
        if header[position : position + 1] in (" ", "\t"):
            while (match := _PARAMETER.match(header, position)) is not None:
                quoted, plain = match[2], match[3]
                value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
                parameters.setdefault(match[1].lower(), value)
                position = match.end()
        elif position < len(header) and header[position] != ",":
            return tuple(found)
        found.append(Challenge(scheme[0].lower(), parameters))


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


def choose(challenges: Sequence[Challenge]) -> Challenge | None:
    """Bearer with a realm before Basic; anything else cannot be answered."""
    for challenge in challenges:
        if challenge.scheme == "bearer" and challenge.parameters.get("realm"):
            return challenge
    return next((challenge for challenge in challenges if challenge.scheme == "basic"), None)


# ---------------------------------------------------------------- scopes


def pull_scope(repository: str) -> str:
    return f"repository:{repository}:pull"


def push_scope(repository: str) -> str:
    return f"repository:{repository}:pull,push"


def merge_scopes(own: Sequence[str], asked: str = "") -> tuple[str, ...]:
    """What we need and what a challenge asks for (scopes with blanks between), each resource once.

    Resources and actions keep the order in which they come.
    """
    actions: dict[str, dict[str, None]] = {}
    for scope in (*own, *asked.split(" ")):
        resource, colon, verbs = scope.rpartition(":")
        if colon:
            actions.setdefault(resource, {}).update(dict.fromkeys(verbs.split(",")))
    return tuple(f"{resource}:{','.join(verbs)}" for resource, verbs in actions.items())


# ---------------------------------------------------------------- token servers


def token_url(challenge: Challenge, scopes: Sequence[str], more: Sequence[tuple[str, str]] = ()) -> str:
    """Where to GET a token for `scopes`; `more` are further parameters of the query."""
    realm = challenge.parameters["realm"]
    query = [*more]
    if service := challenge.parameters.get("service"):
        query.append(("service", service))
    query += [("scope", scope) for scope in scopes]
    if not query:
        return realm
    return f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}"


def refresh_form(challenge: Challenge, scopes: Sequence[str], identity_token: str) -> bytes:
    """The body of the POST that trades an identity token for an access token."""
    form = [("grant_type", "refresh_token"), ("refresh_token", identity_token), ("client_id", CLIENT)]
    if service := challenge.parameters.get("service"):
        form.append(("service", service))
    if scopes:
        form.append(("scope", " ".join(scopes)))
    return urlencode(form).encode()


def parse_token(body: bytes) -> Token:
    """The token server's answer; ValueError when it holds none."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("the token server's answer is not JSON") from None
    text = (value.get("token") or value.get("access_token")) if isinstance(value, dict) else None
    if not isinstance(text, str) or not TOKEN.match(text):
        raise ValueError("the token server's answer holds no token")
    lifetime, refresh = value.get("expires_in"), value.get("refresh_token")
    known = isinstance(lifetime, (int, float)) and lifetime > 0
    return Token(
        text,
        max(DEFAULT_LIFETIME, float(lifetime)) if known else DEFAULT_LIFETIME,
        refresh if isinstance(refresh, str) and TOKEN.match(refresh) else "",
    )


def basic(username: str, password: str) -> str:
    """The value of an Authorization header (RFC 7617, UTF-8)."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
