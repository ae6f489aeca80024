"""Whatever an archive says, loading it ends in an image or a Fault, and what is refused leaves nothing."""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.faults import Fault
from tests.kernel.images_box import Box, digest, file, layer

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: unpacking"),
]

examples = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
LAYER = layer(file("f", "content"))
CONFIG = json.dumps({"os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest(LAYER)]}}).encode()
ITEM: dict[str, Any] = {"Config": "config.json", "RepoTags": ["a:1"], "Layers": ["layer.tar"]}
MANIFEST: dict[str, Any] = {
    "schemaVersion": 2,
    "config": {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": digest(CONFIG),
        "size": len(CONFIG),
    },
    "layers": [
        {
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": digest(LAYER),
            "size": len(LAYER),
        }
    ],
}

words = st.sampled_from(
    ["config.json", "layer.tar", "../x", "/etc/passwd", "a:1", "", digest(LAYER), "\0", "é"]
)
scalars = st.none() | st.booleans() | st.integers(-1, 10**20) | words
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)


def archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def docker(items: Any, config: bytes = CONFIG) -> bytes:
    return archive({"manifest.json": json.dumps(items).encode(), "config.json": config, "layer.tar": LAYER})


def layout(index: Any, manifest: Any = MANIFEST, config: bytes = CONFIG) -> bytes:
    text = json.dumps(manifest).encode()
    blobs = {f"blobs/sha256/{digest(data)[7:]}": data for data in (text, config, LAYER)}
    return archive({"oci-layout": b"{}", "index.json": json.dumps(index).encode(), **blobs})


def entry(manifest: Any = MANIFEST) -> dict[str, Any]:
    text = json.dumps(manifest).encode()
    return {"digest": digest(text), "size": len(text)}


@contextmanager
def box() -> Iterator[Box]:
    with tempfile.TemporaryDirectory() as base:
        made = Box(Path(base))
        try:
            yield made
        finally:
            made.close()


def load(data: bytes) -> int:
    """How many images there were. Nothing else than a Fault may be raised, and it leaves nothing."""
    with box() as made:
        path = made.root / "archive"
        path.write_bytes(data)
        before = sorted(os.listdir(made.root))
        count = 0
        try:
            for _ in made.store.load(path):
                count += 1
        except Fault as fault:
            assert str(fault).isprintable(), repr(str(fault))
            if not count:
                assert made.store.list() == [] and made.store.layers.chain_ids() == []
                made.store.sweep()
                assert made.store.blobs.digests() == []
        assert sorted(os.listdir(made.root)) == before
        assert [name for name in made.leftovers() if name.startswith((".", "new."))] == []
        return count


def test_what_the_damage_is_done_to_is_well() -> None:
    assert load(docker([ITEM])) == 1
    assert load(layout({"schemaVersion": 2, "manifests": [entry()]})) == 1


@given(st.integers(0, 10_000), st.integers(0, 40), st.binary(max_size=40))
@examples
def test_damaged_bytes(position: int, cut: int, change: bytes) -> None:
    good = docker([ITEM])
    position %= len(good)
    load(good[:position] + change + good[position + cut :])


@given(st.sampled_from(sorted(ITEM)), values, st.booleans())
@examples
def test_any_value_in_a_docker_manifest(key: str, value: Any, whole: bool) -> None:
    load(docker(value if whole else [{**ITEM, key: value}]))


@given(st.sampled_from(["schemaVersion", "mediaType", "config", "layers", "manifests"]), values)
@examples
def test_any_value_in_a_manifest(key: str, value: Any) -> None:
    changed = {**MANIFEST, key: value}
    load(layout({"schemaVersion": 2, "manifests": [entry(changed)]}, changed))


@given(
    st.sampled_from(["digest", "size", "mediaType", "platform", "annotations", "urls"]), values, st.booleans()
)
@examples
def test_any_value_in_an_index(key: str, value: Any, whole: bool) -> None:
    load(layout(value if whole else {"schemaVersion": 2, "manifests": [{**entry(), key: value}]}))


@given(st.sampled_from(["os", "architecture", "rootfs", "config", "created", "history"]), values)
@examples
def test_any_value_in_a_config(key: str, value: Any) -> None:
    load(docker([ITEM], json.dumps({**json.loads(CONFIG), key: value}).encode()))
