"""`stead manifest`: indexes that are put together here, and read by other people's tools."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.faults import Fault
from runtime.images.indexes import Indexes, Target
from runtime.images.manifests import DOCKER_INDEX, OCI_INDEX
from runtime.images.registry import Registries
from tests.kernel.images_box import BASE, Box, Layout, LocalRegistry, file, layer, needs_registry, ref, store
from tests.kernel.test_login import Person

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


def packed(data: bytes) -> bytes:
    """Always the same bytes: no time in the header."""
    return gzip.compress(data, mtime=0)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    """With an image for each of two platforms, in Docker's form and OCI's."""
    base = tmp_path_factory.mktemp("registry")
    made = LocalRegistry(base / "registry")
    for architecture in ("amd64", "arm64"):
        layout = Layout(base / architecture)
        layout.image([BASE, layer(file(architecture))], architecture=architecture, compress=packed)
        made.push(layout.path, "test", f"web:{architecture}")
        made.push(layout.path, "test", f"docker:{architecture}", "--format", "v2s2")
    yield made
    made.stop()


@pytest.fixture
def person(tmp_path: Path) -> Person:
    return Person(tmp_path)


def raw(registry: LocalRegistry, name: str) -> dict[str, Any]:
    command = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{registry.address}/{name}"]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def copies(registry: LocalRegistry, name: str, architecture: str, place: Path) -> None:
    """skopeo gets the image of one platform out of the index."""
    command = ["skopeo", "copy", "-q", "--src-tls-verify=false", f"--override-arch={architecture}"]
    source = f"docker://{registry.address}/{name}"
    subprocess.run([*command, source, f"oci:{place}:{architecture}"], check=True, capture_output=True)


@needs_registry
@pytest.mark.parametrize(("name", "kind"), [("web", OCI_INDEX), ("docker", DOCKER_INDEX)])
def test_an_index_of_two_images_is_what_each_platform_pulls(
    person: Person, registry: LocalRegistry, tmp_path: Path, name: str, kind: str
) -> None:
    index = f"{registry.address}/{name}:all"
    images = [f"{registry.address}/{name}:{architecture}" for architecture in ("amd64", "arm64")]
    assert person.types("manifest", "create", index, *images) == f"Created manifest list {index}\n"
    said = person.types("manifest", "push", "--purge", index)
    found = raw(registry, f"{name}:all")
    assert found["mediaType"] == kind
    platforms = [item["platform"]["architecture"] for item in found["manifests"]]
    assert platforms == ["amd64", "arm64"]
    with store(tmp_path / "box") as box:
        image = box.store.pull(ref(index), platform="linux/arm64")
        with box.mounted(image) as merged:
            assert (merged / "arm64").exists()
    copies(registry, f"{name}:all", "amd64", tmp_path / "copy")
    assert said.endswith(f"{Registries({}).remote(ref(index)).head()}\n")
    assert "there is no such index here" in person.types("manifest", "rm", index, code=1)


@needs_registry
def test_an_index_in_another_repository_mounts_what_it_needs(
    person: Person, registry: LocalRegistry, tmp_path: Path
) -> None:
    index = f"{registry.address}/another/web:1"
    person.types("manifest", "create", index, f"{registry.address}/web:amd64")
    assert person.types("manifest", "push", index).count("Mounted from web") == 3
    copies(registry, "another/web:1", "amd64", tmp_path / "copy")
    person.types("manifest", "create", "--amend", index, f"{registry.address}/web:arm64")
    assert person.types("manifest", "push", index).count("Mounted from web") == 2, "the shared layer is there"
    assert len(raw(registry, "another/web:1")["manifests"]) == 2


@needs_registry
def test_an_index_may_have_images_of_this_store(
    person: Person, registry: LocalRegistry, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image([BASE, layer(file("here", os.urandom(1000)))], architecture="riscv64")
    made = f"{registry.address}/only-here:1"
    box = Box(tmp_path)
    box.store.import_path(layout.path, ref(made), platform="linux/riscv64")
    box.close()
    index = f"{registry.address}/mixed:1"
    person.types("manifest", "create", index, made, f"{registry.address}/web:amd64")
    assert person.types("manifest", "push", index).count(": Pushed") == 3
    assert [item["platform"]["architecture"] for item in raw(registry, "mixed:1")["manifests"]] == [
        "riscv64",
        "amd64",
    ]
    copies(registry, "mixed:1", "riscv64", tmp_path / "copy")


@needs_registry
def test_several_images_of_the_store_are_pushed_as_one_index(registry: LocalRegistry, tmp_path: Path) -> None:
    with store(tmp_path / "box") as box:
        ids = []
        for architecture in ("amd64", "s390x"):
            layout = Layout(tmp_path / architecture)
            layout.image([BASE, layer(file(architecture))], architecture=architecture)
            name = ref(f"built:{architecture}")
            ids.append(box.store.import_path(layout.path, name, platform=f"linux/{architecture}"))
        name = ref(f"{registry.address}/built:1")
        pushed = box.store.push_index(name, ids)
        assert pushed.digest == box.store.registries.remote(name).head()
    copies(registry, "built:1", "s390x", tmp_path / "copy")


@needs_registry
def test_a_build_for_several_platforms_is_pushed_as_one_index(
    person: Person, registry: LocalRegistry, tmp_path: Path
) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "file").write_text("x")
    (context / "Dockerfile").write_text("FROM scratch\nARG TARGETARCH\nLABEL for=$TARGETARCH\nCOPY file /\n")
    name = f"{registry.address}/many:1"
    person.types("build", "-q", "--platform", "linux/arm64,linux/riscv64", "-t", name, "--push", str(context))
    found = [item["platform"]["architecture"] for item in raw(registry, "many:1")["manifests"]]
    assert found == ["arm64", "riscv64"]
    copies(registry, "many:1", "riscv64", tmp_path / "copy")


@needs_registry
def test_an_index_made_of_an_index_has_its_images(person: Person, registry: LocalRegistry) -> None:
    first, second = f"{registry.address}/first:1", f"{registry.address}/second:1"
    person.types(
        "manifest", "create", first, f"{registry.address}/web:amd64", f"{registry.address}/web:arm64"
    )
    person.types("manifest", "annotate", first, f"{registry.address}/web:arm64", "--variant", "v9")
    person.types("manifest", "push", "-q", first)
    person.types("manifest", "rm", first)
    person.types("manifest", "create", second, first)
    person.types("manifest", "push", "-q", second)
    assert raw(registry, "second:1") == raw(registry, "first:1")
    assert raw(registry, "second:1")["manifests"][1]["platform"]["variant"] == "v9"


@needs_registry
def test_annotations_say_what_an_image_is_for(person: Person, registry: LocalRegistry) -> None:
    index, image = f"{registry.address}/noted:1", f"{registry.address}/web:amd64"
    person.types("manifest", "create", index, image)
    more = ["--os-version", "10.0", "--os-features", "a,b", "--annotation", "org.example.k=v=w"]
    person.types("manifest", "annotate", index, image, "--arch", "arm", "--variant", "v7", *more)
    person.types("manifest", "push", index)
    entry = raw(registry, "noted:1")["manifests"][0]
    assert entry["platform"] == {
        "architecture": "arm",
        "os": "linux",
        "variant": "v7",
        "os.version": "10.0",
        "os.features": ["a", "b"],
    }
    assert entry["annotations"] == {"org.example.k": "v=w"}
    wrong = person.types("manifest", "annotate", index, image, "--arch", "A B", code=1)
    assert "'A B' is no architecture" in wrong
    assert "it has no image" in person.types("manifest", "annotate", index, "nginx", code=1)


@needs_registry
def test_inspect_shows_what_a_registry_has_and_what_is_put_together_here(
    person: Person, registry: LocalRegistry
) -> None:
    image, index = f"{registry.address}/web:amd64", f"{registry.address}/shown:1"
    document = raw(registry, "web:amd64")
    assert json.loads(person.types("manifest", "inspect", image)) == document
    exact = person.types("manifest", "inspect", "--raw", image)
    digest = f"sha256:{hashlib.sha256(exact.encode()).hexdigest()}"
    assert digest == Registries({}).remote(ref(image)).head()
    shown = json.loads(person.types("manifest", "inspect", "-v", image))
    assert shown["Ref"] == image and shown["OCIManifest"] == document
    assert shown["Descriptor"]["digest"] == digest
    assert shown["Descriptor"]["platform"] == {"architecture": "amd64", "os": "linux"}
    assert base64.b64decode(shown["Raw"]).decode() == exact
    person.types("manifest", "create", index, image, f"{registry.address}/web:arm64")
    both = json.loads(person.types("manifest", "inspect", "-v", index))
    assert [item["Descriptor"]["platform"]["architecture"] for item in both] == ["amd64", "arm64"]
    assert json.loads(person.types("manifest", "inspect", index, image)) == shown
    person.types("manifest", "push", index)
    person.types("manifest", "rm", index)
    assert json.loads(person.types("manifest", "inspect", index)) == raw(registry, "shown:1")
    listed = json.loads(person.types("manifest", "inspect", "-v", index))
    assert [item["Descriptor"] for item in listed] == [item["Descriptor"] for item in both]


@needs_registry
def test_what_cannot_be_put_together_is_said(person: Person, registry: LocalRegistry) -> None:
    index, image = f"{registry.address}/wrong:1", f"{registry.address}/web:amd64"
    assert "has no such image" in person.types("manifest", "create", index, f"{image}-none", code=1)
    assert "there is no such index here" in person.types("manifest", "push", index, code=1)
    person.types("manifest", "create", index, image)
    assert "there is one of this name already" in person.types("manifest", "create", index, image, code=1)
    pinned = f"{registry.address}/wrong@sha256:{'1' * 64}"
    assert "a digest cannot be chosen" in person.types("manifest", "create", pinned, image, code=1)


def test_a_draft_that_is_damaged_is_said_so(tmp_path: Path) -> None:
    indexes = Indexes(tmp_path, Registries({}))
    indexes.create(ref("a.example/web:1"), [])
    (path,) = tmp_path.iterdir()
    for text in ("{", "[]", '{"name": "x"}', '{"name": "x", "entries": [{}]}'):
        path.write_text(text)
        with pytest.raises(Fault) as caught:
            indexes.annotate(ref("a.example/web:1"), "x", Target())
        assert caught.value.code == "manifest-invalid" and f"{path} is damaged" in str(caught.value)
