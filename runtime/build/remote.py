"""Decisions: which words of ADD and which contexts mean something that is to be fetched."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from runtime.build.places import clean

_SCP = re.compile(r"[\w.+-]+@[\w.-]+:(?!//)")
_SCHEMES = ("git", "ssh", "http", "https", "file")


@dataclass(frozen=True, slots=True)
class Repository:
    """`url` without its fragment; `ref` and `directory` may be empty."""

    url: str
    ref: str = ""
    directory: str = ""

    @property
    def local(self) -> bool:
        """Whether it lies on this machine."""
        return self.url.startswith("file:")

    @property
    def shown(self) -> str:
        """Without credentials."""
        return self.url if self.url.startswith("ssh://") else shown(self.url)


def repository(text: str) -> Repository | None:
    """A URL that means a repository: git:// and ssh://, user@host:path, and http(s) or file URLs of a path
    that ends in .git; None for anything else."""
    url, _, fragment = text.partition("#")
    ref, _, directory = fragment.partition(":")
    scheme, found, rest = url.partition("://")
    if _SCP.match(url) or url.startswith("github.com/"):
        url = url if _SCP.match(url) else f"https://{url}"
    elif (
        not found
        or scheme not in _SCHEMES
        or (scheme in ("http", "https", "file") and not rest.partition("?")[0].endswith(".git"))
    ):
        return None
    return Repository(url, ref, clean(directory))


def is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def shown(url: str) -> str:
    """Without credentials."""
    parts = urlsplit(url)
    if not parts.scheme or "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
