"""Layers become directories: what unpacking gives, beside umoci, and what it refuses. Real kernel."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd

from runtime.faults import Fault
from runtime.images.unpack import MAX_OPEN
from tests.kernel.images_box import (
    BASE,
    Box,
    Layout,
    device,
    digest,
    directory,
    file,
    hardlink,
    layer,
    needs_umoci,
    ref,
    symlink,
    tree,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


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
            [directory("full"), file("full/.wh.one"), file("full", "now a file")], id="whiteout-in-what-goes"
        ),
        pytest.param([file("full/.wh.one"), symlink("full", "etc")], id="whiteout-under-a-new-link"),
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


def test_a_hard_link_into_a_lower_layer_keeps_links_and_all_metadata(box: Box, tmp_path: Path) -> None:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    headers = {"SCHILY.xattr.security.capability": capability.decode("latin-1")}
    lower = layer(
        symlink("link", "nowhere", uid=5, mtime=1_000_000_000),
        file("ping", "x", mode=0o4711, uid=6, gid=7, mtime=1_100_000_000, pax_headers=headers),
    )
    top = unpacked(box, tmp_path, lower, layer(hardlink("d/link2", "link"), hardlink("d/ping2", "ping")))
    assert os.readlink(top / "d/link2") == "nowhere" and (top / "d/link2").lstat().st_uid == 5
    status = (top / "d/ping2").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o4711, 6, 7)
    assert status.st_mtime == 1_100_000_000
    assert os.getxattr(top / "d/ping2", "security.capability") == capability


def in_parts(compress: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Several members, or frames, one after the other; the first is empty."""
    return lambda data: b"".join(
        compress(data[at : at + 7000]) for at in (len(data), *range(0, len(data), 7000))
    )


@pytest.mark.parametrize(
    "compress",
    [
        pytest.param(bytes, id="plain"),
        pytest.param(gzip.compress, id="gzip"),
        pytest.param(zstd.compress, id="zstd"),
        pytest.param(in_parts(gzip.compress), id="gzip-members"),
        pytest.param(in_parts(zstd.compress), id="zstd-frames"),
        pytest.param(
            lambda data: b"\x50\x2a\x4d\x18\x04\0\0\0note" + zstd.compress(data), id="zstd-skippable"
        ),
    ],
)
@pytest.mark.parametrize("claimed", [".tar", ".tar+gzip", ".tar+zstd"])
def test_what_compresses_a_layer_its_first_bytes_say_and_not_its_media_type(
    box: Box, tmp_path: Path, compress: Callable[[bytes], bytes], claimed: str
) -> None:
    layout = Layout(tmp_path / "layout")
    entry = layout.image([BASE], compress=compress)
    manifest = json.loads((layout.path / "blobs/sha256" / entry["digest"][7:]).read_text())
    manifest["layers"][0]["mediaType"] = f"application/vnd.oci.image.layer.v1{claimed}"
    layout.entries.clear()
    layout.add(layout.blob(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json"))
    image = box.store.import_path(layout.path, ref("it"))
    assert (box.store.ensure_layers(image)[0] / "etc/passwd").exists()


def test_a_file_of_more_than_two_gigabytes_keeps_its_holes(box: Box, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with open(source / "large", "wb") as made:
        made.seek(5_000_000_000)
        made.write(b"end")
    data = subprocess.run(
        ["tar", "-C", str(source), "--sparse", "-cf", "-", "large"], check=True, capture_output=True
    ).stdout
    found = unpacked(box, tmp_path, data) / "large"
    assert found.stat().st_size == 5_000_000_003
    with found.open("rb") as file:
        file.seek(5_000_000_000)
        assert file.read() == b"end"


def test_more_directories_than_are_kept_open(box: Box, tmp_path: Path) -> None:
    count = MAX_OPEN + 300
    folders = [directory(f"d{index}", mode=0o750) for index in range(count)]
    files = [file(f"d{index}/{name}", name) for name in "ab" for index in range(count)]
    links = [hardlink(f"d{index}/c", f"d{count - 1 - index}/a") for index in range(count)]
    top = unpacked(box, tmp_path, layer(*folders, *files, *links))
    for index in range(count):
        assert sorted(os.listdir(top / f"d{index}")) == ["a", "b", "c"]
        assert (top / f"d{index}/c").samefile(top / f"d{count - 1 - index}/a")
        assert (top / f"d{index}").stat().st_mtime == 1_600_000_000


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
    assert os.listdir(box.paths.layers) == os.listdir(box.paths.blobs) == []
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
        assert os.listdir(box.paths.layers) == os.listdir(box.paths.blobs) == []
        box.close()
    finally:
        subprocess.run(["umount", str(place)], check=True)
