"""Effects: the tags of a repository, as its registry lists them.

Source: OCI distribution-spec 1.1, "Listing Tags". Mirrors are not asked: they may know some of the tags only.
What comes is limited in size, and taken as a stranger's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

import urllib3

from runtime.images import auth
from runtime.images.answers import Trouble, encoding, read_whole
from runtime.images.connections import Errand, checked, origin
from runtime.images.endpoint import ATTEMPTS, Endpoint, Request
from specs.values import ImageRef

#: Tags asked for at once, bytes of such an answer, and tags that a repository has at most.
PAGE, MAX_BYTES, MAX_TAGS = 1000, 4 << 20, 20_000

_NEXT = re.compile(r'<([^>]*)>\s*;[^,]*\brel="?next"?', re.IGNORECASE)  # RFC 8288, 3


def read_tags(endpoint: Endpoint, ref: ImageRef) -> list[ImageRef]:
    """The names with a tag of the repository that `ref` is of, in order; `endpoint` is its registry.

    Faults image-not-found where there is no such repository, or no tag in it; manifest-invalid for a list
    that is none; those of every request.
    """
    errand = Errand("list tags of", ref.name, ref.repository, (auth.pull_scope(ref.repository),))
    found: dict[str, None] = {}
    path = f"{ref.repository}/tags/list?n={PAGE}"
    while path:
        page, path = _page(endpoint, errand, path)
        fresh = [tag for tag in page if tag not in found]
        if path and not fresh:
            raise errand.fault("manifest-invalid", f"{endpoint.address} sends the same tags again and again")
        found.update(dict.fromkeys(fresh))
        if len(found) > MAX_TAGS:
            raise errand.fault("manifest-invalid", f"it has more than {MAX_TAGS} tags")
    if not found:
        raise errand.fault("image-not-found", f"{endpoint.address} has no tag of it")
    return sorted(_names(found, ref, errand), key=str)


def _names(tags: Iterable[str], ref: ImageRef, errand: Errand) -> Iterable[ImageRef]:
    for tag in tags:
        try:
            name = ImageRef.parse(f"{ref.name}:{tag}")
        except ValueError as error:
            raise errand.fault("manifest-invalid", f"it lists {tag[:40]!r}, which is no tag") from error
        if name.tag != tag or name.name != ref.name:  # a digest, or part of a path
            raise errand.fault("manifest-invalid", f"it lists {tag[:40]!r}, which is no tag")
        yield name


def _page(endpoint: Endpoint, errand: Errand, path: str) -> tuple[list[str], str]:
    """Tags, and where there are more of them; empty at the end."""
    for attempt in range(1, ATTEMPTS + 1):
        response = endpoint.ask(Request("GET", path, errand))
        try:
            if response.status != 200:
                raise errand.fault("image-not-found", f"{endpoint.address} has no such repository")
            return _tags(response, errand), _following(endpoint, errand, path, response)
        except Trouble as trouble:
            if attempt == ATTEMPTS:
                raise endpoint.given_up(trouble, errand) from trouble
            endpoint.wait(attempt, trouble)
        finally:
            response.close()
    raise AssertionError("ATTEMPTS is at least 1")


def _tags(response: urllib3.BaseHTTPResponse, errand: Errand) -> list[str]:
    if named := encoding(response):
        cause = f"its tags came with Content-Encoding {named[:40]}, which was not asked for"
        raise errand.fault("manifest-invalid", cause)
    data = read_whole(response, MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise errand.fault("manifest-invalid", f"its list of tags has more than {MAX_BYTES} bytes at a time")
    try:
        value = json.loads(data)
        tags = value["tags"] or []  # null where there is none
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise errand.fault("manifest-invalid", "its list of tags is none") from error
    return tags


def _following(endpoint: Endpoint, errand: Errand, path: str, response: urllib3.BaseHTTPResponse) -> str:
    """The URL of the next page, which has to be of the same registry; empty at the end."""
    match = _NEXT.search(response.headers.get("Link", ""))
    if match is None:
        return ""
    base = endpoint.connections.locate(errand)
    here = path if "://" in path else f"{base}/v2/{path}"
    url = checked(here, match[1], errand)
    if origin(url) != origin(base):
        cause = f"{endpoint.address} sends to {urlsplit(url).netloc} for more tags"
        raise errand.fault("registry-unreachable", cause)
    return url
