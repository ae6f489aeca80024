"""[image.NAME] with `build`: what is built, from where, and what it is called."""

from __future__ import annotations

from typing import Any

import pytest

from specs.desired import BuildSecret, DesiredBuild
from specs.resolve import resolve
from specs.values import ImageRef
from tests.spec_text import read


def built(text: str, file: str = "a.toml", **variables: str) -> dict[str, Any]:
    desired, found = resolve(
        {file: text.encode()}, source="s", variables=variables, source_root="/src/now", tree="/src/tree"
    )
    assert desired is not None, found
    return dict(desired.images)


def one(text: str, file: str = "a.toml", **variables: str) -> DesiredBuild:
    (image,) = built(text, file, **variables).values()
    assert isinstance(image.build, DesiredBuild)
    return image.build


def test_text_is_the_context_and_the_name_is_local() -> None:
    images = built('project = "shop"\n[image.web]\nbuild = "web"\n')
    assert list(images) == ["localhost/shop/web:latest"]
    assert images["localhost/shop/web:latest"].build == DesiredBuild(
        context="/src/tree/web", name="web/Dockerfile"
    )


def test_from_beside_build_is_what_the_image_is_called() -> None:
    assert list(built('[image.a]\nbuild = "."\nfrom = "registry.example/a:2"\n')) == ["registry.example/a:2"]


def test_every_key_is_read() -> None:
    text = """
[image.a]
platform = "linux/arm64"
[image.a.build]
context = "../app"
dockerfile = "../Dockerfile.prod"
target = "prod"
args = ["A=1", "FROM_SETTINGS", "NOWHERE"]
labels = { b = "2", a = "1" }
additional_contexts = { base = "docker-image://debian:12", shared = "../shared" }
extra_hosts = ["db:10.0.0.1"]
network = "none"
no_cache = true
pull = true
secrets = ["token", { source = "key", target = "id_key" }]
ssh = ["default=/run/agent.sock"]
shm_size = "1m"
ulimits = { nofile = 100, nproc = { soft = 1, hard = 2 } }
tags = ["web:1"]
cache_from = ["web:cache", "type=registry,ref=registry.example/web:2"]
cache_to = ["type=inline"]
[secret.token]
environment = "TOKEN"
[secret.key]
file = "key.pem"
"""
    assert one(text, "deploy/a.toml", FROM_SETTINGS="x", TOKEN="t") == DesiredBuild(
        context="/src/tree/app",
        dockerfile="../Dockerfile.prod",
        name="Dockerfile.prod",
        target="prod",
        args=(("A", "1"), ("FROM_SETTINGS", "x")),
        labels=(("a", "1"), ("b", "2")),
        contexts=(("base", "docker-image://debian:12"), ("shared", "/src/tree/shared")),
        extra_hosts=(("db", "10.0.0.1"),),
        network="none",
        no_cache=True,
        pull=True,
        secrets=(BuildSecret("token", value="t"), BuildSecret("id_key", file="/src/tree/deploy/key.pem")),
        ssh=(("default", "/run/agent.sock"),),
        shm_size=1 << 20,
        ulimits=(("nofile", 100, 100), ("nproc", 1, 2)),
        tags=(ImageRef.parse("web:1"),),
        cache_from=("docker.io/library/web:cache", "registry.example/web:2"),
        inline_cache=True,
    )


def test_a_secret_is_not_shown() -> None:
    assert "hush" not in repr(BuildSecret("a", value="hush"))


def test_a_container_uses_what_is_built_and_is_of_its_platform() -> None:
    text = '[image.web]\nbuild = { platforms = ["linux/arm64"] }\n[container.web]\nimage = "web"\n'
    desired, _ = resolve({"a.toml": text.encode()}, source="s", variables={}, source_root="/src")
    assert desired is not None
    assert desired.containers["default/web"].image == "localhost/default/web:latest"
    assert '"platform":"linux/arm64"' in desired.containers["default/web"].facets


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('build = "../x"', "image.a.build.context: '../x' is not in the source"),
        ('build = "/etc"', "image.a.build.context: '/etc' is not in the source"),
        ('build = "https://x/y.git"', "a context from elsewhere ('https://x/y.git'): not supported yet"),
        ('build = { dockerfile = "../D" }', "image.a.build.dockerfile: '../D' is not in the source"),
        (
            'build = { dockerfile = "D", dockerfile_inline = "FROM x" }',
            "one of dockerfile and dockerfile_inl",
        ),
        ('build = { network = "shop" }', "a build in network 'shop': not supported yet"),
        (
            'build = { ssh = ["default"] }',
            "image.a.build.ssh[0]: the ssh agent 'default' needs the absolu",
        ),
        (
            'build = { tags = ["b"] }\n[image.b]\nfrom = "b"',
            "image.b: 'b:latest' is a name of image 'defa",
        ),
        (
            'build = { cache_from = ["type=gha"] }',
            "image.a.build.cache_from[0]: a cache of type 'gha': not supported yet (write NAME or type",
        ),
        ('build = { cache_from = ["ref=x"] }', "image.a.build.cache_from[0]: 'ref=x' has no type"),
        ('build = { cache_from = ["X"] }', "image.a.build.cache_from[0]: cannot read image reference 'X'"),
        ('build = { cache_from = ["type=registry"] }', "cannot read image reference '': it is empty"),
        (
            'build = { cache_to = ["type=inline", "x:1"] }',
            "image.a.build.cache_to[1]: a cache of type 'registry': not supported yet (write type=inline)",
        ),
        ('build = { tags = ["X"] }', "image.a.build.tags[0]: cannot read image reference 'X'"),
        ('build = { secrets = ["x"] }', "image.a.build.secrets[0]: no secret 'x' (declare [secret.x])"),
        ('build = "."\npull = "daily"', "image.a.pull: an image that is built is never pulled"),
        (f'build = "."\nfrom = "a@sha256:{"0" * 64}"', "what is built cannot be called by a digest"),
        (
            'build = { platforms = ["linux/amd64", "linux/arm64"] }',
            "more than one platform: not supported yet",
        ),
        (
            'build = "."\n[secret.s]\n[image.b]\nbuild = { secrets = ["s"] }',
            "secret.s: write one of file, environment, external",
        ),
        (
            'build = "."\n[container.c]\nimage = "a"\npull_policy = "always"',
            "is built (a.toml:1), never pulled",
        ),
        ('build = "."\nfrom = "x"\n[image.b]\nfrom = "x"', "image 'x:latest' is built; it is declared in"),
    ],
)
def test_a_mistake_is_told_at_its_place(text: str, problem: str) -> None:
    (found,) = read({"a.toml": f"[image.a]\n{text}\n"})[1]
    assert problem in found, found


def test_a_name_that_no_image_can_have_needs_another_one() -> None:
    (found,) = read({"a.toml": '[image.Web]\nbuild = "."\n'})[1]
    assert "an image cannot be called default/Web (give it a name: from = ...)" in found
