"""Registries that are slow, wrong or hostile while something is pushed to them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from runtime.faults import Fault
from runtime.images.push import PushProgress
from runtime.images.store import RegistrySettings
from runtime.images.upload import with_tls_of
from specs.values import ImageRef
from tests.kernel.fake_intake import Intake
from tests.kernel.fake_registry import Answer, Fake, Request
from tests.kernel.images_box import BASE, Box, Layout, digest, file, layer

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

BIG = layer(file("big", os.urandom(9_000_000)))


def imported(box: Box, name: ImageRef, *layers: bytes) -> None:
    layout = Layout(box.root / "layout")
    layout.image(layers)
    box.store.import_path(layout.path, name)


def fault_of(box: Box, name: ImageRef) -> Fault:
    with pytest.raises(Fault) as caught:
        box.store.push(name)
    assert str(caught.value).startswith("cannot push image ")
    return caught.value


def whole(box: Box, intake: Intake, tag: str = "1") -> bool:
    """Whether everything that the manifest of `tag` speaks of arrived."""
    manifest = json.loads(intake.manifests[tag])
    wanted = [manifest["config"], *manifest["layers"]]
    return all(digest(intake.blobs[item["digest"]]) == item["digest"] for item in wanted)


@pytest.mark.parametrize(
    "location",
    [
        "/v2/{name}/blobs/uploads/{id}?state=a%2Fb",
        "http://{host}/v2/{name}/blobs/uploads/{id}",
        "{id}?x=1&y=2",
    ],
    ids=["absolute-path-with-query", "whole-url", "relative"],
)
def test_an_upload_goes_to_whatever_place_the_registry_names(box: Box, fake: Fake, location: str) -> None:
    intake = Intake(fake, location)
    imported(box, fake.ref, BASE, BIG)
    box.store.push(fake.ref)
    assert whole(box, intake)
    if "?" in location:
        puts = [item.path for item in fake.requests if item.method == "PUT" and "/uploads/" in item.path]
        assert puts and all("&digest=sha256%3A" in path for path in puts)


@pytest.mark.parametrize(
    ("target", "asked"),
    [
        ("http://a.example/v2/x?y=1", "https://a.example:8443/v2/x?y=1"),
        ("http://a.example:80/v2/x", "https://a.example:8443/v2/x"),
        ("http://b.example/v2/x", "http://b.example/v2/x"),
        ("https://a.example/v2/x", "https://a.example/v2/x"),
    ],
)
def test_a_host_that_forgets_its_own_tls_is_asked_as_before(target: str, asked: str) -> None:
    assert with_tls_of("https://a.example:8443", target) == asked


def test_a_push_without_credentials_says_what_is_wanted(box: Box, fake: Fake) -> None:
    fake.answer = lambda request: Answer(b"{}", 401, {"WWW-Authenticate": "Basic realm=x"})
    imported(box, fake.ref, BASE)
    fault = fault_of(box, fake.ref)
    assert fault.code == "registry-denied"
    assert f"{fake.address} wants credentials for app (401)" in str(fault)
    assert fault.hint.startswith(f"stead login {fake.address}")


def test_a_broken_upload_goes_on_where_it_broke(box: Box, fake: Fake) -> None:
    intake = Intake(fake)
    imported(box, fake.ref, BIG)
    broken: list[int] = []

    def takes(request: Request) -> int | None:
        if request.method == "PATCH" and len(broken) < 2:
            broken.append(3_000_000)
            return 3_000_000
        return None

    fake.takes = takes
    box.store.push(fake.ref)
    assert whole(box, intake)
    starts = [
        item.headers["Content-Range"].partition("-")[0] for item in fake.requests if item.method == "PATCH"
    ]
    assert starts == ["0", "3000000", "6000000"]


def test_an_upload_may_break_often_as_long_as_it_gets_on(box: Box, fake: Fake) -> None:
    intake = Intake(fake)
    imported(box, fake.ref, BIG)

    def takes(request: Request) -> int | None:
        size = int(request.headers["Content-Length"] or 0)
        return 1_000_000 if request.method == "PATCH" and size > 1_500_000 else None

    fake.takes = takes
    box.store.push(fake.ref)
    assert whole(box, intake)
    assert len([item for item in fake.requests if item.method == "PATCH"]) > 5


def test_an_upload_that_the_registry_forgot_starts_again(box: Box, fake: Fake) -> None:
    intake = Intake(fake)
    imported(box, fake.ref, BIG)

    def takes(request: Request) -> int | None:
        if request.method == "PATCH" and "/1?" in request.path:
            return 3_000_000
        return None

    def answer(request: Request) -> Answer:
        if request.method == "GET":
            intake.uploads.clear()
        return intake.answer(request)

    fake.takes, fake.answer = takes, answer
    box.store.push(fake.ref)
    assert whole(box, intake)


def test_an_end_of_an_upload_that_was_done_but_not_answered_is_found_out(box: Box, fake: Fake) -> None:
    intake = Intake(fake)
    imported(box, fake.ref, BASE)
    broken: list[str] = []

    def takes(request: Request) -> int | None:
        if request.method == "PUT" and "/uploads/" in request.path and request.path not in broken:
            broken.append(request.path)
            return int(request.headers["Content-Length"])
        return None

    fake.takes = takes
    box.store.push(fake.ref)
    assert whole(box, intake)


def test_a_registry_that_fails_now_and_then_gets_everything(box: Box, fake: Fake) -> None:
    intake = Intake(fake)
    imported(box, fake.ref, BASE, BIG)
    seen: set[tuple[str, str]] = set()

    def answer(request: Request) -> Answer:
        kind = (request.method, request.path.rpartition("?")[0])
        if kind not in seen:
            seen.add(kind)
            return Answer(b"", 503)
        return intake.answer(request)

    fake.answer = answer
    box.store.push(fake.ref)
    assert whole(box, intake)


@pytest.mark.parametrize("said", ["0-99999999999999", "0-" + "9" * 5000, "garbage", "5-3", ""])
def test_a_registry_that_lies_about_how_far_an_upload_is_gets_it_anyway(
    box: Box, fake: Fake, said: str
) -> None:
    intake = Intake(fake)
    imported(box, fake.ref, BIG)
    lied: list[str] = []

    def answer(request: Request) -> Answer:
        given = intake.answer(request)
        if request.method == "PATCH" and not lied:
            lied.append(said)
            given.headers["Range"] = said
        return given

    fake.answer = answer
    box.store.push(fake.ref)
    assert whole(box, intake) and lied


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_an_answer_without_an_end_to_an_upload_is_cut_off(box: Box, fake: Fake, method: str) -> None:
    intake = Intake(fake)
    imported(box, fake.ref, BIG)

    def answer(request: Request) -> Answer:
        given = intake.answer(request)
        given.endless = request.method == method
        return given

    fake.answer = answer
    box.store.push(fake.ref)
    assert whole(box, intake)
    assert fake.closed.wait(10)
    assert fake.sent < 64_000_000


@pytest.mark.parametrize("location", ["http://[bad", "http://h:99999/x", "ftp://a/b"])
def test_an_upload_to_what_is_no_place_is_given_up(box: Box, fake: Fake, location: str) -> None:
    Intake(fake, location)
    imported(box, fake.ref, BASE)
    assert fault_of(box, fake.ref).code == "registry-unreachable"


def test_a_registry_that_never_takes_anything_is_given_up(box: Box, fake: Fake) -> None:
    intake = Intake(fake)
    imported(box, fake.ref, BIG)
    fake.takes = lambda request: 0 if request.method == "PATCH" else None
    fault = fault_of(box, fake.ref)
    assert fault.code == "registry-unreachable"
    assert intake.manifests == {}


def test_a_refusal_is_told_in_the_registrys_own_words(box: Box, fake: Fake) -> None:
    intake = Intake(fake)
    imported(box, fake.ref, BASE)
    body = json.dumps(
        {"errors": [{"code": "DENIED", "message": "quota of\x1b[2J 1 GB\nis used up"}]}
    ).encode()

    def answer(request: Request) -> Answer:
        return Answer(body, 413) if request.method == "POST" else intake.answer(request)

    fake.answer = answer
    fault = fault_of(box, fake.ref)
    assert fault.code == "registry-refused"
    assert str(fault).endswith(f"{fake.address} answered 413: quota of[2J 1 GB is used up")
    assert len([item for item in fake.requests if item.method == "POST"]) <= 2, "it is not asked again"


def test_a_name_is_given_only_when_every_blob_is_there(box: Box, fake: Fake) -> None:
    intake = Intake(fake)
    imported(box, fake.ref, BASE, BIG)
    box.store.push(fake.ref)
    methods = [(item.method, "manifests" in item.path) for item in fake.requests]
    assert methods.count(("PUT", True)) == 1 and methods[-1] == ("PUT", True)
    assert whole(box, intake)


def test_credentials_do_not_follow_an_upload_to_another_host(tmp_path: Path, fake: Fake, other: Fake) -> None:
    intake, away = Intake(fake), Intake(other)
    (tmp_path / "password").write_text("secret")

    def answer(request: Request) -> Answer:
        if request.headers.get("Authorization") is None:
            return Answer(b"{}", 401, {"WWW-Authenticate": "Basic realm=x"})
        if request.method == "POST":
            away.uploads["1"] = bytearray()
            return Answer(b"", 202, {"Location": f"http://{other.address}/v2/app/blobs/uploads/1"})
        if "/blobs/" in request.path:
            found = request.path.rpartition("/")[2] in away.blobs
            return Answer(b"", 200 if found else 404)
        return intake.answer(request)

    fake.answer = answer
    settings = RegistrySettings(username="me", password_file=str(tmp_path / "password"))
    box = Box(tmp_path / "box", {fake.address: settings})
    imported(box, fake.ref)
    box.store.push(fake.ref)
    assert intake.manifests and away.blobs
    assert other.requests and all("Authorization" not in item.headers for item in other.requests)
    box.close()


def test_a_mount_that_is_denied_becomes_an_upload(box: Box, fake: Fake) -> None:
    intake = Intake(fake)
    imported(box, fake.ref, BASE)
    box.store.push(fake.ref)
    image = box.store.get(str(fake.ref))
    assert image is not None
    target = ImageRef.parse(f"{fake.address}/second:1")
    box.store.tag(image.id, target)
    intake.blobs.clear()

    def answer(request: Request) -> Answer:
        return Answer(b"{}", 403) if "mount=" in request.path else intake.answer(request)

    fake.answer = answer
    states: list[PushProgress] = []
    box.store.push(target, listener=states.append)
    assert [item for item in fake.requests if "from=app" in item.path]
    assert whole(box, intake)
    assert {item.state for item in states} == {"waiting", "pushing", "pushed"}


def test_a_registry_that_mounts_nothing_is_left_without_half_made_uploads(box: Box, fake: Fake) -> None:
    intake = Intake(fake)
    imported(box, fake.ref, BASE)
    box.store.push(fake.ref)
    image = box.store.get(str(fake.ref))
    assert image is not None
    for name in ("second", "third"):
        target = ImageRef.parse(f"{fake.address}/{name}:1")
        box.store.tag(image.id, target)
        intake.blobs.clear()
        fake.requests.clear()
        box.store.push(target)
        assert whole(box, intake) and intake.uploads == {}
    tried = [item.path for item in fake.requests if "mount=" in item.path]
    assert [path.rpartition("from=")[2] for path in tried] == ["app", "second"]


def test_a_token_for_a_mount_allows_both_repositories(box: Box, fake: Fake) -> None:
    intake = Intake(fake)
    imported(box, fake.ref, BASE)
    box.store.push(fake.ref)
    image = box.store.get(str(fake.ref))
    assert image is not None
    target = ImageRef.parse(f"{fake.address}/second:1")
    box.store.tag(image.id, target)
    intake.blobs.clear()
    fake.requests.clear()

    def answer(request: Request) -> Answer:
        if request.path.startswith("/token"):
            return Answer(json.dumps({"token": f"for{len(fake.requests)}"}).encode())
        if "Authorization" not in request.headers:
            challenge = f'Bearer realm="http://{fake.address}/token",service="reg"'
            return Answer(b"{}", 401, {"WWW-Authenticate": challenge})
        if "mount=" in request.path:
            return Answer(b"", 201)
        return intake.answer(request)

    fake.answer = answer
    box.store.push(target)
    tokens = [item.path for item in fake.requests if item.path.startswith("/token")]
    assert tokens == [
        "/token?service=reg&scope=repository%3Asecond%3Apull%2Cpush",
        "/token?service=reg&scope=repository%3Asecond%3Apull%2Cpush&scope=repository%3Aapp%3Apull",
    ], "one of each, though several blobs were asked for at once"


def test_another_digest_than_that_of_the_manifest_is_noticed(box: Box, fake: Fake) -> None:
    intake = Intake(fake)
    imported(box, fake.ref, BASE)

    def answer(request: Request) -> Answer:
        if request.method == "PUT" and "/manifests/" in request.path:
            return Answer(b"", 201, {"Docker-Content-Digest": "sha256:" + "1" * 64})
        return intake.answer(request)

    fake.answer = answer
    assert fault_of(box, fake.ref).code == "digest-mismatch"
