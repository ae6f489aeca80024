"""Pull, import and unpack images: real kernel, a real registry, and files made by other tools."""

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
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from backports import zstd

from runtime.faults import Fault
from runtime.images.store import RegistrySettings
from runtime.interface import Progress
from specs.values import ImageRef
from tests.kernel.images_box import (
    Box,
    Layout,
    LocalRegistry,
    device,
    digest,
    directory,
    file,
    hardlink,
    layer,
    symlink,
    tree,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
needs_registry = pytest.mark.skipif(
    not (shutil.which("docker-registry") and shutil.which("skopeo")),
    reason="needs docker-registry and skopeo",
)
needs_umoci = pytest.mark.skipif(not shutil.which("umoci"), reason="needs umoci")


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path / "box")
    yield made
    assert made.leftovers() == []
    made.close()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    made = LocalRegistry(tmp_path_factory.mktemp("registry") / "registry")
    yield made
    made.stop()


def ref(text: str) -> ImageRef:
    return ImageRef.parse(text)


BASE = layer(
    directory("./"),
    directory("etc"),
    file("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
    file("etc/shadow", "x", mode=0o640, gid=42),
    directory("tmp", mode=0o1777),
    directory("var"),
    directory("var/lib", uid=5, gid=6, mode=0o2775),
    file("var/lib/data", b"d" * 200_000),
    file("bin/su", "setuid", mode=0o4755),
    file("bin/wall", "setgid", mode=0o2755, gid=5),
    symlink("lib", "usr/lib"),
    directory("gone"),
    file("gone/a", "a"),
    file("gone/b", "b"),
    directory("full"),
    file("full/one", "1"),
    file("full/two", "2"),
    file("replaced-by-directory", "was a file"),
    directory("replaced-by-file"),
    file("replaced-by-file/inside", "x"),
    symlink("replaced-link", "/etc"),
)

# ---------------------------------------------------------------- what unpacking gives


@needs_umoci
@pytest.mark.parametrize(
    "upper",
    [
        pytest.param([directory("etc"), file("etc/new", "n")], id="add"),
        pytest.param([directory("gone"), file("gone/.wh.a")], id="whiteout"),
        pytest.param([file(".wh.gone")], id="whiteout-of-directory"),
        pytest.param(
            [file(".wh.never-there"), directory("etc"), file("etc/.wh.nor-this")], id="whiteout-of-nothing"
        ),
        pytest.param([directory("full"), file("full/.wh..wh..opq"), file("full/three", "3")], id="opaque"),
        pytest.param(
            [directory("full"), file("full/three", "3"), file("full/.wh..wh..opq")], id="opaque-last"
        ),
        pytest.param([file(".wh.full"), directory("full"), file("full/three", "3")], id="whiteout-recreate"),
        pytest.param(
            [directory("replaced-by-directory"), file("replaced-by-directory/x", "x")], id="file-to-dir"
        ),
        pytest.param([file("replaced-by-file", "now a file")], id="dir-to-file"),
        pytest.param([directory("replaced-link"), file("replaced-link/mine", "m")], id="link-to-dir"),
        pytest.param([file("a", "1"), hardlink("b", "a"), hardlink("c", "b")], id="hard-links"),
        pytest.param([symlink("s", "nowhere"), hardlink("t", "s")], id="hard-link-to-symlink"),
        pytest.param([device("null", tarfile.CHRTYPE, 1, 3, mode=0o666)], id="device"),
        pytest.param([device("disk", tarfile.BLKTYPE, 7, 1, mode=0o660, gid=6)], id="block-device"),
        pytest.param([device("pipe", tarfile.FIFOTYPE, mode=0o600, uid=3)], id="fifo"),
        pytest.param([file("x", "1"), file("x", "2", mode=0o600)], id="entry-twice"),
        pytest.param([file("n" * 200 + "/" + "m" * 200, "long"), symlink("l", "t" * 300)], id="long-names"),
        pytest.param([file("big-id", "x", uid=3_000_000_000, gid=2_500_000)], id="big-ids"),
        pytest.param([file("t", "x", mtime=1_500_000_000.25)], id="fractional-time"),
        pytest.param([file("caf\u00e9 \U0001f600", "x"), file("sp ace\n", "x")], id="odd-names"),
        pytest.param([file("/rooted", "x"), file("./dotted", "x"), file("a//b/./c", "x")], id="odd-paths"),
        pytest.param(
            [
                file("capable", "x", mode=0o755, pax_headers={"SCHILY.xattr.user.note": "hello"}),
                directory("d", pax_headers={"SCHILY.xattr.user.dir": "v"}),
            ],
            id="xattrs",
        ),
    ],
)
def test_layers_unpack_as_umoci_unpacks_them(box: Box, tmp_path: Path, upper: list) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image([BASE, layer(*upper)])
    target = tmp_path / "bundle"
    subprocess.run(
        ["umoci", "--log=error", "unpack", "--image", f"{layout.path}:test", str(target)], check=True
    )
    image = box.store.import_path(layout.path, ref("it"))
    with box.mounted(image) as merged:
        ours, theirs = tree(merged), tree(target / "rootfs")
    ours.pop(".")  # the writable layer's own root
    theirs.pop(".")
    implied = {"bin", "n" * 200, "a", "a/b"}  # umoci gives them the time of unpacking
    for name in implied & set(ours):
        ours[name], theirs[name] = ours[name][:4], theirs[name][:4]
    assert ours == theirs


def unpacked(box: Box, tmp_path: Path, *layers: bytes) -> Path:
    """The top layer's directory after an import of `layers`."""
    layout = Layout(tmp_path / "layout")
    layout.image(layers)
    image = box.store.import_path(layout.path, ref("it"))
    return box.store.ensure_layers(image)[-1]


def test_setuid_capabilities_and_times_survive_the_order_of_calls(box: Box, tmp_path: Path) -> None:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    headers = {"SCHILY.xattr.security.capability": capability.decode("latin-1")}
    top = unpacked(
        box,
        tmp_path,
        layer(
            directory("d", mode=0o2775, uid=7, gid=8, mtime=1_000_000_000),
            file("d/ping", "x", mode=0o6755, uid=9, gid=10, mtime=1_100_000_000, pax_headers=headers),
        ),
    )
    status = (top / "d/ping").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o6755, 9, 10)
    assert status.st_mtime == 1_100_000_000
    assert os.getxattr(top / "d/ping", "security.capability") == capability
    assert (top / "d").stat().st_mtime == 1_000_000_000
    assert (top / "d").stat().st_mode & 0o7777 == 0o2775


def test_a_whiteout_is_not_made_where_nothing_is_hidden(box: Box, tmp_path: Path) -> None:
    top = unpacked(
        box, tmp_path, layer(file("a/.wh.b"), file(".wh.c"), directory("o"), file("o/.wh..wh..opq"))
    )
    assert sorted(tree(top)) == [".", "o"]
    assert os.listxattr(top / "o") == []


def test_an_opaque_root_hides_all_that_is_below(box: Box, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image([BASE, layer(file(".wh..wh..opq"), directory("etc"), file("etc/only", "x"))])
    image = box.store.import_path(layout.path, ref("it"))
    with box.mounted(image) as merged:
        assert sorted(tree(merged)) == [".", "etc", "etc/only"]


def test_an_implied_directory_keeps_the_lower_layers_metadata(box: Box, tmp_path: Path) -> None:
    top = unpacked(
        box, tmp_path, BASE, layer(file("tmp/new", "x"), file("var/lib/new", "y"), file("x/y/z", "z"))
    )
    assert (top / "tmp").stat().st_mode & 0o7777 == 0o1777
    status = (top / "var/lib").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o2775, 5, 6)
    assert (top / "x/y").stat().st_mode & 0o7777 == 0o755


def test_a_hard_link_may_come_before_its_target(box: Box, tmp_path: Path) -> None:
    top = unpacked(box, tmp_path, layer(hardlink("c", "b"), hardlink("b", "dir/a"), file("dir/a", "content")))
    assert (top / "c").read_text() == "content"
    assert (top / "c").stat().st_ino == (top / "b").stat().st_ino == (top / "dir/a").stat().st_ino


def test_a_hard_link_into_a_lower_layer_becomes_a_copy(box: Box, tmp_path: Path) -> None:
    top = unpacked(
        box,
        tmp_path,
        BASE,
        layer(hardlink("su1", "bin/su"), hardlink("su2", "bin/su"), hardlink("su3", "su2")),
    )
    assert (top / "su1").read_text() == "setuid"
    assert (top / "su1").stat().st_mode & 0o7777 == 0o4755
    assert (top / "su1").stat().st_nlink == 3


def test_sparse_files_of_every_format_stay_sparse(box: Box, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with open(source / "hole", "wb") as made:
        for index in range(60):
            made.seek(index * 100_000)
            made.write(b"%d" % index * 100)
        made.truncate(8_000_000)
    wanted = digest((source / "hole").read_bytes())
    for number, form in enumerate(
        [["--format=gnu"], *(["--format=pax", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0"))]
    ):
        data = subprocess.run(
            ["tar", "-C", str(source), "--sparse", *form, "-cf", "-", "hole"], check=True, capture_output=True
        ).stdout
        assert len(data) < 1_000_000
        archive = tmp_path / f"{number}.tar"
        archive.write_bytes(data)
        image = box.store.import_path(archive, ref(f"sparse{number}"))
        found = box.store.ensure_layers(image)[0] / "hole"
        assert digest(found.read_bytes()) == wanted, form
        assert found.stat().st_blocks * 512 < 1_000_000


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_dialect_of_tar_is_read(box: Box, tmp_path: Path, form: int) -> None:
    name = "/".join(["directory" * 3] * 3) + "/file"
    top = unpacked(box, tmp_path, layer(file(name, "x"), symlink("s", "t" * 90), form=form))
    assert (top / name).read_text() == "x"
    assert os.readlink(top / "s") == "t" * 90


# ---------------------------------------------------------------- what unpacking refuses


@pytest.mark.parametrize(
    ("items", "entry"),
    [
        pytest.param([file("../evil", "x")], "../evil", id="dot-dot"),
        pytest.param([file("a/../../evil", "x")], "a/../../evil", id="dot-dot-inside"),
        pytest.param(
            [symlink("link", "/tmp"), file("link/evil", "x")], "link/evil", id="through-absolute-link"
        ),
        pytest.param(
            [symlink("link", ".."), directory("link/evil")], "link/evil", id="through-relative-link"
        ),
        pytest.param(
            [directory("d"), symlink("link", "d"), file("link/evil", "x")], "link/evil", id="inner-link"
        ),
        pytest.param([file("f", "x"), file("f/evil", "x")], "f/evil", id="through-file"),
        pytest.param([hardlink("evil", "../../../etc/passwd")], "evil", id="hard-link-dot-dot"),
        pytest.param([hardlink("evil", "/nowhere")], "evil", id="hard-link-to-nothing"),
        pytest.param(
            [symlink("l", "/etc"), hardlink("evil", "l/passwd")], "evil", id="hard-link-through-link"
        ),
        pytest.param([directory("d"), hardlink("evil", "d")], "evil", id="hard-link-to-directory"),
        pytest.param([hardlink("evil", "b"), hardlink("b", "evil")], "evil", id="hard-link-circle"),
        pytest.param([file("a/.wh...", "x")], "a/.wh...", id="whiteout-of-parent"),
        pytest.param([file(".wh.", "x")], ".wh.", id="whiteout-of-nothing"),
        pytest.param([file(".wh.d/evil", "x")], ".wh.d/evil", id="inside-a-whiteout"),
        pytest.param([device("evil", tarfile.CHRTYPE)], "evil", id="whiteout-device"),
        pytest.param([file("x" * 300, "x")], "x" * 300, id="long-component"),
        pytest.param([file("d/" * 300 + "f", "x")], "d/" * 300 + "f", id="deep"),
    ],
)
def test_a_dangerous_entry_is_refused_by_name(box: Box, tmp_path: Path, items: list, entry: str) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image([layer(directory("fine"), *items)])
    with pytest.raises(Fault) as caught:
        box.store.import_path(layout.path, ref("it"))
    assert caught.value.code == "layer-invalid"
    assert f"entry '{entry}'" in str(caught.value)
    assert os.listdir(box.paths.layers) == []
    assert box.store.list() == []


def test_a_parent_that_is_a_link_in_a_lower_layer_is_refused(box: Box, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image([BASE, layer(file("lib/evil", "x"))])
    with pytest.raises(Fault, match="symbolic link in a lower layer") as caught:
        box.store.import_path(layout.path, ref("it"))
    assert caught.value.code == "layer-invalid"


def test_overlay_xattrs_of_an_archive_are_ignored(box: Box, tmp_path: Path) -> None:
    headers = {"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.trusted.overlay.redirect": "/etc"}
    top = unpacked(box, tmp_path, BASE, layer(directory("full", pax_headers=headers)))
    assert os.listxattr(top / "full") == []


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(lambda data: data[: len(data) // 2], id="cut-off"),
        pytest.param(lambda data: data[:700] + b"\xff" * 50 + data[750:], id="damaged"),
        pytest.param(lambda data: data + b"garbage", id="garbage-behind"),
    ],
)
def test_a_damaged_layer_is_refused(box: Box, tmp_path: Path, broken) -> None:
    layout = Layout(tmp_path / "layout")
    data = os.urandom(3_000_000)
    plain = layer(file("f", data))
    layout.image([plain], compress=lambda item: broken(gzip.compress(item)))
    with pytest.raises(Fault) as caught:
        box.store.import_path(layout.path, ref("it"))
    assert caught.value.code == "layer-invalid"
    assert os.listdir(box.paths.layers) == []


def test_a_tar_that_ends_early_is_refused(box: Box, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image([layer(file("f", b"x" * 5000))[:3000]])
    with pytest.raises(Fault, match="cut off"):
        box.store.import_path(layout.path, ref("it"))


def test_content_that_differs_from_its_diff_id_is_refused(box: Box, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image([BASE], diff_ids=["sha256:" + "1" * 64])
    with pytest.raises(Fault) as caught:
        box.store.import_path(layout.path, ref("it"))
    assert caught.value.code == "digest-mismatch"
    assert os.listdir(box.paths.layers) == []


def test_a_blob_that_differs_from_its_digest_is_refused(box: Box, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image([BASE], compress=lambda data: data)
    path = layout.path / "blobs/sha256" / digest(BASE)[7:]
    path.write_bytes(BASE[:-1] + b"x")
    with pytest.raises(Fault) as caught:
        box.store.import_path(layout.path, ref("it"))
    assert caught.value.code == "digest-mismatch"
    assert not box.store.blobs.has(digest(BASE))


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(place)], check=True)
    try:
        box = Box(place)
        layout = Layout(tmp_path / "layout")
        layout.image([layer(file("f", b"x" * 8_000_000))])
        with pytest.raises(Fault) as caught:
            box.store.import_path(layout.path, ref("it"))
        assert caught.value.code == "disk-full"
        layout = Layout(tmp_path / "random")
        layout.image([layer(file("f", os.urandom(8_000_000)))])
        with pytest.raises(Fault) as caught:
            box.store.import_path(layout.path, ref("it"))
        assert caught.value.code == "disk-full"
        assert box.leftovers() == []
        assert os.listdir(box.paths.layers) == []
        box.close()
    finally:
        subprocess.run(["umount", str(place)], check=True)


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


def test_the_same_directory_gives_the_same_image_with_all_its_metadata(box: Box, tmp_path: Path) -> None:
    source = tmp_path / "rootfs"
    source.mkdir()
    with tarfile.open(fileobj=io.BytesIO(BASE)) as archive:
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
        archive.extractall(extracted)
    assert box.store.import_path(extracted, ref("other")) == image
    assert box.store.import_path(layout.path, ref("third")) != ""


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
    layout.image([BASE, layer(file("one"))], tag="one")
    layout.image([BASE, layer(file("two"))], tag="two")
    one = box.store.import_path(layout.path, ref("app:one"))
    two = box.store.import_path(layout.path, ref("app:two"))
    box.store.tag(one, ref("other"))
    assert box.store.remove("app:one") == ("Untagged: docker.io/library/app:one",)
    lines = box.store.remove("other")
    assert lines[:2] == ("Untagged: docker.io/library/other:latest", f"Deleted: {one}")
    assert len(lines) == 3
    assert box.store.check(two)
    assert box.store.remove(two[7:19])[0] == "Untagged: docker.io/library/app:two"
    assert os.listdir(box.paths.layers) == os.listdir(box.paths.blobs) == []


def test_an_id_prefix_finds_one_image_only(box: Box, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image([BASE])
    image = box.store.import_path(layout.path, ref("app"))
    for text in (image, image[7:], image[7:13], "app", "app:latest", "docker.io/library/app:latest"):
        found = box.store.get(text)
        assert found is not None and found.id == image
    assert box.store.get("nothing") is None
    assert box.store.get(image[7:9]) is None


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
    assert seen and seen[-1].total > 3_000_000
    listed = box.store.list()
    assert [item.id for item in listed] == [image]
    assert listed[0].names == (str(name),)
    assert listed[0].size >= 3_200_000
    with box.mounted(image) as merged:
        assert (merged / "big").stat().st_size == 3_000_000

    def changes() -> dict[Path, int]:
        found = box.paths.root.rglob("*")
        return {path: path.lstat().st_ctime_ns for path in found if "stead.db" not in path.name}

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
    assert names == {first: (), second: (str(name),)}


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
