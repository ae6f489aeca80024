"""Whatever an image has at a path, a volume that is empty at its first use has it, too. Real files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.volumes.copying import copy_tree
from runtime.volumes.filling import fill
from tests.kernel.images_box import tree
from tests.properties.test_changes import Node, make, place, trees

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners, devices"),
]


@given(trees, st.booleans(), st.sampled_from(["", "_copy", "_copied"]))
@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
def test_an_empty_volume_becomes_what_the_image_has_also_after_a_crash(
    wanted: Node, mounted: bool, left: str
) -> None:
    """`left`: how far a copy came before it was killed. `mounted`: the copy lies within the volume."""
    with place() as base:
        (base / "rootfs").mkdir()
        make(base / "rootfs/data", wanted, [])
        data = base / "volume/_data"
        data.mkdir(parents=True)
        before = tree(base / "rootfs/data")
        aside = (data / f".stead{left}" if mounted else data.parent / left) if left else None
        if left == "_copy" and aside is not None:
            aside.mkdir()
            (aside / "half").touch()
        elif aside is not None:
            copy_tree(base / "rootfs/data", aside, os.lstat(base / "rootfs/data"))
            first = next(iter(sorted(os.listdir(aside))), None)
            if first is not None:  # one entry was moved already, and the directory's time is lost
                status = os.lstat(aside)
                os.rename(aside / first, data / first)
                os.utime(aside, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert fill(data, base / "rootfs", "/data", mounted=mounted)
        assert tree(data) == before
        assert os.listdir(data.parent) == ["_data"]
        assert fill(data, base / "rootfs", "/data", mounted=mounted), "and once more nothing"
        assert tree(data) == before


def test_holes_stay_holes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with (source / "sparse").open("wb") as file:
        file.seek(8 << 20)
        file.write(b"middle")
        file.truncate(16 << 20)
    (source / "empty").touch()
    copy_tree(source, tmp_path / "to", os.lstat(source))
    copied = tmp_path / "to/sparse"
    assert copied.read_bytes() == (source / "sparse").read_bytes()
    assert copied.stat().st_blocks * 512 < 1 << 20
