"""Images into registries: a real one, other people's tools as readers, and one that misbehaves."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from runtime.faults import Fault
from runtime.images.push import PushProgress
from runtime.images.registry import Transfer
from specs.values import ImageRef
from tests.kernel.images_box import (
    BASE,
    Box,
    Layout,
    LocalRegistry,
    below,
    file,
    layer,
    needs_registry,
    ref,
    store,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

BIG = layer(file("big", os.urandom(9_000_000)))


def imported(box: Box, tmp_path: Path, name: str, *layers: bytes) -> ImageRef:
    layout = Layout(tmp_path / f"layout{len(list(tmp_path.iterdir()))}")
    layout.image(layers or [BASE, BIG], config={"Cmd": ["/x"]})
    found = ref(name)
    box.store.import_path(layout.path, found)
    return found


def inspect(address: str, name: str, *more: str) -> Any:
    command = ["skopeo", "inspect", "--tls-verify=false", *more, f"docker://{address}/{name}"]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


# ---------------------------------------------------------------- a real registry


@needs_registry
def test_what_was_pushed_is_what_others_and_we_pull(
    box: Box, registry: LocalRegistry, tmp_path: Path
) -> None:
    name = imported(box, tmp_path, f"{registry.address}/pushed/app:1")
    pushed = box.store.push(name)
    seen = inspect(registry.address, "pushed/app:1")
    assert seen["Digest"] == pushed.digest
    copy = tmp_path / "copy"
    source = f"docker://{registry.address}/pushed/app:1"
    subprocess.run(["skopeo", "copy", "-q", "--src-tls-verify=false", source, f"oci:{copy}:x"], check=True)
    with store(tmp_path / "other") as other:
        image = other.store.pull(name)
        own = box.store.get(str(name))
        assert own is not None and image == own.id
        with other.mounted(image) as theirs, box.mounted(image) as ours:
            assert below(theirs) == below(ours)
        assert other.store.import_path(copy, ref("copy:1")) == image


@needs_registry
def test_pushing_again_sends_nothing_and_pulling_what_was_pushed_neither(
    box: Box, registry: LocalRegistry, tmp_path: Path
) -> None:
    name = imported(box, tmp_path, f"{registry.address}/again/app:1")
    moved: list[Transfer] = []
    box.store.registries.on_transfer = moved.append
    first = box.store.push(name)
    assert sum(item.bytes for item in moved) > 9_000_000
    assert {(item.direction, item.host) for item in moved} == {("push", registry.address)}
    moved.clear()
    states: list[PushProgress] = []
    assert box.store.push(name, listener=states.append) == first
    assert {item.state for item in states} == {"waiting", "exists"}
    box.store.pull(name)
    assert moved == []


@needs_registry
def test_blobs_of_another_repository_are_mounted(box: Box, registry: LocalRegistry, tmp_path: Path) -> None:
    name = imported(box, tmp_path, f"{registry.address}/mount/from:1")
    box.store.push(name)
    image = box.store.get(str(name))
    assert image is not None
    target = ref(f"{registry.address}/mount/to:1")
    box.store.tag(image.id, target)
    states: list[PushProgress] = []
    box.store.push(target, listener=states.append)
    mounted = [item for item in states if item.state == "mounted"]
    assert len(mounted) == 2 and {item.source for item in mounted} == {"mount/from"}
    links = tmp_path_links(registry)
    for item in mounted:
        assert f"mount/to/_layers/sha256/{item.digest[7:]}/link" in links
    assert inspect(registry.address, "mount/to:1")["Digest"]


def tmp_path_links(registry: LocalRegistry) -> set[str]:
    """What the registry's own disk says of which repository has which blob."""
    root = registry.directory / "data/docker/registry/v2/repositories"
    return {str(path.relative_to(root)) for path in root.rglob("link")}


@needs_registry
def test_a_pulled_image_is_pushed_with_the_manifest_that_it_came_with(
    box: Box, registry: LocalRegistry, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image([BASE], config={"Cmd": ["/x"]})
    registry.push(layout.path, "test", "verbatim:1", "--format", "v2s2")
    name = ref(f"{registry.address}/verbatim:1")
    image = box.store.pull(name)
    copy = ref(f"{registry.address}/elsewhere/verbatim:2")
    box.store.tag(image, copy)
    pushed = box.store.push(copy)
    assert pushed.digest == inspect(registry.address, "verbatim:1")["Digest"]
    raw = inspect(registry.address, "elsewhere/verbatim:2", "--raw")
    assert raw["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"


@needs_registry
def test_what_was_made_here_is_pushed_and_runs_elsewhere(
    box: Box, registry: LocalRegistry, tmp_path: Path
) -> None:
    upper = box.paths.root / "upper"
    upper.mkdir()
    (upper / "hello").write_text("made here")
    made = box.store.commit_layer(upper, "")
    config = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [made.diff_id]},
    }
    name = ref(f"{registry.address}/made:1")
    image = box.store.add_image(json.dumps(config).encode(), [made.chain_id], [name])
    pushed = box.store.push(name)
    assert inspect(registry.address, "made:1")["Digest"] == pushed.digest
    with store(tmp_path / "other") as other:
        assert other.store.pull(name) == image
        assert (other.store.ensure_layers(image)[0] / "hello").read_text() == "made here"


def test_a_name_that_is_not_here_is_not_pushed(box: Box) -> None:
    with pytest.raises(Fault) as caught:
        box.store.push(ref("127.0.0.1:1/none:1"))
    assert caught.value.code == "image-not-found"
    assert str(caught.value) == "cannot push image 127.0.0.1:1/none:1: it is not in the store"


def test_an_image_for_another_platform_than_asked_is_not_pushed(box: Box, tmp_path: Path) -> None:
    name = imported(box, tmp_path, "127.0.0.1:1/app:1")
    with pytest.raises(Fault) as caught:
        box.store.push(name, platform="linux/s390x")
    assert caught.value.code == "platform-missing"
    assert "is for linux/amd64, not for linux/s390x" in str(caught.value)
