"""Mirrors, proxies, TLS: which host a pull talks to, and who gets credentials."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.images import auth
from runtime.images.store import RegistrySettings
from specs.values import ImageRef
from tests.kernel.fake_registry import CONTENT, Answer, Fake, Request, fault_of
from tests.kernel.images_box import Box

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


# ---------------------------------------------------------------- mirrors and TLS


def mirrored(tmp_path: Path, fake: Fake, *mirrors: str, **more: Any) -> Box:
    return Box(tmp_path / "mirrored", {fake.address: RegistrySettings(mirrors=mirrors, **more)})


def test_a_mirror_is_asked_first_and_gets_no_credentials(tmp_path: Path, fake: Fake, other: Fake) -> None:
    other.image(CONTENT)
    (tmp_path / "password").write_text("secret")
    more = {"username": "me", "password_file": str(tmp_path / "password")}
    box = mirrored(tmp_path, fake, other.address, **more)
    assert box.store.pull(fake.ref)
    assert box.store.list()[0].names == (str(fake.ref),)
    assert fake.requests == []
    assert all("Authorization" not in request.headers for request in other.requests)
    box.close()


def test_what_a_mirror_lacks_comes_from_the_registry(tmp_path: Path, fake: Fake, other: Fake) -> None:
    fake.image(CONTENT)
    other.files = {name: data for name, data in fake.files.items() if name.startswith("manifests")}
    other.files |= {name: b"wrong" * 9 for name in fake.files if name.startswith("blobs")}
    box = mirrored(tmp_path, fake, "127.0.0.1:1", f"http://{other.address}", "http://192.0.2.1")
    assert box.store.pull(fake.ref)
    box.close()


def test_a_proxy_is_used_but_not_for_this_machine(
    tmp_path: Path, fake: Fake, other: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.image(CONTENT)
    other.files = fake.files

    def proxy(request: Request) -> Answer:
        if "/blobs/" in request.path:
            return Answer(b"", 307, {"Location": f"http://{other.address}/v2/app{request.path[-78:]}"})
        return fake.plain(request)

    fake.answer = proxy
    monkeypatch.setenv("HTTP_PROXY", f"http://{fake.address}")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "elsewhere.invalid")
    registries = {
        "127.0.0.1:1": RegistrySettings(mirrors=("http://registry.invalid",)),
        "registry.invalid": RegistrySettings(insecure=True),
    }
    box = Box(tmp_path / "box", registries)
    assert box.store.pull(ImageRef.parse("127.0.0.1:1/app:1"))
    assert {request.path.partition("/v2")[0] for request in fake.requests} == {"http://registry.invalid"}
    assert len(other.requests) == 2 and all(item.path.startswith("/v2/app/") for item in other.requests)
    box.close()


def test_images_of_docker_io_come_from_its_api_host(
    tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.answer = lambda request: Answer(b"", 403)
    monkeypatch.setenv("HTTPS_PROXY", f"http://{fake.address}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    box = Box(tmp_path / "box")
    assert fault_of(box, ImageRef.parse("nginx")).code == "registry-unreachable"
    asked = {(request.method, request.path) for request in fake.requests}
    assert asked == {("CONNECT", "registry-1.docker.io:443")}
    box.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed one for 127.0.0.1, with its key in the same file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost".split()
    command += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    command += ["-keyout", str(path), "-out", f"{path}.crt"]
    subprocess.run(command, check=True, capture_output=True)
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


@pytest.fixture
def secure(certificate: Path) -> Iterator[Fake]:
    made = Fake(certificate)
    made.image(CONTENT)
    yield made
    made.stop()


def test_tls_of_an_insecure_registry_needs_no_known_certificate(tmp_path: Path, secure: Fake) -> None:
    box = Box(tmp_path / "box", {secure.address: RegistrySettings(insecure=True)})
    assert box.store.pull(secure.ref)
    box.close()


def test_tls_with_a_given_authority_is_checked(tmp_path: Path, secure: Fake, certificate: Path) -> None:
    settings = RegistrySettings(ca_file=f"{certificate}.crt")
    box = Box(tmp_path / "box", {secure.address: settings})
    assert box.store.pull(secure.ref)
    box.close()
    wrong = Box(
        tmp_path / "wrong", {secure.address: RegistrySettings(ca_file="/etc/ssl/certs/ca-certificates.crt")}
    )
    fault = fault_of(wrong, secure.ref)
    assert fault.code == "registry-unreachable"
    assert "certificate" in str(fault)
    wrong.close()


def test_a_registry_that_was_down_is_met_as_it_is_when_it_comes_up(
    tmp_path: Path, fake: Fake, certificate: Path
) -> None:
    fake.image(CONTENT)
    box = Box(tmp_path / "box")
    fake.stop()
    assert fault_of(box, fake.ref).code == "registry-unreachable"
    port = int(fake.address.rpartition(":")[2])
    secure = Fake(certificate, port)
    secure.files = fake.files
    try:
        assert box.store.pull(fake.ref)
    finally:
        secure.stop()
        box.close()


def test_a_redirect_from_tls_to_plain_http_is_not_followed(
    tmp_path: Path, secure: Fake, fake: Fake, certificate: Path
) -> None:
    secure.answer = lambda request: Answer(b"", 307, {"Location": f"http://{fake.address}{request.path}"})
    box = Box(tmp_path / "box", {secure.address: RegistrySettings(ca_file=f"{certificate}.crt")})
    assert "redirects to http, which is not safe" in str(fault_of(box, secure.ref))
    assert fake.requests == []
    box.close()


def test_a_token_server_without_tls_gets_no_credentials_of_a_registry_with_it(
    tmp_path: Path, secure: Fake, fake: Fake, certificate: Path
) -> None:
    (tmp_path / "password").write_text("secret")
    challenge = {"WWW-Authenticate": f'Bearer realm="http://{fake.address}/token"'}
    secure.answer = lambda request: Answer(b"{}", 401, challenge)
    settings = RegistrySettings(
        ca_file=f"{certificate}.crt", username="me", password_file=str(tmp_path / "password")
    )
    box = Box(tmp_path / "box", {secure.address: settings})
    assert "which is not safe" in str(fault_of(box, secure.ref))
    assert fake.requests == []
    box.close()


def test_credentials_reach_a_mirror_only_if_they_are_its_own(tmp_path: Path, fake: Fake, other: Fake) -> None:
    other.image(CONTENT)
    plain = other.plain

    def answer(request: Request) -> Answer:
        if "Authorization" not in request.headers:
            return Answer(b"{}", 401, {"WWW-Authenticate": "Basic realm=x"})
        return plain(request)

    other.answer = answer
    settings = {}
    for name, registry in (("theirs", fake), ("mirrors", other)):
        (tmp_path / name).write_text(name)
        settings[registry.address] = RegistrySettings(
            username="me",
            password_file=str(tmp_path / name),
            mirrors=(other.address,) if registry is fake else (),
        )
    box = Box(tmp_path / "box", settings)
    assert box.store.pull(fake.ref)
    sent = {request.headers["Authorization"] for request in other.requests} - {None}
    assert sent == {auth.basic("me", "mirrors")} and fake.requests == []
    box.close()
