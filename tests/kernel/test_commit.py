"""What containers and builds wrote becomes layers, archives and images."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import stat
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime.faults import Fault
from runtime.images.changes import Unwritable, write_changes, write_everything
from runtime.images.layers import chain_ids
from runtime.linux import mounts, overlay
from tests.kernel.images_box import BASE, Box, Layout, digest, ref, tree

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: overlay mounts, owners, devices"),
]


def base(box: Box, tmp_path: Path) -> str:
    """The id of an image of one layer with something of every kind."""
    layout = Layout(tmp_path / "base")
    layout.image([BASE])
    return box.store.import_path(layout.path, ref("base"))


@contextmanager
def over(box: Box, chain: tuple[str, ...]) -> Iterator[tuple[Path, Path]]:
    """(merged, upper) of a mount over the layers of `chain`; unmounted at the end."""
    place = box.root / "making"
    for name in ("upper", "work", "merged"):
        (place / name).mkdir(parents=True, exist_ok=True)
    os.chmod(place / "upper", 0o755)
    lowers = [box.store.layers.path(item) for item in reversed(chain)]
    overlay.mount(lowers, place / "upper", place / "work", place / "merged")
    try:
        yield place / "merged", place / "upper"
    finally:
        mounts.unmount(place / "merged")


def archive(directory: Path, **more: int) -> bytes:
    return b"".join(write_changes(directory, **more))


def names(data: bytes, path: Path) -> list[str]:
    path.write_bytes(data)
    with tarfile.open(path) as opened:
        return opened.getnames()


# ---------------------------------------------------------------- write_changes


def test_removed_files_are_whiteouts_and_new_directories_over_old_ones_opaque(
    box: Box, tmp_path: Path
) -> None:
    chain = box.store.get(base(box, tmp_path)).chain_ids
    with over(box, chain) as (merged, upper):
        (merged / "full/one").unlink()
        subprocess.run(["rm", "-rf", str(merged / "gone")], check=True)
        (merged / "gone").mkdir()
        (merged / "gone/new").write_text("n")
        found = names(archive(upper), tmp_path / "a.tar")
    assert found == [".", "full", "full/.wh.one", "gone", "gone/.wh..wh..opq", "gone/new"]


def test_what_overlayfs_and_this_host_note_for_themselves_is_not_in_a_layer(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name in ("trusted.overlay.opaque", "trusted.overlay.origin", "user.overlay.x", "user.mine"):
        os.setxattr(tmp_path / "d", name, b"y")
    data = archive(tmp_path)
    assert b"SCHILY.xattr.user.mine=y\n" in data
    assert b"overlay." not in data


@pytest.mark.parametrize("name", ["trusted.overlay.redirect", "trusted.overlay.metacopy"])
def test_what_has_its_content_in_a_lower_layer_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "moved").mkdir()
    os.setxattr(tmp_path / "moved", name, b"/elsewhere")
    with pytest.raises(Unwritable, match=r"'moved' .* in a lower layer"):
        archive(tmp_path)


def test_the_same_tree_is_the_same_bytes_in_whatever_order_it_was_made(tmp_path: Path) -> None:
    trees = []
    for order in (1, -1):
        root = tmp_path / f"made{order}"
        root.mkdir()
        items = ["z", "a b", "a", "é", "m" * 120, "link", "dir"][::order]
        for item in items:
            if item == "dir":
                (root / item).mkdir()
                for inner in ("x", "y")[::order]:
                    (root / item / inner).write_text(inner)
            elif item == "link":
                os.symlink("a", root / item)
            else:
                (root / item).write_text(item)
        for path in [*root.rglob("*"), root]:
            os.utime(path, ns=(5, 1_600_000_000_123_456_789), follow_symlinks=False)
        trees.append(archive(root))
    assert trees[0] == trees[1]


def test_the_same_tree_is_the_same_bytes_on_other_file_systems(tmp_path: Path) -> None:
    def made(root: Path) -> bytes:
        (root / "d/e").mkdir(parents=True)
        (root / "d/f").write_bytes(b"f" * 100_000)
        os.truncate(root / "d/f", 200_000)  # with a hole
        os.link(root / "d/f", root / "d/e/g")
        os.symlink("f", root / "d/s")
        os.mkfifo(root / "d/p")
        os.chown(root / "d/e", 5, 6)
        os.setxattr(root / "d/f", "trusted.note", b"n")
        for path in [*root.rglob("*"), root]:
            os.utime(path, ns=(5, 1_600_000_000_123_456_789), follow_symlinks=False)
        root.chmod(0o755)
        return archive(root)

    for name in ("disk", "memory", "upper", "work", "merged", "lower"):
        (tmp_path / name).mkdir()
    wanted = made(tmp_path / "disk")
    mounts.mount("tmpfs", tmp_path / "memory", "tmpfs")
    try:
        assert made(tmp_path / "memory") == wanted
    finally:
        mounts.unmount(tmp_path / "memory")
    overlay.mount([tmp_path / "lower"], tmp_path / "upper", tmp_path / "work", tmp_path / "merged")
    try:
        assert made(tmp_path / "merged") == wanted
    finally:
        mounts.unmount(tmp_path / "merged")


def test_reserved_names_are_refused_with_their_path(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/.wh.x").write_text("")
    with pytest.raises(Unwritable, match=r"'d/\.wh\.x' is reserved"):
        archive(tmp_path)


def test_an_attribute_that_a_tar_would_split_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    os.setxattr(tmp_path / "f", "user.a=b", b"c")
    with pytest.raises(Unwritable, match=r"'f' has the attribute 'user.a=b'"):
        archive(tmp_path)


def test_a_file_system_in_use_is_written_as_far_as_it_is_there(tmp_path: Path) -> None:
    """Between two pieces one file goes, one becomes shorter, one becomes a device: none is a broken entry."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").write_bytes(bytes(1_500_000))
    for name in ("b", "c", "d", "e"):
        (root / name).write_bytes(name.encode() * 1_500_000)
    pieces = write_everything(root)
    parts = [next(pieces)]
    os.truncate(root / "a", 10)
    (root / "b").unlink()
    (root / "c").unlink()
    os.mknod(root / "c", stat.S_IFCHR | 0o600, os.makedev(10, 130))  # a watchdog: to open it is to arm it
    os.truncate(root / "d", 1_000_000)
    parts += pieces
    (tmp_path / "a.tar").write_bytes(b"".join(parts))
    with tarfile.open(tmp_path / "a.tar") as opened:
        assert opened.getnames() == [".", "a", "d", "e"]
        assert opened.extractfile("a").read() == bytes(1_500_000)
        assert opened.extractfile("d").read() == b"d" * 1_000_000
        assert opened.extractfile("e").read() == b"e" * 1_500_000


def test_times_are_kept_to_the_nanosecond_and_later_ones_become_the_epoch(tmp_path: Path) -> None:
    for name, time in (("old", 5_000_000_000), ("odd", 7_123_456_789), ("new", 10**18 + 1), ("before", -1)):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, ns=(0, time))
    os.utime(tmp_path, ns=(0, 0))
    data = archive(tmp_path)
    assert b"mtime=7.123456789\n" in data and b"mtime=1000000000.000000001\n" in data
    assert b"mtime=-0.000000001\n" in data
    assert data.count(b"mtime=") == 3  # a pax record only where a fraction or a sign needs it
    clamped = archive(tmp_path, epoch=6)
    assert b"mtime=7" not in clamped and b"mtime=10" not in clamped
    assert clamped.count(b"%011o\0" % 6) == 2 and clamped.count(b"%011o\0" % 5) >= 1


def test_a_file_that_grows_or_shrinks_while_it_is_read_is_never_a_broken_archive(tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as file:
        file.truncate(5_000_000)
    pieces = write_changes(tmp_path)
    next(pieces)
    os.truncate(tmp_path / "big", 1_500_000)
    with pytest.raises(Unwritable, match="'big' changed while it was read"):
        list(pieces)


# ---------------------------------------------------------------- commit_layer and what follows


def test_a_committed_layer_over_its_parents_shows_the_same_tree(box: Box, tmp_path: Path) -> None:
    image = box.store.get(base(box, tmp_path))
    with over(box, image.chain_ids) as (merged, upper):
        (merged / "etc/new").write_text("new")
        os.chmod(merged / "tmp", 0o700)
        os.rename(merged / "bin/su", merged / "etc/su")
        os.link(merged / "etc/new", merged / "etc/hard")
        os.symlink("/nowhere", merged / "etc/soft")
        os.mknod(merged / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.setxattr(merged / "etc/new", "user.note", b"\0\n=")
        subprocess.run(["rm", "-rf", str(merged / "full")], check=True)
        wanted = tree(merged)
    layer = box.store.commit_layer(upper, image.chain_ids[-1])
    assert not upper.exists()
    assert layer.chain_id == chain_ids([digest(BASE), layer.diff_id])[-1]
    config = json.dumps({"os": "linux", "rootfs": {"diff_ids": [digest(BASE), layer.diff_id]}}).encode()
    made = box.store.add_image(config, [*image.chain_ids, layer.chain_id], [ref("made")])
    assert made == digest(config)
    with box.mounted(made) as merged:
        found = tree(merged)
    del found["."], wanted["."]  # the mounts' own upper directories
    assert found == wanted


def test_a_layers_archive_is_the_one_that_its_diff_id_names(box: Box, tmp_path: Path) -> None:
    upper = box.paths.root / "upper"
    (upper / "d").mkdir(parents=True)
    (upper / "d/f").write_text("f")
    os.setxattr(upper / "d", "trusted.overlay.opaque", b"y")  # hides nothing: there is nothing below
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(upper / "d/socket"))
    layer = box.store.commit_layer(upper, "", epoch=1_500_000_000)
    data = b"".join(box.store.layer_tar(layer.chain_id))
    assert digest(data) == layer.diff_id == layer.chain_id
    assert names(data, tmp_path / "a.tar") == [".", "d", "d/f"]
    directory = box.store.layers.path(layer.chain_id)
    assert (directory / "d").stat().st_mtime == (directory / "d/f").stat().st_mtime == 1_500_000_000
    assert os.listdir(directory / "d") == ["f"]


def test_a_blob_is_made_once_and_found_again(box: Box) -> None:
    upper = box.paths.root / "upper"
    upper.mkdir()
    (upper / "f").write_bytes(b"f" * 100_000)
    layer = box.store.commit_layer(upper, "")
    gzip = box.store.layer_blob(layer.chain_id)
    data = box.store.blobs.read(gzip.digest)
    assert digest(zlib.decompress(data, wbits=31)) == layer.diff_id
    assert gzip.size == len(data) < 2000 and gzip.media_type.endswith(".tar+gzip")
    inode = box.store.blobs.path(gzip.digest).stat().st_ino
    assert box.store.layer_blob(layer.chain_id) == gzip
    zstd, plain = (box.store.layer_blob(layer.chain_id, kind) for kind in ("zstd", "none"))
    assert zstd.media_type.endswith(".tar+zstd") and plain.digest == layer.diff_id
    assert box.store.layer_blob(layer.chain_id, "zstd") == zstd
    assert box.store.blobs.path(gzip.digest).stat().st_ino == inode
    config = json.dumps({"rootfs": {"diff_ids": [layer.diff_id]}}).encode()
    box.store.add_image(config, [layer.chain_id], [ref("made")])
    box.store.sweep()
    assert all(box.store.blobs.has(item.digest) for item in (gzip, zstd, plain))


def test_the_same_layer_again_is_dropped(box: Box) -> None:
    layers = []
    for _ in range(2):
        upper = box.paths.root / "upper"
        upper.mkdir()
        (upper / "f").write_text("f")
        with box.store.hold():
            layers.append(box.store.commit_layer(upper, "", epoch=1))
        assert not upper.exists()
    assert layers[0] == layers[1]
    assert os.listdir(box.paths.layers) == [layers[0].chain_id[7:]]


def test_a_layer_that_cannot_be_written_is_left_where_it_is(box: Box) -> None:
    upper = box.paths.root / "upper"
    upper.mkdir()
    (upper / ".wh.x").write_text("")
    with pytest.raises(Fault, match=r"cannot commit layer .*'\.wh\.x' is reserved") as caught:
        box.store.commit_layer(upper, "")
    assert caught.value.code == "layer-invalid"
    assert upper.is_dir() and os.listdir(box.paths.layers) == []


def test_a_layer_that_rotted_is_not_passed_on(box: Box) -> None:
    upper = box.paths.root / "upper"
    upper.mkdir()
    (upper / "f").write_text("f")
    layer = box.store.commit_layer(upper, "")
    (box.store.layers.path(layer.chain_id) / "f").write_text("g")
    with pytest.raises(Fault) as caught:
        box.store.layer_blob(layer.chain_id)
    assert caught.value.code == "digest-mismatch"
    assert box.store.blobs.digests() == []


def test_a_config_that_names_other_layers_makes_no_image(box: Box) -> None:
    upper = box.paths.root / "upper"
    upper.mkdir()
    layer = box.store.commit_layer(upper, "")
    config = json.dumps({"rootfs": {"diff_ids": [digest(b"other")]}}).encode()
    with pytest.raises(Fault, match="its config names other layers than it has"):
        box.store.add_image(config, [layer.chain_id], [])
    assert box.store.list() == []


def test_a_pulled_images_manifest_is_given_as_it_came(box: Box, tmp_path: Path) -> None:
    id = base(box, tmp_path)
    given = json.loads((tmp_path / "base/index.json").read_text())["manifests"][0]["digest"]
    assert digest(box.store.manifest_of(id)) == given


def test_a_made_images_manifest_describes_blobs_that_are_here(box: Box) -> None:
    upper = box.paths.root / "upper"
    upper.mkdir()
    layer = box.store.commit_layer(upper, "")
    config = json.dumps({"rootfs": {"diff_ids": [layer.diff_id]}}).encode()
    id = box.store.add_image(config, [layer.chain_id], [])
    manifest = json.loads(box.store.manifest_of(id))
    for item in (manifest["config"], *manifest["layers"]):
        data = box.store.blobs.read(item["digest"])
        assert (len(data), hashlib.sha256(data).hexdigest()) == (item["size"], item["digest"][7:])
    assert manifest == json.loads(box.store.manifest_of(id))


def test_a_layer_goes_over_others_whose_image_is_gone(box: Box, tmp_path: Path) -> None:
    """A build's cache keeps layers longer than the image that they came with."""
    image = box.store.get(base(box, tmp_path))
    assert image is not None
    upper = box.paths.root / "upper"
    upper.mkdir()
    with box.store.hold():
        first = box.store.commit_layer(upper, image.chain_ids[-1], epoch=1)
        box.store.remove("base")
        for name in ("etc", "new"):
            (upper / name).mkdir(parents=True)
            os.setxattr(upper / name, "trusted.overlay.opaque", b"y")
        second = box.store.commit_layer(upper, first.chain_id)
        data = b"".join(box.store.layer_tar(second.chain_id))
    assert names(data, tmp_path / "a.tar") == [".", "etc", "etc/.wh..wh..opq", "new"]


def test_a_layer_over_one_that_is_not_here_is_refused(box: Box) -> None:
    upper = box.paths.root / "upper"
    upper.mkdir()
    with pytest.raises(Fault, match="it is not in the store"):
        box.store.commit_layer(upper, digest(b"no layer"))
    assert upper.exists() and os.listdir(box.paths.layers) == []
