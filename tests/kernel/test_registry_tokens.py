"""How a pull shows who it is: challenges, tokens and their renewal."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.images.store import RegistrySettings
from tests.kernel.fake_registry import CONTENT, Answer, Fake, Request, fault_of
from tests.kernel.images_box import Box, digest, file, layer

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


def guarded(fake: Fake, tokens: list[str], realm: str) -> Callable[[Request], Answer]:
    """Only the newest token is good."""

    def answer(request: Request) -> Answer:
        if request.path.startswith("/token"):
            tokens.append(f"token{len(tokens)}")
            return Answer(json.dumps({"access_token": tokens[-1], "expires_in": 60}).encode())
        if tokens and request.headers.get("Authorization") == f"Bearer {tokens[-1]}":
            return fake.plain(request)
        challenge = f'Bearer realm="{realm}",service="reg",scope="repository:app:pull,push"'
        return Answer(b"{}", 401, {"WWW-Authenticate": challenge})

    return answer


def test_an_anonymous_token_is_fetched_and_renewed_in_the_middle_of_a_pull(box: Box, fake: Fake) -> None:
    fake.image(CONTENT)
    tokens: list[str] = []
    inner = guarded(fake, tokens, f"http://{fake.address}/token")

    def answer(request: Request) -> Answer:
        if "/blobs/" in request.path and len(tokens) == 1:
            tokens.append("expired-the-first")
        return inner(request)

    fake.answer = answer
    assert box.store.pull(fake.ref)
    asked = [item for item in fake.requests if item.path.startswith("/token")]
    assert len(asked) == 2
    assert asked[0].path == "/token?service=reg&scope=repository%3Aapp%3Apull%2Cpush"
    assert "Authorization" not in asked[0].headers


def test_a_refused_token_is_a_question_of_credentials(box: Box, fake: Fake) -> None:
    challenge = {"WWW-Authenticate": 'Bearer realm="http://127.0.0.1:1/token"'}
    fake.answer = lambda request: Answer(b"{}", 403, challenge)
    assert fault_of(box, fake.ref).code == "registry-denied"


def test_credentials_stay_with_their_registry_when_it_redirects(
    tmp_path: Path, fake: Fake, other: Fake
) -> None:
    fake.image(CONTENT)
    other.files = fake.files
    (tmp_path / "password").write_text("secret")

    def answer(request: Request) -> Answer:
        if "Authorization" not in request.headers:
            return Answer(b"{}", 401, {"WWW-Authenticate": "Basic realm=x"})
        if "/blobs/" in request.path:
            return Answer(b"", 307, {"Location": f"http://{other.address}{request.path}"})
        return fake.plain(request)

    fake.answer = answer
    settings = RegistrySettings(username="me", password_file=str(tmp_path / "password"))
    box = Box(tmp_path / "box", {fake.address: settings})
    assert box.store.pull(fake.ref)
    assert other.requests
    assert all("Authorization" not in request.headers for request in other.requests)
    box.close()


def test_a_host_that_a_registry_redirects_to_cannot_ask_for_its_credentials(
    tmp_path: Path, fake: Fake, other: Fake
) -> None:
    (tmp_path / "password").write_text("secret")
    fake.answer = lambda request: Answer(b"", 307, {"Location": f"http://{other.address}{request.path}"})
    challenge = {"WWW-Authenticate": f'Bearer realm="http://{other.address}/token"'}
    other.answer = lambda request: Answer(b"{}", 401, challenge)
    settings = RegistrySettings(username="me", password_file=str(tmp_path / "password"))
    box = Box(tmp_path / "box", {fake.address: settings})
    fault = fault_of(box, fake.ref)
    assert fault.code == "registry-denied"
    assert f"redirects to {other.address}, which wants credentials of its own" in str(fault)
    assert all("Authorization" not in request.headers for request in other.requests)
    assert not [request for request in other.requests if "token" in request.path]
    box.close()


def test_redirects_without_an_end_are_given_up(box: Box, fake: Fake) -> None:
    fake.answer = lambda request: Answer(b"", 302, {"Location": request.path})
    fault = fault_of(box, fake.ref)
    assert fault.code == "registry-unreachable"
    assert len(fake.requests) < 10


@pytest.mark.parametrize(
    "location", ["http://[bad", "http://host:99999/", "https://", "ftp://a/b", "http://:80/"]
)
def test_a_redirect_to_what_is_no_place_is_not_followed(box: Box, fake: Fake, location: str) -> None:
    fake.answer = lambda request: Answer(b"", 307, {"Location": location})
    fault = fault_of(box, fake.ref)
    assert fault.code == "registry-unreachable"
    assert len(fake.requests) == 1


@pytest.mark.parametrize("realm", ["http://[bad", "token", "//", "file:///etc/passwd", "http://h:x/"])
def test_a_token_server_that_is_no_place_is_not_asked(box: Box, fake: Fake, realm: str) -> None:
    fake.answer = lambda request: Answer(b"{}", 401, {"WWW-Authenticate": f'Bearer realm="{realm}"'})
    assert fault_of(box, fake.ref).code == "registry-unreachable"
    assert len(fake.requests) == 1


def test_a_tag_that_did_not_move_costs_one_head_and_one_that_did_no_known_layer(box: Box, fake: Fake) -> None:
    tokens: list[str] = []
    inner = guarded(fake, tokens, f"http://{fake.address}/token")

    def answer(request: Request) -> Answer:
        given = inner(request)
        if "/manifests/" in request.path and given.status == 200:
            given.headers["Docker-Content-Digest"] = digest(given.body)
        return given

    fake.image(CONTENT)
    fake.answer = answer
    image = box.store.pull(fake.ref)
    fake.requests.clear()
    assert box.store.pull(fake.ref) == image
    assert [(item.method, item.path) for item in fake.requests] == [("HEAD", "/v2/app/manifests/1")]
    fake.requests.clear()
    fake.image(CONTENT, layer(file("more", "x")))
    assert box.store.pull(fake.ref) != image
    asked = [(item.method, item.path.partition("/v2/app/")[2].partition("/")[0]) for item in fake.requests]
    assert asked[:2] == [("HEAD", "manifests"), ("GET", "manifests")]
    assert asked[2:] == [("GET", "blobs")] * 2, "the config and the layer that is new"
