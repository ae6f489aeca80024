"""A registry that takes what is pushed, by the distribution specification, and breaks off where it is
told.
"""

from __future__ import annotations

import itertools
from urllib.parse import parse_qs, urlsplit

from tests.kernel.fake_registry import Answer, Fake, Request
from tests.kernel.images_box import digest


class Intake:
    """The pushing side of a Fake: `blobs` and `manifests` are what arrived whole. `location` is the form of
    the Location that it gives out.
    """

    def __init__(self, fake: Fake, location: str = "/v2/{name}/blobs/uploads/{id}?state=a%2Fb") -> None:
        self.fake, self.location = fake, location
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.uploads: dict[str, bytearray] = {}
        self._ids = itertools.count(1)
        fake.answer = self.answer

    def answer(self, request: Request) -> Answer:
        parts = urlsplit(request.path)
        name, _, rest = parts.path.removeprefix("/v2/").partition("/blobs/uploads/")
        if "/blobs/uploads/" in parts.path:
            return self._upload(request, name, rest, parse_qs(parts.query))
        if "/manifests/" in parts.path and request.method == "PUT":
            self.manifests[parts.path.rpartition("/")[2]] = request.body
            return Answer(b"", 201, {"Docker-Content-Digest": digest(request.body)})
        return Answer(b"", 200 if parts.path.rpartition("/")[2] in self.blobs else 404)

    def _upload(self, request: Request, name: str, id: str, query: dict[str, list[str]]) -> Answer:
        if request.method == "POST":
            id = str(next(self._ids))
            self.uploads[id] = bytearray()
        if id not in self.uploads:
            return Answer(b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}', 404)
        if request.method == "DELETE":
            del self.uploads[id]
            return Answer(b"", 204)
        data = self.uploads[id]
        headers = {"Location": self.location.format(name=name, id=id, host=self.fake.address)}
        if "Content-Range" in request.headers:
            start = int(request.headers["Content-Range"].partition("-")[0])
            if start != len(data):
                return Answer(b"", 416, headers)
        data += request.body
        if request.method != "PUT":
            headers["Range"] = f"0-{max(len(data) - 1, 0)}"
            return Answer(b"", 204 if request.method == "GET" else 202, headers)
        del self.uploads[id]
        wanted = query["digest"][0]
        if digest(bytes(data)) != wanted:
            return Answer(b'{"errors":[{"code":"DIGEST_INVALID","message":"bytes are wrong"}]}', 400)
        self.blobs[wanted] = bytes(data)
        return Answer(b"", 201, {"Docker-Content-Digest": wanted})
