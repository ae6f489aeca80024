"""`stead image verify`: what rotted is named and set aside, and comes back; what is well is left alone."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd

from runtime.faults import Fault
from runtime.images.verify import Rotten, Verified, Verifier
from runtime.linux import mounts
from tests.kernel.engine_box import IMAGE, engine
from tests.kernel.images_box import (
    BASE,
    Box,
    Layout,
    LocalRegistry,
    device,
    directory,
    file,
    hardlink,
    layer,
    needs_registry,
    ref,
    store,
    symlink,
)
from tests.kernel.node_box import Node

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

#: Everything that is hard to compare: whiteouts, links to files of lower layers, devices, attributes.
TOP = layer(
    file("gone/.wh.a"),
    file("full/.wh..wh..opq"),
    file("full/three", "3"),
    hardlink("bin/sulink", "bin/su"),
    device("dev/null", tarfile.CHRTYPE, 1, 3),
    directory("deep/er", mode=0o700, uid=7),
    file("deep/er/file", "f" * 3000, mtime=1_600_000_000.25, pax_headers={"SCHILY.xattr.user.note": "n"}),
    symlink("deep/link", "../etc"),
    file("implied/parents/file", "x"),
)


def verifier(box: Box) -> Verifier:
    return Verifier(box.store.catalog, box.store.blobs, box.store.layers, box.store.collector)


def verify(box: Box, *names: str) -> Verified:
    return verifier(box).verify(names)


def imported(box: Box, tmp_path: Path, compress: Callable[[bytes], bytes] = gzip.compress) -> str:
    layout = Layout(tmp_path / "layout")
    layout.image([BASE, TOP], compress=compress)
    return box.store.import_path(layout.path, ref("app:1"))


def committed(box: Box, parent: str) -> Path:
    """The directory of a layer that was made here."""
    upper = box.paths.root / "upper"
    (upper / "made").mkdir(parents=True)
    (upper / "made/file").write_text("here")
    (upper / "made/sparse").write_bytes(b"")
    os.truncate(upper / "made/sparse", 1 << 20)
    os.mknod(upper / "etc", 0o020000, os.makedev(0, 0))
    made = box.store.commit_layer(upper, parent)
    config = box.database.read().execute("SELECT config FROM images").fetchone()[0]
    chain = [*box.store.catalog.chain(box.store.catalog.find("app:1")), made.chain_id]
    text = config.replace("]}", f', "{made.diff_id}"]}}')
    box.store.add_image(text.encode(), chain, [ref("made:1")])
    return box.store.layers.path(made.chain_id)


@pytest.mark.parametrize(
    "compress", [gzip.compress, zstd.compress, lambda data: data], ids=["gzip", "zstd", "none"]
)
def test_a_store_that_is_well_verifies_well(box: Box, tmp_path: Path, compress) -> None:
    image = imported(box, tmp_path, compress)
    with box.mounted(image) as root:  # being used changes nothing
        (root / "etc/shadow").write_text("y")
    committed(box, box.store.catalog.chain(image)[-1])
    found = verify(box)
    assert (found.rotten, found.layers) == ((), 3)
    assert found.blobs >= 4
    box.store.layer_blob(box.store.catalog.chain(box.store.catalog.find("made:1"))[-1])
    assert verify(box, "made:1").rotten == ()


def content(path: Path) -> None:
    """One byte of the same size at the same time, as rot has it."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def mode(path: Path) -> None:
    path.chmod(0o777)


def owner(path: Path) -> None:
    os.chown(path, 9, 9)


def shorter(path: Path) -> None:
    os.truncate(path, 1)


def later(path: Path) -> None:
    os.utime(path, (1, 1))


def attribute(path: Path) -> None:
    os.setxattr(path, "user.note", b"other")


def missing(path: Path) -> None:
    path.unlink()


def another(path: Path) -> None:
    path.unlink()
    path.mkdir()


def more(path: Path) -> None:
    (path.parent / "more").touch()


def linked(path: Path) -> None:
    os.link(path, path.parent.parent / "second")


@pytest.mark.parametrize(
    ("harm", "line"),
    [
        (content, "deep/er/file: its content differs"),
        (mode, "deep/er/file: its mode is 777, not 644"),
        (owner, "deep/er/file: its owner is 9:9, not 0:0"),
        (shorter, "deep/er/file: it has 1 bytes, not 3000"),
        (later, "deep/er/file: its time of change differs"),
        (attribute, "deep/er/file: its extended attributes differ"),
        (missing, "deep/er/file: it is missing"),
        (another, "deep/er/file: it is of another kind"),
        (more, "deep/er/more: it does not belong there"),
        (linked, "deep/er/file: it has 2 links, not 1; "),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_rotten_file_of_a_layer_is_named_and_the_layer_comes_back(
    box: Box, tmp_path: Path, harm: Callable[[Path], None], line: str
) -> None:
    image = imported(box, tmp_path)
    path = box.store.ensure_layers(image)[1]
    harm(path / "deep/er/file")
    found = verify(box)
    (rotten,) = found.rotten
    assert (rotten.kind, rotten.images) == ("layer", ("app:1",))
    assert f"{path}/{line}" in rotten.cause
    verifier(box).set_aside(found.rotten)
    assert not box.store.check(image)
    box.store.ensure_layers(image)
    assert verify(box).rotten == ()
    box.store.sweep()
    assert list((box.paths.root / "rotten").iterdir()) == []


def test_a_link_that_points_elsewhere_and_a_lost_whiteout_are_rot_too(box: Box, tmp_path: Path) -> None:
    image = imported(box, tmp_path)
    path = box.store.ensure_layers(image)[1]
    (path / "deep/link").unlink()
    os.symlink("/", path / "deep/link")
    (path / "gone/a").unlink()
    os.removexattr(path / "full", "trusted.overlay.opaque")
    (rotten,) = verify(box).rotten
    for text in ("deep/link: it points elsewhere", "gone/a: it is missing", "full: its extended attributes"):
        assert text in rotten.cause


def test_a_rotten_archive_is_named_with_its_images_and_its_layer_goes_on_serving(
    box: Box, tmp_path: Path
) -> None:
    image = imported(box, tmp_path)
    chain = box.store.catalog.chain(image)
    row = box.store.catalog.layer(chain[0])
    assert row is not None
    content(box.store.blobs.path(row["blob"]))
    found = verify(box)
    (rotten,) = found.rotten
    assert (rotten.kind, rotten.id, rotten.images) == ("archive", row["blob"], ("app:1",))
    assert str(box.store.blobs.path(row["blob"])) in rotten.cause
    verifier(box).set_aside(found.rotten)
    assert box.store.check(image) and not box.store.blobs.has(row["blob"])
    (rotten,) = verify(box).rotten
    assert rotten.cause == "it is missing"
    imported_again = box.store.import_path(tmp_path / "layout", ref("app:1"))
    assert imported_again == image and verify(box).rotten == ()


@needs_registry
def test_a_pull_brings_back_an_archive_that_was_set_aside(box: Box, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image([BASE, TOP])
    registry = LocalRegistry(tmp_path / "registry")
    try:
        registry.push(layout.path, "test", "app:1")
        name = ref(f"{registry.address}/app:1")
        image = box.store.pull(name)
        row = box.store.catalog.layer(box.store.catalog.chain(image)[1])
        assert row is not None
        content(box.store.blobs.path(row["blob"]))
        verifier(box).set_aside(verify(box).rotten)
        assert [item.cause for item in verify(box).rotten] == ["it is missing"]
        assert box.store.pull(name) == image
        assert verify(box).rotten == ()
    finally:
        registry.stop()


def test_a_rotten_config_is_written_anew(box: Box, tmp_path: Path) -> None:
    image = imported(box, tmp_path)
    content(box.store.blobs.path(image))
    found = verify(box)
    assert [(item.kind, item.id) for item in found.rotten] == [("config", image)]
    verifier(box).set_aside(found.rotten)
    assert verify(box).rotten == ()


def test_a_rotten_manifest_is_forgotten_and_another_one_made(box: Box, tmp_path: Path) -> None:
    image = imported(box, tmp_path)
    came_with = box.store.manifest_of(image)
    content(box.store.blobs.path(f"sha256:{hashlib.sha256(came_with).hexdigest()}"))
    found = verify(box)
    assert [item.kind for item in found.rotten] == ["manifest"]
    verifier(box).set_aside(found.rotten)
    assert verify(box).rotten == ()
    made, wanted = json.loads(box.store.manifest_of(image)), json.loads(came_with)
    assert [item["digest"] for item in made["layers"]] == [item["digest"] for item in wanted["layers"]]


def test_a_layer_that_was_made_here_must_have_its_own_digest(box: Box, tmp_path: Path) -> None:
    path = committed(box, box.store.catalog.chain(imported(box, tmp_path))[-1])
    assert verify(box).rotten == ()
    content(path / "made/file")
    (rotten,) = verify(box).rotten
    assert rotten.kind == "layer" and rotten.images == ("made:1",) and str(path) in rotten.cause


def test_a_missing_layer_is_told_and_those_above_it_are_not_blamed(box: Box, tmp_path: Path) -> None:
    image = imported(box, tmp_path)
    subprocess.run(["rm", "-rf", str(box.store.layers.path(box.store.catalog.chain(image)[0]))], check=True)
    assert [(item.kind, item.cause) for item in verify(box).rotten] == [("layer", "it is missing")]


def test_only_what_was_asked_for_is_looked_at(box: Box, tmp_path: Path) -> None:
    image = imported(box, tmp_path)
    other = Layout(tmp_path / "other")
    other.image([layer(file("other"))])
    box.store.import_path(other.path, ref("other:1"))
    content(box.store.ensure_layers(image)[1] / "deep/er/file")
    assert verify(box, "other:1").rotten == () and verify(box, "other:1").layers == 1
    assert len(verify(box, "app:1").rotten) == 1
    with pytest.raises(Fault, match="cannot verify image nosuch"):
        verify(box, "nosuch")


def test_the_progress_ends_at_all_of_it(box: Box, tmp_path: Path) -> None:
    imported(box, tmp_path)
    seen: list[tuple[int, int]] = []
    verifier(box).verify(progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 0
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_without_room_to_compare_layers_archives_are_told_all_the_same(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounts.mount("tmpfs", disk, "tmpfs", data="size=30m")
    try:
        with store(disk / "box") as box:
            layout = Layout(tmp_path / "layout")
            layout.image([layer(file("data", os.urandom(12 << 20)))], tag="large")
            layout.image([layer(file("small", "s"))], tag="small")
            box.store.import_path(layout.path, ref("app:large"))
            box.store.import_path(layout.path, ref("app:small"))
            row = box.store.catalog.layer(box.store.catalog.chain(box.store.catalog.find("app:small"))[0])
            assert row is not None
            content(box.store.blobs.path(row["blob"]))
            found = verify(box)
            assert [item.kind for item in found.rotten] == ["archive"]
            assert len(found.skipped) == 1 and found.skipped[0].endswith("no room to unpack it once more")
    finally:
        mounts.unmount(disk)


def test_the_command_names_what_rotted_and_fails(tmp_path: Path) -> None:
    with engine(tmp_path) as machine:
        node = Node(machine.paths)
        said = node.run("image", "verify")
        assert said.code == 0 and said.out.endswith("all well\n")
        (path,) = machine.runtime.images.ensure_layers(machine.runtime.images.list()[0].id)
        content(path / "etc/passwd")
        said = node.run("image", "verify", "--dry-run")
        assert said.code == 1 and f"of {IMAGE.familiar}: {path}/etc/passwd: its content differs" in said.out
        assert path.exists()
        said = node.run("image", "verify", "-q")
        assert said.code == 1 and "set aside: it comes back" in said.out and len(said.lines) == 1
        assert not path.exists()


def test_a_running_container_keeps_the_layer_that_was_set_aside(tmp_path: Path) -> None:
    with engine(tmp_path) as machine:
        name = machine.start("sleep 1000")
        images = machine.runtime.images
        image = images.list()[0]
        (path,) = images.ensure_layers(image.id)
        rotten = Rotten("layer", images.catalog.chain(image.id)[0], (), "for the test")
        Verifier(images.catalog, images.blobs, images.layers, images.collector).set_aside([rotten])
        assert machine.runtime.observe().containers[name].defects[0].kind == "layer"
        machine.runtime.sweep()
        assert machine.exec(name, "cat", "/etc/passwd").text.startswith("root:")
        machine.runtime.stop_container(name)
        machine.runtime.start_container(name)
        assert path.exists() and machine.runtime.observe().containers[name].defects == ()
        machine.runtime.remove_container(name)
        machine.runtime.sweep()
        assert list((machine.paths.root / "rotten").iterdir()) == []
