"""Effects: whether a registry accepts credentials, and what to keep of them.

Source: docker CLI reference "docker login"; distribution spec "API Version Check" and "OAuth2 Token
Authentication".
"""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import dataclass

from runtime.images.answers import dismiss
from runtime.images.connections import Errand
from runtime.images.credentials import HUB_HOSTS, Credential
from runtime.images.endpoint import Request
from runtime.images.registry import Registries
from specs.values import DEFAULT_HOST

_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?\Z")


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """`credential` is what to keep: an identity token in place of the password where the registry gave one.
    `was_asked` is whether the registry wanted any at all.
    """

    credential: Credential
    was_asked: bool


def registry_host(text: str) -> str:
    """The host that people mean by `registry.example:5000`, `https://registry.example/v2/` or nothing
    (Docker Hub). ValueError.
    """
    host = text.partition("://")[2] if "://" in text else text
    host = host.partition("/")[0] or DEFAULT_HOST
    if not _HOST.match(host):
        raise ValueError(f"cannot read registry {text!r}: write HOST or HOST:PORT")
    return DEFAULT_HOST if host in HUB_HOSTS else host


def log_in(registries: Registries, host: str, credential: Credential) -> LoggedIn:
    """Nothing is kept here. Faults registry-denied, registry-unreachable, registry-busy."""
    errand = Errand("log in to", host)
    with closing(registries.trial(host, credential)) as endpoint:
        response = endpoint.ask(Request("GET", "", errand, accepts=(404,)))
        dismiss(response)
        if response.status == 404:
            raise errand.fault("registry-unreachable", "there is no registry: /v2/ was not found")
        was_asked = endpoint.authenticator.was_asked
        identity = endpoint.authenticator.identity
    if identity:
        credential = Credential(credential.username, identity_token=identity)
    return LoggedIn(credential, was_asked)
