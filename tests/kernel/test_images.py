"""Images from archives and directories, and what the store keeps of them. Real kernel."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import subprocess
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from backports import zstd

from runtime.faults import Fault
from runtime.images.layers import chain_ids
from tests.kernel.engine_box import IMAGE, engine
from tests.kernel.images_box import (
    BASE,
    Box,
    Layout,
    LocalRegistry,
    digest,
    file,
    layer,
    needs_registry,
    ref,
    tree,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


# ---------------------------------------------------------------- what can be imported


@pytest.mark.parametrize(
    "compress",
    [
        pytest.param(lambda data: data, id="plain"),
        pytest.param(gzip.compress, id="gzip"),
        pytest.param(lambda data: gzip.compress(data[:1000]) + gzip.compress(data[1000:]), id="two-members"),
        pytest.param(zstd.compress, id="zstd"),
        pytest.param(lambda data: zstd.compress(data[:1000]) + zstd.compress(data[1000:]), id="two-frames"),
        pytest.param(bz2.compress, id="bzip2"),
        pytest.param(lzma.compress, id="xz"),
    ],
)
def test_a_root_filesystem_tar_is_imported_whatever_compresses_it(box: Box, tmp_path: Path, compress) -> None:
    archive = tmp_path / "rootfs"
    archive.write_bytes(compress(BASE))
    image = box.store.import_path(archive, ref("base"))
    stored = box.store.get("base")
    assert stored is not None and stored.id == image
    assert stored.config["rootfs"]["diff_ids"] == [digest(BASE)]
    assert (box.store.ensure_layers(image)[0] / "etc/passwd").read_text().startswith("root:")


def trusting(member: tarfile.TarInfo, _path: str) -> tarfile.TarInfo:
    """PEP 706's filter "fully_trusted", which Debian's 3.11 does not know by name."""
    return member


def test_the_same_directory_gives_the_same_image_with_all_its_metadata(box: Box, tmp_path: Path) -> None:
    source = tmp_path / "rootfs"
    source.mkdir()
    with tarfile.open(fileobj=io.BytesIO(BASE)) as archive:
        archive.extraction_filter = trusting
        archive.extractall(source, numeric_owner=True)
    os.link(source / "bin/su", source / "bin/su2")
    os.setxattr(source / "etc/passwd", "user.note", b"\0binary\n")
    os.mkfifo(source / ("p" * 150))
    os.chown(source / "etc/shadow", 3_000_000_000, 42)
    image = box.store.import_path(source, ref("one"))
    assert box.store.import_path(source, ref("two")) == image
    assert box.store.list()[0].names == ("docker.io/library/one:latest", "docker.io/library/two:latest")
    ours, theirs = tree(box.store.ensure_layers(image)[0]), tree(source)
    assert {name: (*v[:4], v[4] // 10**9, *v[5:]) for name, v in ours.items()} == {
        name: (*v[:4], v[4] // 10**9, *v[5:]) for name, v in theirs.items()
    }
    shutil.copytree(source, tmp_path / "copy", symlinks=True, ignore=lambda *_: {"p" * 150})
    assert box.store.import_path(tmp_path / "copy", ref("three")) != image


def test_an_import_cannot_claim_a_digest(box: Box, tmp_path: Path) -> None:
    (tmp_path / "rootfs").mkdir()
    with pytest.raises(Fault, match="which stands for what a registry has") as caught:
        box.store.import_path(tmp_path / "rootfs", ref("app@sha256:" + "1" * 64))
    assert caught.value.code == "request-invalid" and box.store.list() == []


def test_an_imported_file_called_like_a_whiteout_is_refused(box: Box, tmp_path: Path) -> None:
    (tmp_path / "rootfs/a").mkdir(parents=True)
    (tmp_path / "rootfs/a/.wh.b").touch()
    with pytest.raises(Fault, match="reserved") as caught:
        box.store.import_path(tmp_path / "rootfs", ref("x"))
    assert caught.value.code == "archive-invalid"


@pytest.mark.parametrize("packed", [None, "", "gz"], ids=["directory", "tar", "tar.gz"])
def test_an_oci_layout_is_imported(box: Box, tmp_path: Path, packed: str | None) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image([BASE, layer(file("etc/new", "1"))], tag="one", config={"Cmd": ["/bin/su"]})
    path = layout.path
    if packed is not None:
        path = tmp_path / "layout.tar"
        with tarfile.open(path, f"w:{packed}") as archive:
            archive.add(layout.path, ".")
    image = box.store.import_path(path, ref("app:1"))
    stored = box.store.get("app:1")
    assert stored is not None and stored.config["config"] == {"Cmd": ["/bin/su"]}
    assert len(stored.chain_ids) == 2 and stored.id == image


@needs_registry
def test_a_docker_archive_is_imported(box: Box, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image([BASE, layer(file("etc/new", "1"))], config={"Env": ["A=b"]})
    saved = tmp_path / "saved.tar"
    subprocess.run(
        ["skopeo", "copy", "-q", f"oci:{layout.path}:test", f"docker-archive:{saved}:app:1"], check=True
    )
    image = box.store.import_path(saved, ref("app:1"))
    stored = box.store.get(image)
    assert stored is not None and stored.config["config"]["Env"] == ["A=b"]
    assert (box.store.ensure_layers(image)[1] / "etc/new").read_text() == "1"
    extracted = tmp_path / "extracted"
    with tarfile.open(saved) as archive:
        archive.extraction_filter = trusting
        archive.extractall(extracted)
    assert box.store.import_path(extracted, ref("other")) == image
    assert box.store.import_path(layout.path, ref("third")) != ""


@needs_registry
@pytest.mark.skipif(not shutil.which("buildah"), reason="needs buildah")
def test_what_buildah_and_skopeo_write_is_imported_as_one_image(box: Box, tmp_path: Path) -> None:
    storage = ["--root", str(tmp_path / "store"), "--runroot", str(tmp_path / "run"), "--storage-driver=vfs"]

    def buildah(*words: str) -> str:
        done = subprocess.run(["buildah", *storage, *words], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    (tmp_path / "hello").write_text("hello")
    container = buildah("from", "scratch")
    buildah("copy", "-q", container, str(tmp_path / "hello"), "/etc/hello")
    buildah("config", "--cmd", "/etc/hello", container)
    image = f"sha256:{buildah('commit', '-q', container, 'localhost/made:1')}"
    targets = {"oci:": "layout", "oci-archive:": "oci.tar", "docker-archive:": "docker.tar"}
    for kind, place in targets.items():
        buildah("push", "-q", "localhost/made:1", f"{kind}{tmp_path / place}:made:1")
        assert box.store.import_path(tmp_path / place, ref("localhost/made:1")) == image, kind
    assert (box.store.ensure_layers(image)[0] / "etc/hello").read_text() == "hello"
    subprocess.run(
        ["skopeo", "copy", "-q", f"oci:{tmp_path}/layout:made:1", f"dir:{tmp_path}/private"], check=True
    )
    assert box.store.import_path(tmp_path / "private", ref("localhost/made:1")) == image


def test_one_of_several_images_is_chosen_by_name(box: Box, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image([layer(file("one"))], tag="one")
    layout.image([layer(file("two"))], tag="two")
    image = box.store.import_path(layout.path, ref("app:two"))
    assert (box.store.ensure_layers(image)[0] / "two").exists()
    with pytest.raises(Fault, match="several images: one, two") as caught:
        box.store.import_path(layout.path, ref("app:three"))
    assert caught.value.code == "archive-invalid"


@pytest.mark.parametrize(
    "content", [b"", b"just some text", bytes(100_000), gzip.compress(b"no tar"), os.urandom(5000)]
)
def test_what_is_no_archive_is_refused(box: Box, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(Fault) as caught:
        box.store.import_path(tmp_path / "file", ref("x"))
    assert caught.value.code == "archive-invalid"
    assert list(box.paths.blobs.iterdir()) == []


def test_a_docker_archive_cannot_name_files_outside(box: Box, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("{}")
    directory = tmp_path / "archive"
    directory.mkdir()
    manifest = [{"Config": "../secret", "RepoTags": ["x:1"], "Layers": []}]
    (directory / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Fault, match=r"it has no \.\./secret"):
        box.store.import_path(directory, ref("x"))


# ---------------------------------------------------------------- keeping


def test_a_missing_layer_directory_is_noticed_and_unpacked_again(box: Box, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image([BASE, layer(file("full/.wh.one"), file("new", "n"))])
    image = box.store.import_path(layout.path, ref("it"))
    before = tree(box.store.ensure_layers(image)[1])
    assert box.store.check(image)
    for path in box.store.ensure_layers(image):
        shutil.rmtree(path)
    assert not box.store.check(image)
    assert tree(box.store.ensure_layers(image)[1]) == before
    shutil.rmtree(box.store.ensure_layers(image)[0])
    for blob in box.paths.blobs.iterdir():
        blob.unlink()
    with pytest.raises(Fault) as caught:
        box.store.ensure_layers(image)
    assert caught.value.code == "layer-invalid"


def test_removing_the_last_name_removes_what_no_other_image_has(box: Box, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    one_layers = (digest(BASE), digest(layer(file("one"))))
    layout.image([BASE, layer(file("one"))], tag="one")
    layout.image([BASE, layer(file("two"))], tag="two")
    one = box.store.import_path(layout.path, ref("app:one"))
    two = box.store.import_path(layout.path, ref("app:two"))
    box.store.tag(one, ref("other"))
    untagged = box.store.remove("app:one")
    assert untagged[0] == "Untagged: app:one" and untagged[1].startswith("Untagged: app@sha256:")
    assert len(untagged) == 2
    lines = box.store.remove("other")
    assert lines == ("Untagged: other:latest", f"Deleted: {one}", f"Deleted: {chain_ids(one_layers)[1]}")
    assert box.store.check(two)
    assert box.store.remove(two[7:19])[0] == "Untagged: app:two"
    assert os.listdir(box.paths.layers) == os.listdir(box.paths.blobs) == []


def test_an_image_that_a_container_uses_stays_by_whatever_name_it_is_removed(tmp_path: Path) -> None:
    with engine(tmp_path) as machine:
        name = machine.create("true")
        (image,) = machine.runtime.images.list()
        familiar, id = IMAGE.familiar, image.id
        machine.runtime.images.tag(id, ref("other:1"))
        with pytest.raises(Fault, match=f"used by {name}") as caught:
            machine.runtime.remove_image(id[7:19])
        assert caught.value.code == "image-in-use"
        assert machine.runtime.remove_image("other:1") == ("Untagged: other:1",)
        for text in (familiar, str(IMAGE), id, id[7:], id[7:19]):
            with pytest.raises(Fault, match=f"used by {name}"):
                machine.runtime.remove_image(text)
        machine.runtime.remove_container(name)
        lines = machine.runtime.remove_image(id[7:19])
        assert lines[:2] == (f"Untagged: {IMAGE.familiar}", f"Deleted: {id}")


@needs_registry
def test_a_container_of_another_architecture_is_refused_before_it_loops(tmp_path: Path) -> None:
    foreign = "s390x"
    if any(Path("/proc/sys/fs/binfmt_misc").glob("qemu-s390x")):
        pytest.skip("an emulator of s390x is registered here")
    layout = Layout(tmp_path / "layout")
    layout.image([BASE], architecture=foreign)
    registry = LocalRegistry(tmp_path / "registry")
    try:
        registry.push(layout.path, "test", "foreign:1")
        with engine(tmp_path / "engine") as machine:
            name = ref(f"{registry.address}/foreign:1")
            machine.runtime.pull_image(name, platform=f"linux/{foreign}")
            with pytest.raises(Fault, match="no emulator is registered") as caught:
                machine.create("true", image=name)
            assert caught.value.code == "platform-missing"
    finally:
        registry.stop()


def test_an_id_prefix_finds_one_image_only(box: Box, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image([BASE])
    image = box.store.import_path(layout.path, ref("app"))
    for text in (
        image,
        image[7:],
        image[7:13],
        image[7:9],
        "app",
        "app:latest",
        "docker.io/library/app:latest",
    ):
        found = box.store.get(text)
        assert found is not None and found.id == image
    assert box.store.get("nothing") is None
    for number in range(20):  # more than there are digits
        layout.image([BASE], tag=str(number), config={"User": str(number)})
        box.store.import_path(layout.path, ref(f"more:{number}"))
    first = Counter(image.id[7] for image in box.store.list())
    twice = next(digit for digit, count in first.items() if count > 1)
    assert box.store.get(twice) is None
    with pytest.raises(Fault, match="several ids begin so") as caught:
        box.store.remove(twice)
    assert caught.value.code == "request-invalid" and len(box.store.list()) == 21


def test_leftovers_of_a_crash_are_swept(box: Box) -> None:
    half = box.paths.layers / (f".{1:064x}")
    (half / "deep/er").mkdir(parents=True)
    whole = box.paths.layers / (f"{2:064x}")
    whole.mkdir()
    partial = box.paths.blobs.with_name("partial")
    partial.mkdir()
    (partial / "new.1.2").write_bytes(b"x")
    (partial / (f"{3:064x}")).write_bytes(b"old")
    os.utime(partial / (f"{3:064x}"), (1, 1))
    (partial / (f"{4:064x}")).write_bytes(b"young")
    assert len(box.store.sweep()) == 4
    assert os.listdir(box.paths.layers) == []
    assert os.listdir(partial) == [f"{4:064x}"]
    (partial / (f"{4:064x}")).unlink()
    assert box.store.sweep() == ()
