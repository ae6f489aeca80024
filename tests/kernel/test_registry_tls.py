"""Client certificates, authorities by host, and proxies, with real TLS servers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.faults import Fault
from runtime.images.registry import Registries
from runtime.images.store import RegistrySettings
from specs.values import ImageRef
from tests.kernel.certificates import Authority
from tests.kernel.fake_proxy import Proxy
from tests.kernel.fake_registry import CONTENT, Answer, Fake, Request, fault_of
from tests.kernel.images_box import Box

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def secure(authority: Authority) -> Iterator[Fake]:
    """A registry that wants a client certificate."""
    made = Fake(authority.server("registry", "127.0.0.1", "registry.invalid"), clients=authority.file)
    made.image(CONTENT)

    def answer(request: Request) -> Answer:
        return made.plain(request) if request.shown else Answer(b"{}", 403)

    made.answer = answer
    yield made
    made.stop()


@pytest.fixture
def other(authority: Authority) -> Iterator[Fake]:
    made = Fake(authority.server("other", "127.0.0.1"), clients=authority.file)
    yield made
    made.stop()


def pull_from(tmp_path: Path, fake: Fake, **settings: object) -> None:
    box = Box(tmp_path / "box", {fake.address: RegistrySettings(**settings)})  # type: ignore[arg-type]
    try:
        assert box.store.pull(fake.ref)
    finally:
        box.close()


def test_a_client_certificate_is_shown_to_its_registry(
    tmp_path: Path, secure: Fake, authority: Authority
) -> None:
    certificate, key = authority.sign("me")
    pull_from(tmp_path, secure, ca_file=str(authority.file), cert_file=str(certificate), key_file=str(key))
    assert {request.shown["subject"] for request in secure.requests} == {((("commonName", "me"),),)}


def test_a_certificate_may_have_its_key_in_the_same_file(
    tmp_path: Path, secure: Fake, authority: Authority
) -> None:
    both = authority.server("both")
    pull_from(tmp_path, secure, ca_file=str(authority.file), cert_file=str(both))


def test_an_insecure_registry_may_want_a_client_certificate(
    tmp_path: Path, secure: Fake, authority: Authority
) -> None:
    certificate, key = authority.sign("me")
    pull_from(tmp_path, secure, insecure=True, cert_file=str(certificate), key_file=str(key))


def test_without_its_certificate_a_client_is_denied(
    tmp_path: Path, secure: Fake, authority: Authority
) -> None:
    box = Box(tmp_path / "box", {secure.address: RegistrySettings(ca_file=str(authority.file))})
    assert fault_of(box, secure.ref).code == "registry-denied"
    box.close()


def test_a_client_certificate_is_not_shown_where_the_registry_redirects_to(
    tmp_path: Path, secure: Fake, other: Fake, authority: Authority
) -> None:
    other.files = secure.files
    plain = secure.answer

    def answer(request: Request) -> Answer:
        if "/blobs/" in request.path:
            return Answer(b"", 307, {"Location": f"https://{other.address}{request.path}"})
        return plain(request)

    secure.answer = answer
    certificate, key = authority.sign("me")
    pull_from(tmp_path, secure, ca_file=str(authority.file), cert_file=str(certificate), key_file=str(key))
    assert other.requests and not any(request.shown for request in other.requests)


def encrypt(key: Path) -> None:
    plain = key.rename(key.with_suffix(".plain"))
    command = ["openssl", "pkey", "-in", str(plain), "-aes256", "-passout", "pass:x", "-out", str(key)]
    subprocess.run(command, check=True, capture_output=True)


def other_key(key: Path) -> None:
    command = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    subprocess.run([*command, "-out", str(key)], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda certificate, key: key.unlink(), "no such file"),
        (lambda certificate, key: certificate.write_text("x"), "not in the pem format"),
        (lambda certificate, key: encrypt(key), "it is encrypted"),
        (lambda certificate, key: other_key(key), "key values mismatch"),
    ],
    ids=["missing", "garbage", "encrypted", "of-another"],
)
def test_a_certificate_that_cannot_be_used_is_said_so(
    tmp_path: Path, secure: Fake, authority: Authority, change: Callable[[Path, Path], object], cause: str
) -> None:
    certificate, key = authority.sign("broken")
    change(certificate, key)
    settings = RegistrySettings(ca_file=str(authority.file), cert_file=str(certificate), key_file=str(key))
    box = Box(tmp_path / "box", {secure.address: settings})
    fault = fault_of(box, secure.ref)
    assert fault.code == "registry-denied"
    assert cause in str(fault) and str(key) in str(fault)
    box.close()


# ---------------------------------------------------------------- certs.d


def certs_of(tmp_path: Path, fake: Fake, authority: Authority) -> Path:
    place = tmp_path / "certs.d" / fake.address
    place.mkdir(parents=True)
    certificate, key = authority.sign("daemon")
    shutil.copy(authority.file, place / "ca.crt")
    shutil.copy(certificate, place / "client.cert")
    shutil.copy(key, place / "client.key")
    return place


def manifest_of(fake: Fake, directory: Path) -> bytes:
    registries = Registries({}, certs=directory)
    try:
        return registries.remote(fake.ref).manifest().data
    finally:
        registries.close()


def test_certificates_are_found_where_docker_has_them(
    tmp_path: Path, secure: Fake, authority: Authority
) -> None:
    place = certs_of(tmp_path, secure, authority)
    assert json.loads(manifest_of(secure, tmp_path / "certs.d"))
    (place / "client.key").unlink()
    with pytest.raises(Fault, match=r"client.cert has no client.key beside it"):
        manifest_of(secure, tmp_path / "certs.d")


def test_certificates_of_another_registry_are_not_used(
    tmp_path: Path, secure: Fake, other: Fake, authority: Authority
) -> None:
    certs_of(tmp_path, other, authority)
    with pytest.raises(Fault, match="wants credentials"):
        manifest_of(secure, tmp_path / "certs.d")


def test_a_token_server_may_have_a_certificate_of_the_registrys_authority(
    tmp_path: Path, secure: Fake, other: Fake, authority: Authority
) -> None:
    other.answer = lambda request: Answer(b'{"token": "good"}')

    def answer(request: Request) -> Answer:
        if request.headers.get("Authorization") == "Bearer good":
            return secure.plain(request)
        realm = f'Bearer realm="https://{other.address}/token"'
        return Answer(b"{}", 401, {"WWW-Authenticate": realm})

    secure.answer = answer
    pull_from(tmp_path, secure, ca_file=str(authority.file))
    assert (len(other.requests) == 1 and other.requests[0].shown is None) or not other.requests[0].shown


# ---------------------------------------------------------------- proxies


@pytest.fixture
def proxy(secure: Fake) -> Iterator[Proxy]:
    made = Proxy({"registry.invalid:443": secure.address})
    yield made
    made.stop()


def registries_behind(tmp_path: Path, authority: Authority, **environment: str) -> Registries:
    certificate, key = authority.sign("me")
    settings = RegistrySettings(ca_file=str(authority.file), cert_file=str(certificate), key_file=str(key))
    return Registries({"registry.invalid": settings}, environment=environment)


REF = ImageRef.parse("registry.invalid/app:1")


def test_a_registry_is_reached_through_the_proxy_of_https(
    tmp_path: Path, secure: Fake, proxy: Proxy, authority: Authority
) -> None:
    url = f"http://user:p%40ss@{proxy.address}"
    registries = registries_behind(tmp_path, authority, HTTPS_PROXY=url, HTTP_PROXY="http://127.0.0.1:1")
    assert registries.remote(REF).manifest().data == secure.files["manifests/1"]
    registries.close()
    asked, headers = proxy.asked[0]
    assert asked == "CONNECT registry.invalid:443"
    assert headers["proxy-authorization"] == "Basic dXNlcjpwQHNz"
    assert all("Proxy-Authorization" not in request.headers for request in secure.requests)


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_a_registry_that_no_proxy_names_is_asked_directly(
    tmp_path: Path, proxy: Proxy, authority: Authority, name: str
) -> None:
    environment = {"HTTPS_PROXY": f"http://{proxy.address}", name: "other.example, .invalid:443"}
    registries = registries_behind(tmp_path, authority, **environment)
    with pytest.raises(Fault) as caught:
        registries.remote(REF).manifest()
    registries.close()
    assert caught.value.code == "registry-unreachable"
    assert proxy.asked == []


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("http://user:secret@127.0.0.1:1", "connection refused"),
        ("socks5://user:secret@127.0.0.1:1", "a proxy of kind 'socks5'"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_said_so_without_its_password(
    tmp_path: Path, authority: Authority, url: str, cause: str
) -> None:
    registries = registries_behind(tmp_path, authority, HTTPS_PROXY=url)
    with pytest.raises(Fault) as caught:
        registries.remote(REF).manifest()
    registries.close()
    assert caught.value.code == "registry-unreachable"
    assert cause in str(caught.value) and "secret" not in str(caught.value)
