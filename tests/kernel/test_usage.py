"""What `stead system df` counts."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from runtime import usage
from runtime.images.listing import LayerSizes, Listed
from runtime.linux import mounts
from runtime.paths import Paths
from runtime.wishes import VolumeRequest
from specs.values import MountPoint
from tests.kernel.engine_box import engine
from tests.kernel.images_box import file, layer
from tests.kernel.node_box import Node, docker_archive
from tests.kernel.shim_box import until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


def image(id: str, layers: str, size: int, **more: object) -> Listed:
    return Listed(id, size=size, chain=tuple(layers), **more)  # type: ignore[arg-type]


def test_shared_layers_are_counted_once_and_free_only_when_all_their_images_are() -> None:
    layers = {
        "x": LayerSizes(100, 10),
        "a": LayerSizes(1),
        "b": LayerSizes(2, 3),
        "p": LayerSizes(7, 0, True),
    }
    images = [image("1", "xa", 101, containers=("c",)), image("2", "xb", 102), image("3", "p", 7)]
    found = usage.of_images(images, layers)
    assert [(item.shared, item.unique) for item in found.images] == [(100, 1), (100, 2), (0, 7)]
    assert (found.size, found.reclaimable) == (123, 5)


def test_a_tree_has_the_bytes_of_its_files_once_and_of_no_other_file_system(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/one").write_bytes(b"x" * 1000)
    (tmp_path / "a/b/two").write_bytes(b"x" * 10)
    os.link(tmp_path / "a/one", tmp_path / "a/b/same")
    os.symlink("/usr", tmp_path / "a/link")
    (tmp_path / "a/mounted").mkdir()
    mounts.mount("tmpfs", tmp_path / "a/mounted", "tmpfs")
    try:
        (tmp_path / "a/mounted/elsewhere").write_bytes(b"x" * 5000)
        assert usage.tree_size(tmp_path / "a") == 1010
    finally:
        mounts.unmount(tmp_path / "a/mounted")
    assert usage.tree_size(tmp_path / "nothing") == 0


def test_df_adds_up_images_containers_and_volumes(tmp_path: Path) -> None:
    with engine(tmp_path) as machine:
        machine.runtime.create_volume(VolumeRequest("t/data", "t", "f"))
        machine.runtime.create_volume(VolumeRequest("t/idle", "t", "f"))
        (machine.paths.volumes / "t/idle/_data/file").write_bytes(b"i" * 2000)
        name = machine.start(
            "head -c 3000 /dev/zero > /new; head -c 4000 /dev/zero > /data/file; sleep 1000",
            mounts=(MountPoint("volume", "t/data", "/data"),),
        )
        node, written = Node(machine.paths), machine.paths.volumes / "t/data/_data/file"
        until(lambda: written.exists() and written.stat().st_size == 4000)
        rows = [json.loads(line) for line in node.run("system", "df", "--format", "json").lines]
        found = {row["Type"]: row for row in rows}
        assert (found["Images"]["TotalCount"], found["Images"]["Active"]) == ("1", "1")
        assert found["Images"]["Reclaimable"].startswith("0B")
        assert found["Containers"] == {
            "Type": "Containers",
            "TotalCount": "1",
            "Active": "1",
            "Size": "3kB",
            "Reclaimable": "0B (0%)",
        }
        assert found["Local Volumes"]["Size"] == "6kB"
        assert found["Local Volumes"]["Reclaimable"] == "2kB (33%)"
        details = json.loads(node.run("system", "df", "-v", "--format", "json").out)
        assert details["Containers"][0]["Names"] == name and details["Containers"][0]["LocalVolumes"] == "1"
        links = {row["Name"]: row["Links"] for row in details["Volumes"]}
        assert links == {"t/data": "1", "t/idle": "0"}
        machine.runtime.remove_container(name)


def test_df_of_an_empty_machine_is_all_zero(tmp_path: Path) -> None:
    node = Node(Paths(tmp_path / "root", tmp_path / "run"))
    said = node.run("system", "df")
    assert said.code == 0 and len(said.lines) == 5 and list(tmp_path.iterdir()) == []
    assert node.run("system", "df", "-v").code == 0


def test_df_shows_what_images_share(tmp_path: Path) -> None:
    node = Node(Paths(tmp_path / "root", tmp_path / "run"))
    base, top = layer(file("base", b"b" * 50_000)), layer(file("top", b"t" * 700))
    node.load(docker_archive(tmp_path / "a.tar", "a:1", [base], {}), "a:1")
    node.load(docker_archive(tmp_path / "b.tar", "b:1", [base, top], {}), "b:1")
    details = json.loads(node.run("system", "df", "-v", "--format", "json").out)["Images"]
    found = {row["Repository"]: (row["Size"], row["SharedSize"], row["UniqueSize"]) for row in details}
    assert found == {"a": ("50kB", "50kB", "0B"), "b": ("50.7kB", "50kB", "700B")}
    lines = node.run("system", "df", "-v").lines
    assert lines[0] == "Images space usage:" and lines[2].split()[-1] == "CONTAINERS"
