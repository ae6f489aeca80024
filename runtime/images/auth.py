"""Decisions: what a registry's WWW-Authenticate header asks for, and what answers it.

Source: RFC 9110 section 11.6.1; distribution spec "Token Authentication Specification".
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PARAMETER = re.compile(
    r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,\"]*))\s*(?:,|\Z)"
)
_COMMAS = re.compile(r"[\s,]*")

MAX_HEADER = 8192  # characters that are looked at
DEFAULT_LIFETIME = 60.0  # seconds, when a token server does not say (distribution spec)


@dataclass(frozen=True, slots=True)
class Challenge:
    """`scheme` and the names of `parameters` are lower case."""

    scheme: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Token:
    """`lifetime` is seconds from the moment of the answer."""

    text: str
    lifetime: float = DEFAULT_LIFETIME


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


def token_url(challenge: Challenge, repository: str) -> str:
    """Where to ask for a token. The scope defaults to pulling `repository`."""
    realm = challenge.parameters["realm"]
    query = []
    if service := challenge.parameters.get("service"):
        query.append(("service", service))
    scopes = challenge.parameters.get("scope") or f"repository:{repository}:pull"
    query += [("scope", scope) for scope in scopes.split(" ") if scope]
    return f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}"


def parse_token(body: bytes) -> Token:
    """The token server's answer; ValueError when it holds none."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("the token server's answer is not JSON") from None
    text = (value.get("token") or value.get("access_token")) if isinstance(value, dict) else None
    if not isinstance(text, str) or not re.fullmatch(r"[\x21-\x7e]+", text):
        raise ValueError("the token server's answer holds no token")
    lifetime = value.get("expires_in")
    known = isinstance(lifetime, (int, float)) and lifetime > 0
    return Token(text, max(DEFAULT_LIFETIME, float(lifetime)) if known else DEFAULT_LIFETIME)


def basic(username: str, password: str) -> str:
    """The value of an Authorization header (RFC 7617, UTF-8)."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
