"""Images from a real registry that other tools have filled. Real kernel."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path

import pytest

from runtime.faults import Fault
from runtime.images.store import RegistrySettings
from runtime.interface import Progress
from specs.values import ImageRef
from tests.kernel.images_box import (
    BASE,
    Box,
    Layout,
    LocalRegistry,
    file,
    layer,
    needs_registry,
    ref,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


# ---------------------------------------------------------------- a real registry


@needs_registry
def test_an_image_is_pulled_and_pulling_again_does_nothing(
    box: Box, registry: LocalRegistry, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image([BASE, layer(file("big", os.urandom(3_000_000)))], config={"Cmd": ["/x"]})
    registry.push(layout.path, "test", "app:1")
    seen: list[Progress] = []
    name = ref(f"{registry.address}/app:1")
    image = box.store.pull(name, progress=seen.append)
    assert {item.what for item in seen} >= {"wait", "download", "extract", "ready"}
    assert sum(item.total for item in seen if item.what == "ready") > 3_000_000
    listed = box.store.list()
    assert [item.id for item in listed] == [image]
    assert listed[0].names == (str(name),)
    assert listed[0].size >= 3_200_000
    with box.mounted(image) as merged:
        assert (merged / "big").stat().st_size == 3_000_000

    def changes() -> dict[Path, int]:
        told = ("stead.db", "stead.db-wal", "stead.db-shm", "now.jsonl")  # that somebody asked for it
        found = box.paths.root.rglob("*")
        return {path: path.lstat().st_ctime_ns for path in found if path.name not in told}

    before = changes()
    assert box.store.pull(name) == image
    assert changes() == before


@needs_registry
def test_a_tag_that_moves_is_followed(box: Box, registry: LocalRegistry, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image([BASE], tag="one")
    layout.image([BASE, layer(file("new"))], tag="two")
    registry.push(layout.path, "one", "moving:tag")
    name = ref(f"{registry.address}/moving:tag")
    first = box.store.pull(name)
    registry.push(layout.path, "two", "moving:tag")
    second = box.store.pull(name)
    assert first != second
    names = {item.id: item.names for item in box.store.list()}
    assert names.pop(second) == (str(name),)
    (left,) = names.pop(first)  # the name by which it can still be pulled
    assert left.startswith(f"{registry.address}/moving@sha256:") and names == {}


@needs_registry
@pytest.mark.parametrize(("form", "compression"), [("oci", "gzip"), ("oci", "zstd"), ("v2s2", "gzip")])
def test_both_kinds_of_manifest_and_compression_are_pulled(
    box: Box, registry: LocalRegistry, tmp_path: Path, form: str, compression: str
) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image([BASE])
    options = ["--format", form, "--dest-compress-format", compression, "--dest-force-compress-format"]
    known = subprocess.run(["skopeo", "copy", "--help"], capture_output=True, text=True, check=True).stdout
    options = options if "force-compress" in known else options[:-1]
    registry.push(layout.path, "test", f"form:{form}-{compression}", *options)
    image = box.store.pull(ref(f"{registry.address}/form:{form}-{compression}"))
    assert (box.store.ensure_layers(image)[0] / "etc/passwd").exists()


@needs_registry
def test_a_digest_is_pulled_once_and_then_never_asked_for(
    box: Box, registry: LocalRegistry, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "layout")
    entry = layout.image([BASE])
    registry.push(layout.path, "test", "pinned:1", "--preserve-digests")
    name = ref(f"{registry.address}/pinned@{entry['digest']}")
    image = box.store.pull(name)
    assert box.store.list()[0].names == (str(name),)
    registry_gone = ref(f"{registry.address}/pinned@{entry['digest']}")
    assert box.store.pull(registry_gone) == image
    found = box.store.get(str(name))
    assert found is not None and found.id == image


@needs_registry
def test_an_index_gives_this_machines_image(box: Box, registry: LocalRegistry, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    mine = layout.image([layer(file("amd64"))], tag="a")
    other = layout.image([layer(file("arm64"))], tag="b", architecture="arm64")
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            {**other, "platform": {"os": "linux", "architecture": "arm64"}},
            {**mine, "platform": {"os": "unknown", "architecture": "unknown"}},
            {**mine, "platform": {"os": "linux", "architecture": "amd64"}},
        ],
    }
    entry = layout.blob(json.dumps(index).encode(), "application/vnd.oci.image.index.v1+json")
    layout.add({**entry, "annotations": {"org.opencontainers.image.ref.name": "multi"}})
    registry.push(layout.path, "multi", "multi:1", "--all")
    name = ref(f"{registry.address}/multi:1")
    image = box.store.pull(name, platform="linux/amd64")
    assert (box.store.ensure_layers(image)[0] / "amd64").exists()
    foreign = box.store.pull(name, platform="linux/arm64")
    assert (box.store.ensure_layers(foreign)[0] / "arm64").exists()
    with pytest.raises(Fault, match="there is linux/amd64, linux/arm64") as caught:
        box.store.pull(name, platform="linux/s390x")
    assert caught.value.code == "platform-missing"


@needs_registry
def test_parallel_pulls_of_a_shared_layer_unpack_it_once(
    box: Box, registry: LocalRegistry, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "layout")
    shared = layer(*[file(f"f{index}", os.urandom(2000)) for index in range(500)])
    names = []
    for index in range(4):
        layout.image([shared, layer(file(f"own{index}"))], tag=f"t{index}")
        registry.push(layout.path, f"t{index}", f"shared:{index}")
        names.append(ref(f"{registry.address}/shared:{index}"))
    inodes: list[int] = []
    errors: list[BaseException] = []

    def pull(name: ImageRef) -> None:
        try:
            layers = box.store.ensure_layers(box.store.pull(name))
            inodes.append((layers[0] / "f0").stat().st_ino)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=pull, args=(name,)) for name in names * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(set(inodes)) == 1 and len(inodes) == 8
    assert len(os.listdir(box.paths.layers)) == 5


@needs_registry
def test_what_the_registry_lacks_is_said(box: Box, registry: LocalRegistry) -> None:
    with pytest.raises(Fault) as caught:
        box.store.pull(ref(f"{registry.address}/nothing:1"))
    assert caught.value.code == "image-not-found"


@needs_registry
def test_basic_credentials_are_used_and_needed(tmp_path: Path) -> None:
    users = tmp_path / "htpasswd"
    users.write_text("me:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n")
    registry = LocalRegistry(tmp_path / "registry", htpasswd=users)
    try:
        layout = Layout(tmp_path / "layout")
        layout.image([BASE])
        registry.push(layout.path, "test", "app:1", "--dest-creds=me:secret")
        name = ref(f"{registry.address}/app:1")
        stranger = Box(tmp_path / "stranger")
        with pytest.raises(Fault) as caught:
            stranger.store.pull(name)
        assert caught.value.code == "registry-denied"
        stranger.close()
        (tmp_path / "password").write_text("secret\n")
        settings = RegistrySettings(username="me", password_file=str(tmp_path / "password"))
        friend = Box(tmp_path / "friend", {registry.address: settings})
        assert friend.store.pull(name)
        friend.close()
    finally:
        registry.stop()
