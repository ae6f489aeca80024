"""A registry of one image that answers as it is told: slow, wrong or hostile."""

from __future__ import annotations

import gzip
import json
import os
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from runtime.faults import Fault
from specs.values import ImageRef
from tests.kernel.images_box import Box, digest, file, layer

GATE = 60.0  # seconds after which a gate opens by itself
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass
class Request:
    method: str
    path: str
    headers: Any
    body: bytes = b""
    shown: Any = None  # the certificate of the client, where the registry has TLS


@dataclass
class Answer:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = 0  # bytes that are sent before the connection breaks
    cut_head: int = 0  # ... of the answer's head
    endless: bool = False
    drip: float = 0.0  # seconds between two bytes
    gate: threading.Event | None = None  # for which the second half of the body waits


class Fake:
    """A registry of one image whose `answer` may be replaced. Plain HTTP, or TLS with a certificate."""

    def __init__(self, certificate: Path | None = None, port: int = 0, clients: Path | None = None) -> None:
        """`clients` is the authority whose certificates clients may show."""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def respond(self) -> None:
                request = Request(self.command, self.path, self.headers)
                size, limit = int(self.headers.get("Content-Length") or 0), fake.takes(request)
                request.body = self.rfile.read(size if limit is None else min(limit, size))
                if certificate is not None:
                    request.shown = self.connection.getpeercert()  # type: ignore[attr-defined]
                fake.requests.append(request)
                answer = fake.answer(request)
                if limit is not None:
                    self.close_connection = True
                    return
                if answer.cut_head:
                    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\n"
                    self.wfile.write(head[: answer.cut_head])
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                length = {} if answer.endless else {"Content-Length": str(len(answer.body))}
                for key, value in {**length, **answer.headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "HEAD":
                    return
                try:
                    if answer.endless:
                        self.close_connection = True
                        while True:
                            fake.sent += self.wfile.write(b" " * 65536)
                    for at in range(len(answer.body) if answer.drip else 0):
                        self.wfile.write(answer.body[at : at + 1])
                        if fake.ending.wait(answer.drip):
                            return
                    if answer.gate is not None:
                        half = len(answer.body) // 2
                        self.wfile.write(answer.body[:half])
                        answer.gate.wait(GATE)
                        answer = replace(answer, body=answer.body[half:])
                    self.wfile.write(answer.body[: answer.cut] if answer.cut else answer.body)
                    if answer.cut:
                        self.close_connection = True
                except OSError:
                    fake.closed.set()
                    self.close_connection = True

            do_GET = do_HEAD = do_CONNECT = do_POST = do_PUT = do_PATCH = do_DELETE = respond

        self.requests: list[Request] = []
        self.sent = 0
        self.closed, self.ending = threading.Event(), threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = False
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that hang up
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            if clients is not None:
                context.load_verify_locations(clients)
                context.verify_mode = ssl.CERT_OPTIONAL
            self.server.socket = context.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        self.files: dict[str, bytes] = {}
        self.answer: Callable[[Request], Answer] = self.plain
        #: bytes of a request that are read before the connection breaks; None: all, and it is answered
        self.takes: Callable[[Request], int | None] = lambda _: None
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        self.ending.set()
        self.server.shutdown()
        self._thread.join()
        self.server.socket.close()

    def image(self, *layers: bytes, **more: Any) -> str:
        """Offer an image as `app:1`; returns the manifest's digest."""
        config = {
            "architecture": "",
            "os": "linux",
            "rootfs": {"diff_ids": [digest(item) for item in layers]},
        }
        packed = [gzip.compress(item) for item in layers]
        text = json.dumps(config).encode()
        for item in (text, *packed):
            self.files[f"blobs/{digest(item)}"] = item
        manifest = {
            "schemaVersion": 2,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest(text),
                "size": len(text),
            },
            "layers": [
                {
                    "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                    "digest": digest(item),
                    "size": len(item),
                }
                for item in packed
            ],
            **more,
        }
        data = json.dumps(manifest).encode()
        self.files["manifests/1"] = self.files[f"manifests/{digest(data)}"] = data
        return digest(data)

    def plain(self, request: Request) -> Answer:
        body = self.files.get(request.path.rpartition("/v2/app/")[2])
        if body is None:
            return Answer(b"{}", 404)
        if request.headers.get("Range", "").startswith("bytes="):
            start = int(request.headers["Range"][6:].partition("-")[0])
            span = f"bytes {start}-{len(body) - 1}/{len(body)}"
            return Answer(body[start:], 206, {"Content-Range": span})
        return Answer(body, 200, {"Content-Type": MANIFEST} if "manifests" in request.path else {})

    @property
    def ref(self) -> ImageRef:
        return ImageRef.parse(f"{self.address}/app:1")


CONTENT = layer(file("data", os.urandom(3_000_000)), file("etc/x", "x"))


def fault_of(box: Box, ref: ImageRef) -> Fault:
    with pytest.raises(Fault) as caught:
        box.store.pull(ref)
    assert box.store.list() == []
    assert os.listdir(box.paths.layers) == []
    passes = ("registry-unreachable", "registry-busy", "registry-denied", "image-not-found")
    assert caught.value.code in passes or os.listdir(box.paths.blobs) == []
    return caught.value
