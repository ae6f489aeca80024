"""Manifests, platforms, image configs and WWW-Authenticate challenges."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runtime import bundle
from runtime.faults import Fault
from runtime.images import auth
from runtime.images.layers import chain_ids
from runtime.images.manifests import (
    MAX_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    Platform,
    check_platform,
    host_platform,
    match_layers,
    parse_config,
    parse_manifest,
    select,
)
from runtime.wishes import ContainerRequest
from specs.values import ImageRef

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
OCI, DOCKER = "application/vnd.oci.image.", "application/vnd.docker."


def descriptor(kind: str, digest: str = A, **more: Any) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest, "size": 10, **more}


def manifest(**more: Any) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "config": descriptor(OCI + "config.v1+json"),
        "layers": [descriptor(OCI + "layer.v1.tar+gzip", B)],
        **more,
    }


def parse(value: Any, content_type: str = "") -> Manifest | Index:
    return parse_manifest(json.dumps(value).encode(), "app", content_type)


def refusal(value: Any, content_type: str = "") -> str:
    with pytest.raises(Fault) as caught:
        parse(value, content_type)
    assert caught.value.code == "manifest-invalid"
    return str(caught.value)


def test_oci_and_docker_manifests_are_read() -> None:
    parsed = parse(manifest())
    assert isinstance(parsed, Manifest)
    assert parsed.layers == (Descriptor(OCI + "layer.v1.tar+gzip", B, 10),)
    docker = {
        "schemaVersion": 2,
        "mediaType": DOCKER + "distribution.manifest.v2+json",
        "config": descriptor(DOCKER + "container.image.v1+json"),
        "layers": [
            descriptor(DOCKER + "image.rootfs.diff.tar.gzip"),
            descriptor(DOCKER + "image.rootfs.foreign.diff.tar.gzip", urls=["https://example.com/x"]),
        ],
    }
    parsed = parse(docker)
    assert isinstance(parsed, Manifest)
    assert parsed.layers[1].urls == ("https://example.com/x",)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"schemaVersion": 1}, "obsolete schema 1"),
        ({"mediaType": DOCKER + "distribution.manifest.v1+prettyjws"}, "obsolete schema 1"),
        ({"schemaVersion": 3}, "schemaVersion is 3"),
        ({"manifests": []}, "both an index and a manifest"),
        ({"mediaType": OCI + "index.v1+json"}, "it is no index"),
        ({"config": descriptor("application/vnd.cncf.helm.config.v1+json")}, "not a container image"),
        ({"config": descriptor(OCI + "config.v1+json", size=-1)}, "no valid size"),
        ({"config": descriptor(OCI + "config.v1+json", size=True)}, "no valid size"),
        ({"config": descriptor(OCI + "config.v1+json", size=10**9)}, "config has 1000000000 bytes"),
        ({"config": descriptor(OCI + "config.v1+json", "sha256:../../etc/passwd")}, "hex digits"),
        ({"config": descriptor(OCI + "config.v1+json", "sha512:" + "a" * 128)}, "not sha256"),
        ({"layers": None}, "no list of layers"),
        ({"layers": ["x"]}, "not a JSON object"),
        ({"layers": [descriptor(OCI + "layer.v1.tar")] * 501}, "501 layers, more than 500"),
        ({"layers": [descriptor(OCI + "layer.v1.tar+gzip+encrypted")]}, "not a tar archive"),
        ({"layers": [descriptor("application/vnd.in-toto+json")]}, "not a tar archive"),
    ],
)
def test_a_wrong_manifest_says_what_is_wrong(change: dict[str, Any], text: str) -> None:
    assert text in refusal(manifest(**change))


def test_a_manifest_has_a_size_limit() -> None:
    with pytest.raises(Fault, match=f"more than {MAX_MANIFEST} bytes"):
        parse_manifest(b" " * (MAX_MANIFEST + 1), "app")


def entry(digest: str, platform: str, **more: Any) -> dict[str, Any]:
    names = dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False))
    return descriptor(OCI + "manifest.v1+json", digest, platform=names, **more)


def index(*entries: dict[str, Any]) -> Index:
    parsed = parse({"schemaVersion": 2, "manifests": list(entries)})
    assert isinstance(parsed, Index)
    return parsed


@pytest.mark.parametrize(
    ("wanted", "offered", "taken"),
    [
        ("linux/amd64", ["windows/amd64", "linux/arm64", "linux/amd64"], 2),
        ("linux/arm64", ["linux/arm/v7", "linux/arm64/v8"], 1),
        ("linux/arm64/v8", ["linux/arm64"], 0),
        ("linux/arm64/v9", ["linux/arm64"], 0),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6", "linux/arm64"], 1),
        ("linux/arm/v7", ["linux/arm/v6", "linux/arm/v7"], 1),
        ("linux/amd64", ["linux/amd64/v3", "linux/amd64"], 1),
        ("linux/amd64", ["unknown/unknown", "linux/amd64"], 1),
        ("linux/riscv64", ["linux/amd64", "linux/riscv64"], 1),
    ],
)
def test_the_variant_that_fits_best_is_taken(wanted: str, offered: list[str], taken: int) -> None:
    digests = [f"sha256:{number:064x}" for number in range(len(offered))]
    made = index(*(entry(digest, name) for digest, name in zip(digests, offered, strict=True)))
    assert select(made, Platform.parse(wanted), "app").digest == digests[taken]


@pytest.mark.parametrize(
    ("wanted", "offered"),
    [
        ("linux/amd64", "linux/arm64"),
        ("linux/arm/v6", "linux/arm/v7"),
        ("linux/amd64", "linux/amd64/v3"),
        ("linux/arm64", "linux/arm64/v9"),
    ],
)
def test_a_platform_that_is_missing_is_said(wanted: str, offered: str) -> None:
    made = index(entry(A, offered), entry(B, "unknown/unknown"))
    with pytest.raises(Fault) as caught:
        select(made, Platform.parse(wanted), "app")
    assert caught.value.code == "platform-missing"
    assert caught.value.hint == f"there is {offered}"


def test_an_attestation_is_never_taken_whatever_its_platform() -> None:
    notes = {"vnd.docker.reference.type": "attestation-manifest"}
    made = index(entry(A, "linux/amd64", annotations=notes), entry(B, "linux/amd64"))
    assert select(made, Platform.parse("linux/amd64"), "app").digest == B


@pytest.mark.parametrize(
    ("machine", "platform"),
    [
        ("x86_64", "linux/amd64"),
        ("aarch64", "linux/arm64"),
        ("armv7l", "linux/arm/v7"),
        ("armv6l", "linux/arm/v6"),
    ],
)
def test_machines_have_the_platform_names_that_registries_use(machine: str, platform: str) -> None:
    assert str(Platform.of_machine(machine)) == platform
    assert Platform.parse(platform) == Platform.of_machine(machine)


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("arm64", "linux/arm64"),
        ("LINUX/x86_64", "linux/amd64"),
        ("linux/arm/7", "linux/arm/v7"),
        ("linux/aarch64/8", "linux/arm64"),
        ("windows/amd64", "windows/amd64"),
        ("linux", str(host_platform())),
    ],
)
def test_platforms_are_written_in_many_ways(text: str, platform: str) -> None:
    assert str(Platform.parse(text)) == platform


def test_an_architecture_with_a_variant_alone_is_helped_on() -> None:
    with pytest.raises(ValueError, match="write linux/arm/v7"):
        Platform.parse("arm/v7")


@pytest.mark.parametrize("key", ["os", "architecture", "variant"])
def test_a_config_with_a_platform_that_is_none_is_refused(key: str) -> None:
    text = json.dumps({key: "a/b\n", "rootfs": {"diff_ids": []}})
    with pytest.raises(Fault, match=f"its config says {key} 'a/b"):
        parse_config(text.encode(), "app")


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ({"config": {"mediaType": "application/vnd.oci.empty.v1+json"}, "artifactType": "a/sbom"}, "a/sbom"),
        ({"config": {"mediaType": "application/vnd.cncf.helm.config.v1+json"}}, "application/vnd.cncf.helm"),
        (
            {
                "mediaType": "application/vnd.oci.artifact.manifest.v1+json",
                "artifactType": "a/b",
                "blobs": [],
            },
            "a/b",
        ),
        ({"mediaType": "application/vnd.oci.artifact.manifest.v1+json", "blobs": []}, "of no type"),
    ],
)
def test_an_artifact_is_no_image_and_its_kind_is_said(document: dict[str, Any], kind: str) -> None:
    if "config" in document:
        document["config"] |= {"digest": A, "size": 2}
    text = json.dumps({"schemaVersion": 2, "layers": [], **document})
    with pytest.raises(Fault) as caught:
        parse_manifest(text.encode(), "app")
    assert f"it is not a container image but an artifact ({kind}" in str(caught.value)


@pytest.mark.parametrize("text", ["", "linux/", "a/b/c/d", "linux/amd64 ", "linux/../x"])
def test_a_malformed_platform_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cannot read platform"):
        Platform.parse(text)


def test_a_config_must_name_as_many_layers_as_the_manifest() -> None:
    parsed = parse(manifest())
    assert isinstance(parsed, Manifest)
    config = parse_config(b'{"os":"linux","architecture":"arm64","rootfs":{"diff_ids":[]}}', "app")
    with pytest.raises(Fault, match="1 layers, but its config names 0"):
        match_layers(parsed, config, "app")
    with pytest.raises(Fault, match="it is for linux/arm64, not for linux/amd64"):
        check_platform(config, Platform.parse("linux/amd64"), "app")


@pytest.mark.parametrize("wanted", ["linux/arm/v6", "linux/arm/v7", "linux/arm64/v8"])
def test_a_config_that_names_no_variant_is_taken_for_the_one_its_index_says(wanted: str) -> None:
    architecture = wanted.split("/")[1]
    text = f'{{"os":"linux","architecture":"{architecture}","rootfs":{{"diff_ids":[]}}}}'
    check_platform(parse_config(text.encode(), "app"), Platform.parse(wanted), "app")
    newer = text.replace('"rootfs"', '"variant":"v99","rootfs"')
    with pytest.raises(Fault, match=f"it is for linux/{architecture}/v99"):
        check_platform(parse_config(newer.encode(), "app"), Platform.parse(wanted), "app")


@pytest.mark.parametrize(
    "text",
    [b"{}", b'{"rootfs":{"diff_ids":["x"]}}', b'{"rootfs":{"diff_ids":{}}}', b'{"rootfs":{},"config":3}'],
)
def test_a_malformed_config_is_refused(text: bytes) -> None:
    with pytest.raises(Fault) as caught:
        parse_config(text, "app")
    assert caught.value.code == "manifest-invalid"


def test_chain_ids_are_those_of_the_specification() -> None:
    first, second = chain_ids([A, B])
    assert first == A
    assert second == "sha256:ccd722928bd92476ba1745586fed6e45a102504185ad88cd89e01ff116fd146c"


# ---------------------------------------------------------------- challenges


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (
            'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"',
            [
                (
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:a/b:pull,push",
                    },
                )
            ],
        ),
        ('BASIC realm="x \\"y\\" z"', [("basic", {"realm": 'x "y" z'})]),
        ("Negotiate, Basic realm=plain", [("negotiate", {}), ("basic", {"realm": "plain"})]),
        (
            'Basic realm="a" , Bearer realm="b" , error="c"',
            [("basic", {"realm": "a"}), ("bearer", {"realm": "b", "error": "c"})],
        ),
        ("", []),
        ('Bearer realm="never closed', [("bearer", {})]),
        ("=;=", []),
    ],
)
def test_challenges_are_taken_apart(header: str, found: list[Any]) -> None:
    assert [(item.scheme, dict(item.parameters)) for item in auth.parse_challenges(header)] == found


def test_bearer_is_preferred_and_needs_a_realm() -> None:
    chosen = auth.choose(auth.parse_challenges('Basic realm="a", Bearer realm="b"'))
    assert chosen is not None and chosen.scheme == "bearer"
    chosen = auth.choose(auth.parse_challenges("Bearer, Basic"))
    assert chosen is not None and chosen.scheme == "basic"
    assert auth.choose(auth.parse_challenges("Negotiate")) is None


def test_a_token_is_asked_for_with_the_scope_of_a_pull() -> None:
    challenge = auth.Challenge("bearer", {"realm": "https://a/t?x=1"})
    scopes = (auth.pull_scope("lib/app"),)
    assert auth.token_url(challenge, scopes) == "https://a/t?x=1&scope=repository%3Alib%2Fapp%3Apull"
    assert auth.token_url(challenge, ()) == "https://a/t?x=1"


def test_scopes_of_one_repository_become_one() -> None:
    own = (auth.push_scope("a"), auth.pull_scope("b"))
    merged = auth.merge_scopes(own, "repository:b:push repository:a:delete registry:catalog:*")
    assert merged == ("repository:a:pull,push,delete", "repository:b:pull,push", "registry:catalog:*")


@pytest.mark.parametrize(
    ("body", "token"),
    [
        (b'{"token":"t"}', auth.Token("t", 60.0)),
        (b'{"access_token":"t","expires_in":300}', auth.Token("t", 300.0)),
        (b'{"token":"t","expires_in":1}', auth.Token("t", 60.0)),
    ],
)
def test_a_tokens_answer_has_two_spellings(body: bytes, token: auth.Token) -> None:
    assert auth.parse_token(body) == token


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"token":""}', b'{"token":"a\\r\\nX: y"}', b'{"token":3}']
)
def test_an_answer_without_a_token_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="the token server's answer"):
        auth.parse_token(body)


@pytest.mark.parametrize(
    "inner",
    [
        {"Env": "A=1"},
        {"Env": [5]},
        {"Env": ["A=\0"]},
        {"Cmd": 5},
        {"Entrypoint": {"a": "b"}},
        {"User": 0},
        {"WorkingDir": ["/"]},
        {"Volumes": ["/data"]},
        {"Volumes": {"/a\0b": {}}},
        {"ExposedPorts": "80"},
        {"Labels": {"a": 5}},
        {"Labels": "a=b"},
        {"Labels": {"\ud800": "b"}},
        {"Env": ["A=\udfff"]},
        {"Healthcheck": ["CMD", "x"]},
        {"Healthcheck": {"Test": "x"}},
        {"Healthcheck": {"Test": ["CMD", "x"], "Interval": "5s"}},
        {"Healthcheck": {"Test": ["CMD", "x"], "Retries": True}},
    ],
)
def test_what_an_image_is_run_with_has_the_types_that_docker_has(inner: dict[str, object]) -> None:
    """A stranger's config reaches everything that shows or starts containers: it is refused at the door."""
    document = {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": []}, "config": inner}
    with pytest.raises(Fault) as raised:
        parse_config(json.dumps(document).encode(), "app")
    assert raised.value.code == "manifest-invalid"


def test_old_and_empty_values_of_an_image_are_taken() -> None:
    empty = {"Entrypoint": None, "Env": None, "Labels": {"a": None}, "Healthcheck": {"Test": None}}
    inner = {"Cmd": "sh", "Unknown": 5, **empty}
    document = {"os": "linux", "rootfs": {"diff_ids": []}, "config": inner}
    assert parse_config(json.dumps(document).encode(), "app").data["config"] == inner
    assert bundle.argv(ContainerRequest("p/c", "s", "i", "a", "{}", ImageRef.parse("a")), inner) == ["sh"]
