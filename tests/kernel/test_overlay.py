"""Overlay mounts of many layers with long and odd names, by both ways into the kernel. Needs root."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.linux import mounts, overlay

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

WAYS = pytest.mark.parametrize("legacy", [False, True], ids=["one-by-one", "by-number"])
LONG = "a-long-name-of-a-directory" * 8  # 208 bytes; a page holds 19 such paths


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "target"
    path.mkdir()
    yield path
    mounts.unmount(path)
    assert not mounts.is_mounted(path)


def layers(base: Path, count: int) -> list[Path]:
    """Layer n holds the file n, and its number in `same`."""
    made = []
    for number in range(count):
        layer = base / f"{LONG}-{number}"
        layer.mkdir(parents=True)
        (layer / str(number)).touch()
        (layer / "same").write_text(str(number))
        made.append(layer)
    return made


def writable(base: Path) -> tuple[Path, Path]:
    for name in ("upper", "work"):
        (base / name).mkdir()
    return base / "upper", base / "work"


@WAYS
def test_130_layers_with_long_paths_are_seen_as_one(tmp_path: Path, target: Path, legacy: bool) -> None:
    below = layers(tmp_path / LONG, 130)
    upper, work = writable(tmp_path)
    before = set(os.listdir("/proc/self/fd"))
    overlay.mount(list(reversed(below)), upper, work, target, legacy=legacy)
    assert set(os.listdir("/proc/self/fd")) == before
    assert sorted(os.listdir(target)) == sorted([*map(str, range(130)), "same"])
    assert (target / "same").read_text() == "129"
    (target / "same").write_text("mine")
    (target / "7").unlink()
    assert (upper / "same").read_text() == "mine"
    assert (below[-1] / "same").read_text() == "129"
    assert not (target / "7").exists()
    assert (below[7] / "7").exists()


@WAYS
def test_the_kernels_own_limit_of_layers_is_reached(tmp_path: Path, target: Path, legacy: bool) -> None:
    below = layers(tmp_path, overlay.MAX_LAYERS)
    overlay.mount(below, None, None, target, legacy=legacy)
    assert len(os.listdir(target)) == overlay.MAX_LAYERS + 1
    with pytest.raises(OSError, match="more than 500 layers") as caught:
        overlay.mount([*below, below[0]], None, None, target, legacy=legacy)
    assert caught.value.errno == errno.E2BIG


@WAYS
def test_names_that_overlay_would_split_or_unescape_are_taken_as_they_are(
    tmp_path: Path, target: Path, legacy: bool
) -> None:
    below = []
    for name in ("a:b", "a,b", "a\\b", "a b", "ä=1", "x,lowerdir=y"):
        below.append(tmp_path / name)
        below[-1].mkdir()
        (below[-1] / f"in {name}").touch()
    place = tmp_path / "odd,upper:dir\\"
    place.mkdir()
    upper, work = writable(place)
    overlay.mount(below, upper, work, target, legacy=legacy)
    assert len(os.listdir(target)) == len(below)
    (target / "new").touch()
    assert (upper / "new").exists()


def test_one_layer_without_a_writable_one_is_read_only(tmp_path: Path, target: Path) -> None:
    (below,) = layers(tmp_path, 1)
    overlay.mount([below], None, None, target)
    assert (target / "same").read_text() == "0"
    with pytest.raises(OSError) as caught:
        (target / "x").touch()
    assert caught.value.errno == errno.EROFS


def test_what_the_kernel_refuses_is_told_with_its_reason(tmp_path: Path, target: Path) -> None:
    (below,) = layers(tmp_path, 1)
    upper, _ = writable(tmp_path)
    with pytest.raises(OSError, match=r"workdir=.*missing"):
        overlay.mount([below], upper, tmp_path / "missing", target)
    with pytest.raises(OSError) as caught:
        overlay.mount([below], upper, upper, target)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(ValueError, match="upper and work together"):
        overlay.mount([below], upper, None, target)
    with pytest.raises(ValueError, match="needs a lower layer"):
        overlay.mount([], upper, None, target)


@WAYS
def test_what_is_for_nothing_that_lasts_is_mounted_so_and_may_be_mounted_again(
    tmp_path: Path, target: Path, legacy: bool
) -> None:
    below = layers(tmp_path, 2)
    upper, work = writable(tmp_path)
    for volatile in (True, True, False):  # the kernel refuses a directory that was mounted so before
        overlay.mount(below, upper, work, target, volatile=volatile, legacy=legacy)
        (found,) = [mount for mount in mounts.table() if mount.target == str(target)]
        assert any(word in found.super_options for word in ("volatile", "fsync=volatile")) == volatile
        with (target / "new").open("a") as file:
            file.write("word ")
            os.fsync(file.fileno())
        mounts.unmount(target)
    assert (upper / "new").read_text() == "word word word "
