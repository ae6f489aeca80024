"""Registries that are slow, wrong or hostile: what a pull makes of them."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import random
import socket
import ssl
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from runtime.faults import Fault
from runtime.images import connections
from specs.values import ImageRef
from tests.kernel.certificates import Authority
from tests.kernel.fake_registry import CONTENT, MANIFEST, Answer, Fake, Request, fault_of
from tests.kernel.images_box import Box, digest, file, layer

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


# ---------------------------------------------------------------- failures that pass, and those that do not


def test_an_overloaded_registry_is_busy_and_says_when_to_come_back(box: Box, fake: Fake) -> None:
    fake.answer = lambda request: Answer(b"{}", 429, {"Retry-After": "77"})
    fault = fault_of(box, fake.ref)
    assert fault.code == "registry-busy"
    assert "in 77 s" in str(fault)
    assert fault_of(box, fake.ref).code == "registry-busy"
    assert len(fake.requests) == 1, "it is left alone meanwhile"


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_short_pause_that_a_registry_asks_for_is_waited_for(
    box: Box, fake: Fake, status: int, form: str
) -> None:
    fake.image(CONTENT)
    begin = time.monotonic()
    now = datetime.now(UTC)
    after = "1" if form == "seconds" else format_datetime(now + timedelta(seconds=2), usegmt=True)
    asked: list[float] = []

    def answer(request: Request) -> Answer:
        asked.append(time.monotonic() - begin)
        if len(asked) == 1:
            return Answer(b"{}", status, {"Retry-After": after})
        return fake.plain(request)

    fake.answer = answer
    assert box.store.pull(fake.ref)
    assert 0.9 < asked[1] < 6


def test_a_registry_that_stays_busy_is_said_to_be_so(box: Box, fake: Fake) -> None:
    fake.answer = lambda request: Answer(b"{}", 429, {"Retry-After": "0"})
    fault = fault_of(box, fake.ref)
    assert fault.code == "registry-busy"
    assert len(fake.requests) == 4


def test_a_pause_without_an_end_is_cut_short(box: Box, fake: Fake) -> None:
    fake.answer = lambda request: Answer(b"{}", 429, {"Retry-After": "999999999"})
    assert "come back in 3600 s" in str(fault_of(box, fake.ref))


def test_a_failing_server_is_asked_again(box: Box, fake: Fake) -> None:
    fake.image(CONTENT)
    fake.answer = lambda request: Answer(b"", 503) if len(fake.requests) % 2 else fake.plain(request)
    assert box.store.pull(fake.ref)


def test_a_layer_of_a_busy_registry_is_not_asked_for_again_and_again(box: Box, fake: Fake) -> None:
    fake.image(CONTENT)
    packed = digest(next(data for data in fake.files.values() if data.startswith(b"\x1f\x8b")))

    def answer(request: Request) -> Answer:
        return Answer(b"", 429) if packed in request.path else fake.plain(request)

    fake.answer = answer
    assert fault_of(box, fake.ref).code == "registry-busy"
    assert len([request for request in fake.requests if packed in request.path]) == 1


def test_a_disk_that_gets_full_in_a_pull_is_said_and_leaves_nothing(tmp_path: Path, fake: Fake) -> None:
    fake.image(layer(file("f", os.urandom(8_000_000))))
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(place)], check=True)
    try:
        box = Box(place)
        fault = fault_of(box, fake.ref)
        assert fault.code == "disk-full"
        assert box.leftovers() == []
        box.close()
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_server_that_keeps_failing_is_unreachable(box: Box, fake: Fake) -> None:
    fake.answer = lambda request: Answer(b"", 500)
    assert fault_of(box, fake.ref).code == "registry-unreachable"


@pytest.mark.parametrize("what", ["manifests", "blobs"])
def test_a_server_that_drips_is_given_up(
    box: Box, fake: Fake, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr("runtime.images.answers.STALL", 0.1)
    fake.image(CONTENT)

    def answer(request: Request) -> Answer:
        given = fake.plain(request)
        given.drip = 0.01 if what in request.path else 0.0
        return given

    fake.answer = answer
    fault = fault_of(box, fake.ref)
    assert fault.code == "registry-unreachable"
    assert "bytes came in 0.1 s" in str(fault)
    partial = box.paths.blobs.with_name("partial")
    assert len(box.leftovers()) == (what == "blobs")  # what came is gone on with
    for name in box.leftovers():
        (partial / name).unlink()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_server_that_drips_the_head_of_its_answer_is_given_up(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls: bool
) -> None:
    monkeypatch.setattr(connections, "HEADERS_TIME", 0.3)
    monkeypatch.setattr(connections, "READ_TIMEOUT", 0.2)
    certificate = Authority(tmp_path / "tls").server("server", "127.0.0.1") if tls else None
    with dripping(certificate) as address:
        fault = fault_of(box, ImageRef.parse(f"{address}/app:1"))
    assert fault.code == "registry-unreachable"


@contextlib.contextmanager
def dripping(certificate: Path | None) -> Iterator[str]:
    """A server that sends one byte of a header now and then, more often than a read waits."""
    ending = threading.Event()

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
                stack.enter_context(connection)
                if context is not None:
                    connection = stack.enter_context(context.wrap_socket(connection, server_side=True))
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                while not ending.wait(0.05):
                    connection.sendall(b"x")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if certificate is not None else None
    if context is not None and certificate is not None:
        context.load_cert_chain(certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads = [threading.Thread(target=serve, args=(listener,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        ending.set()
        listener.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(10)


def test_a_registry_that_knows_no_head_is_asked_for_the_manifest(box: Box, fake: Fake) -> None:
    fake.image(CONTENT)
    fake.answer = lambda request: Answer(b"", 405) if request.method == "HEAD" else fake.plain(request)
    image = box.store.pull(fake.ref)
    assert box.store.pull(fake.ref) == image


def test_a_closed_port_is_unreachable(box: Box, fake: Fake) -> None:
    fault = fault_of(box, ImageRef.parse("127.0.0.1:1/app"))
    assert fault.code == "registry-unreachable"
    assert "connection refused" in str(fault)


def test_a_name_that_does_not_resolve_is_unreachable(box: Box) -> None:
    fault = fault_of(box, ImageRef.parse("no-such-host.invalid/app"))
    assert fault.code == "registry-unreachable"


@pytest.mark.parametrize("ranges", [True, False], ids=["resumes", "starts-over"])
def test_a_connection_that_breaks_is_taken_up_again(box: Box, fake: Fake, ranges: bool) -> None:
    fake.image(CONTENT)
    broken = []

    def answer(request: Request) -> Answer:
        given = fake.plain(request)
        if not ranges and given.status == 206:
            given = Answer(fake.files[request.path.removeprefix("/v2/app/")])
        if len(given.body) > 1_000_000 and len(broken) < 2:
            broken.append(request.headers.get("Range"))
            given.cut = 900_000
        return given

    fake.answer = answer
    assert box.store.pull(fake.ref)
    assert broken[0] is None and broken[1].startswith("bytes=")
    assert box.leftovers() == []


def test_an_interrupted_pull_goes_on_where_it_was(box: Box, fake: Fake) -> None:
    fake.image(CONTENT)
    seen: list[str] = []

    def answer(request: Request) -> Answer:
        given = fake.plain(request)
        if len(given.body) > 100_000:
            given.cut = 1_000_000 if not seen else 1
            seen.append(request.headers.get("Range", ""))
        return given

    fake.answer = answer
    assert fault_of(box, fake.ref).code == "registry-unreachable"
    assert len(box.leftovers()) == 1
    fake.requests.clear()
    fake.answer = fake.plain
    assert box.store.pull(fake.ref)
    ranges = [item.headers.get("Range", "") for item in fake.requests]
    assert [int(item[6:-1]) > 900_000 for item in ranges if item] == [True]
    assert box.leftovers() == []


@pytest.mark.parametrize("seed", range(3))
def test_connections_cut_at_random_bytes_bring_the_image_in_the_end(box: Box, fake: Fake, seed: int) -> None:
    fake.image(CONTENT)
    chance, cuts = random.Random(seed), [0]

    def answer(request: Request) -> Answer:
        given = fake.plain(request)
        if len(given.body) > 1 and cuts[0] < 12 and len(fake.requests) % 3:
            cuts[0] += 1
            given.cut = chance.randrange(1, len(given.body))
        return given

    fake.answer = answer
    assert box.store.pull(fake.ref)
    assert cuts[0] > 0 and box.leftovers() == []


@pytest.mark.parametrize("what", ["manifests", "blobs"])
@pytest.mark.parametrize("length", [1, 12, 17, 30, 45, 60])
def test_an_answer_whose_head_breaks_off_is_asked_for_again(
    box: Box, fake: Fake, what: str, length: int
) -> None:
    fake.image(CONTENT)
    broken: list[str] = []

    def answer(request: Request) -> Answer:
        if what in request.path and not broken:
            broken.append(request.path)
            return Answer(cut_head=length)
        return fake.plain(request)

    fake.answer = answer
    assert box.store.pull(fake.ref)
    assert broken


@pytest.mark.parametrize("more", [1000, -1000], ids=["too-long", "too-short"])
def test_a_content_length_that_lies_once_does_no_harm(box: Box, fake: Fake, more: int) -> None:
    fake.image(CONTENT)
    lied: list[str] = []

    def answer(request: Request) -> Answer:
        given = fake.plain(request)
        if len(given.body) > 100_000 and not lied:
            lied.append(request.path)
            given.headers["Content-Length"] = str(len(given.body) + more)
            given.cut = len(given.body)
        return given

    fake.answer = answer
    assert box.store.pull(fake.ref)
    assert lied


def test_a_range_that_is_another_than_was_asked_for_is_not_put_together(box: Box, fake: Fake) -> None:
    fake.image(CONTENT)
    cut: list[str] = []

    def answer(request: Request) -> Answer:
        given = fake.plain(request)
        if given.status == 206:
            given.headers["Content-Range"] = "bytes 5-10/11"
            given.body = b"wrong!"
        elif len(given.body) > 100_000 and not cut:
            cut.append(request.path)
            given.cut = 1_000_000
        return given

    fake.answer = answer
    assert box.store.pull(fake.ref)
    ranges = [item.headers.get("Range") for item in fake.requests if "/blobs/" in item.path]
    assert ranges[-1] is None and len([item for item in ranges if item]) == 1


def test_a_registry_that_never_gets_further_is_given_up(box: Box, fake: Fake) -> None:
    fake.image(CONTENT)

    def answer(request: Request) -> Answer:
        given = fake.plain(request)
        if given.status == 206:
            given.headers["Content-Range"] = "bytes 5-10/11"
        elif len(given.body) > 100_000:
            given.cut = 1_000_000
        return given

    fake.answer = answer
    assert fault_of(box, fake.ref).code == "registry-unreachable"
    assert len(fake.requests) < 12


# ---------------------------------------------------------------- lies


def test_a_blob_without_an_end_is_cut_off(box: Box, fake: Fake) -> None:
    fake.image(layer(file("x", "small")))

    def answer(request: Request) -> Answer:
        return Answer(endless=True) if "/blobs/" in request.path else fake.plain(request)

    fake.answer = answer
    fault = fault_of(box, fake.ref)
    assert fault.code == "digest-mismatch"
    assert fake.closed.wait(10)
    assert fake.sent < 64_000_000


@pytest.mark.parametrize("what", ["manifests", "token"])
def test_a_compressed_answer_is_never_inflated(box: Box, fake: Fake, what: str) -> None:
    bomb = gzip.compress(b" " * 100_000_000)
    fake.image(CONTENT)

    def answer(request: Request) -> Answer:
        if what in request.path:
            return Answer(bomb, headers={"Content-Encoding": "gzip", "Content-Type": MANIFEST})
        if what == "token":
            realm = f'Bearer realm="http://{fake.address}/token"'
            return Answer(b"{}", 401, {"WWW-Authenticate": realm})
        return fake.plain(request)

    fake.answer = answer
    tracemalloc.start()
    try:
        text = str(fault_of(box, fake.ref))
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()
    assert "Content-Encoding gzip, which was not asked for" in text or "is not JSON" in text


def test_what_a_registry_says_of_an_error_is_repeated_without_its_control_characters(
    box: Box, fake: Fake
) -> None:
    errors = {"errors": [{"code": "DENIED", "message": "pay\x1b]0;x\x07 first\r\n" + "y" * 5000}]}
    fake.answer = lambda request: Answer(json.dumps(errors).encode(), 403)
    text = str(fault_of(box, fake.ref))
    assert "(403: pay]0;x first yyy" in text
    assert len(text) < 600 and text.isprintable()


def test_a_manifest_without_an_end_is_cut_off(box: Box, fake: Fake) -> None:
    fake.answer = lambda request: Answer(endless=True, headers={"Content-Type": MANIFEST})
    fault = fault_of(box, fake.ref)
    assert fault.code == "manifest-invalid"
    assert "more than 4194304 bytes" in str(fault)
    assert fake.closed.wait(10)
    assert fake.sent < 64_000_000


def test_a_manifest_that_is_not_what_its_digest_says_is_refused(box: Box, fake: Fake) -> None:
    fake.image(CONTENT)
    fake.files["manifests/sha256:" + "1" * 64] = fake.files["manifests/1"]
    fault = fault_of(box, ImageRef.parse(f"{fake.address}/app@sha256:" + "1" * 64))
    assert fault.code == "digest-mismatch"


def test_a_digest_wins_over_a_tag_and_is_verified_whatever_its_algorithm(box: Box, fake: Fake) -> None:
    pinned = fake.image(layer(file("pinned")))
    data = fake.files["manifests/1"]
    fake.image(layer(file("newer")))
    found = box.store.pull(ImageRef.parse(f"{fake.address}/app:1@{pinned}"))
    assert (box.store.ensure_layers(found)[0] / "pinned").exists()
    right, wrong = f"sha512:{hashlib.sha512(data).hexdigest()}", "sha512:" + "1" * 128
    fake.files[f"manifests/{right}"] = fake.files[f"manifests/{wrong}"] = data
    assert box.store.pull(ImageRef.parse(f"{fake.address}/app@{right}")) == found
    with pytest.raises(Fault) as caught:
        box.store.pull(ImageRef.parse(f"{fake.address}/app@{wrong}"))
    assert caught.value.code == "digest-mismatch"


def test_an_image_with_a_dangerous_layer_leaves_nothing_and_is_downloaded_once(box: Box, fake: Fake) -> None:
    fake.image(CONTENT, layer(file("../evil", "x")))
    for _ in range(3):
        fault = fault_of(box, fake.ref)
        assert fault.code == "layer-invalid" and "entry '../evil'" in str(fault)
        assert box.leftovers() == []
    big = max(fake.files, key=lambda name: len(fake.files[name]))
    assert len([request for request in fake.requests if request.path.endswith(big)]) == 1
    fake.image(CONTENT, layer(file("good", "x")))
    assert box.store.pull(fake.ref)


def test_a_layer_that_only_its_author_distributes_is_named(box: Box, fake: Fake) -> None:
    fake.image(CONTENT)
    manifest = json.loads(fake.files["manifests/1"])
    manifest["layers"][0] |= {
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "urls": ["https://author.invalid/layer"],
    }
    fake.files["manifests/1"] = json.dumps(manifest).encode()
    del fake.files[f"blobs/{manifest['layers'][0]['digest']}"]
    fault = fault_of(box, fake.ref)
    assert fault.code == "image-not-found"
    assert "only at https://author.invalid/layer: such are not supported" in str(fault)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda data: data[:-1] + bytes([data[-1] ^ 1]), id="changed"),
        pytest.param(lambda data: data + b"more", id="longer"),
        pytest.param(lambda data: data[:-100], id="shorter"),
    ],
)
def test_a_blob_that_is_not_what_its_digest_says_is_refused(
    box: Box, fake: Fake, change: Callable[[bytes], bytes]
) -> None:
    fake.image(layer(file("x", "small")))
    for name, data in fake.files.items():
        if data.startswith(b"\x1f\x8b"):
            fake.files[name] = change(data)
    assert fault_of(box, fake.ref).code == "digest-mismatch"
    assert box.leftovers() == []


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (b"not json", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"schemaVersion": 1, "fsLayers": []}', "obsolete schema 1"),
        (b'{"schemaVersion": 2}', "descriptor is not a JSON object"),
        (b'{"schemaVersion": 2, "manifests": [], "layers": []}', "both an index and a manifest"),
    ],
)
def test_a_malformed_manifest_is_said_to_be_so(box: Box, fake: Fake, document: bytes, text: str) -> None:
    fake.files["manifests/1"] = document
    fault = fault_of(box, fake.ref)
    assert fault.code == "manifest-invalid"
    assert text in str(fault)
