"""Where an image lacks a place that every container mounts something on, it is made once, over its layers."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest

from runtime import attend
from runtime.commit import CommitRequest, Writings
from runtime.images.points import DIRECTORIES, FILES, Points
from runtime.linux import cgroups, overlay
from specs.values import ImageRef
from tests.kernel.engine_box import Engine, bind, engine, rootfs
from tests.kernel.shim_box import until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: overlay mounts, owners"),
]

ALL = {os.fsdecode(path) for path in DIRECTORIES + FILES}


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("points")) as made:
        yield made


def layer(path: Path, *names: str) -> Path:
    """A layer with these directories (a slash at the end) and files."""
    path.mkdir(mode=0o755)
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).mkdir(exist_ok=True) if name.endswith("/") else (path / name).touch()
    return path


def over(points: Path, *layers: Path) -> dict[str, os.stat_result]:
    """What lies over the layers, by path."""
    lowers = Points(points).over(layers, nullcontext)
    assert lowers[: len(layers)] == list(layers)
    tops = lowers[len(layers) :]
    return {str(p.relative_to(top)): p.lstat() for top in tops for p in sorted(top.rglob("*"))}


def test_everything_that_is_missing_and_nothing_else(tmp_path: Path) -> None:
    assert set(over(tmp_path / "a", layer(tmp_path / "bare"))) == ALL
    some = layer(tmp_path / "some", "dev/", "etc/hosts", "etc/passwd")
    assert set(over(tmp_path / "a", some)) == {"proc", "sys", "etc", "etc/hostname", "etc/resolv.conf"}
    lower, upper = (
        layer(tmp_path / "lower", "dev/", "proc/"),
        layer(tmp_path / "upper", "sys/", *map(os.fsdecode, FILES)),
    )
    assert over(tmp_path / "a", lower, upper) == {}
    assert sorted(os.listdir(tmp_path / "a")) == ["bare", "some", "upper"]


def test_what_a_layer_took_away_is_missing(tmp_path: Path) -> None:
    lower, upper = (
        layer(tmp_path / "lower", *ALL - {"dev", "etc", "proc", "sys"}),
        layer(tmp_path / "upper", "etc/"),
    )
    os.mknod(upper / "etc" / "hosts", stat.S_IFCHR, 0)
    assert "etc/hosts" in over(tmp_path / "a", lower, upper)
    assert "etc/hostname" not in over(tmp_path / "a", lower, upper)


def test_a_directory_is_as_the_image_has_it(tmp_path: Path) -> None:
    image = layer(tmp_path / "image", "etc/")
    os.chown(image / "etc", 12, 34)
    os.chmod(image / "etc", 0o2751)
    os.setxattr(image / "etc", "user.mine", b"1")
    os.setxattr(image / "etc", "trusted.overlay.opaque", b"y")
    os.utime(image / "etc", ns=(5, 7))
    os.chmod(image, 0o711)
    found = over(tmp_path / "a", image)["etc"]
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12, 34, 0o2751)
    top = tmp_path / "a" / "image"
    assert os.listxattr(top / "etc") == ["user.mine"]
    assert stat.S_IMODE(top.stat().st_mode) == 0o711
    plain = over(tmp_path / "b", layer(tmp_path / "bare"))
    assert {name: stat.S_IMODE(status.st_mode) for name, status in plain.items()} == {
        name: 0o644 if "/" in name else 0o755 for name in ALL
    }


@pytest.mark.parametrize("link", ["usr/etc", "/usr/etc", "/nowhere", "../../../../etc"])
def test_links_are_left_to_the_container(tmp_path: Path, link: str) -> None:
    image = layer(tmp_path / "image", "usr/etc/")
    (image / "etc").symlink_to(link)
    (image / "dev").symlink_to(link)
    assert set(over(tmp_path / "a", image)) == {"proc", "sys"}
    assert os.listdir(image / "usr" / "etc") == []


def test_nothing_can_be_made_and_nothing_fails(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert over(tmp_path / "a", layer(tmp_path / "bare")) == {}
    many = [layer(tmp_path / f"{number}") for number in range(overlay.MAX_LAYERS)]
    assert over(tmp_path / "b", *many) == {}


def test_many_at_once_make_one(tmp_path: Path) -> None:
    image, points = layer(tmp_path / "image"), tmp_path / "a"
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: over(points, image).keys(), range(64)))
    assert all(set(one) == ALL for one in found)
    assert os.listdir(points) == ["image"]


def test_what_a_power_cut_left_goes_when_the_next_is_made(tmp_path: Path) -> None:
    (tmp_path / "a" / f".image.{os.getpid()}.tmp" / "dev").mkdir(parents=True)  # a number that is used again
    (tmp_path / "a" / ".image.tmp" / "etc").mkdir(parents=True)
    assert set(over(tmp_path / "a", layer(tmp_path / "image"))) == ALL
    assert os.listdir(tmp_path / "a") == ["image"]


def test_those_of_images_that_are_gone_go(tmp_path: Path) -> None:
    points = Points(tmp_path / "a")
    images = [layer(tmp_path / name) for name in ("one", "two")]
    for image in images:
        points.over([image], nullcontext)
    (tmp_path / "a" / ".two.1.tmp" / "dev").mkdir(parents=True)  # of a crash
    points.keep(["sha256:one"])
    assert os.listdir(tmp_path / "a") == ["one"]
    assert len(points.over([images[1]], nullcontext)) == 2


# ---------------------------------------------------------------- containers


def bare(box: Engine, base: Path, name: str) -> ImageRef:
    """An image of busybox without any of these places, and an /etc of its own kind."""
    root = rootfs(base / name)
    for place in ("dev", "proc", "sys"):
        shutil.rmtree(root / place, ignore_errors=True)
    for place in FILES:
        (root / os.fsdecode(place)).unlink(missing_ok=True)
    os.chown(root / "etc", 7, 8)
    os.chmod(root / "etc", 0o751)
    (root / name).touch()  # no other image has this layer
    ref = ImageRef.parse(f"tests/{name}:1")
    box.runtime.import_image(root, ref)
    return ref


def test_a_container_writes_nothing_for_what_is_mounted_in_it(box: Engine, tmp_path: Path) -> None:
    ref = bare(box, tmp_path, "nothing")
    name = box.start("stat -c '%u %g %a' /etc; cat /etc/hostname; mount; echo said; sleep 1000", image=ref)
    other = box.start("sleep 1000", image=ref)
    until(lambda: "said" in box.output(name))
    for one in (name, other):
        assert os.listdir(box.home(one) / "upper") == []
        box.runtime.stop_container(one)
    assert box.output(name).splitlines()[0] == "7 8 751"
    assert " on /etc/hosts type" in box.output(name) and " on /proc type" in box.output(name)
    writings = Writings(box.paths, box.runtime.images, cgroups.detect())
    record = attend.find(box.paths, name)
    assert list(writings.diff(record)) == []
    made = writings.commit(record, CommitRequest(created="2030-01-02T03:04:05Z"))
    chain = box.runtime.images.get(made).chain_ids  # type: ignore[union-attr]
    places = [place for one in chain for place in box.runtime.images.layers.path(one).rglob("*")]
    assert not {str(place) for place in places if place.name in ("hosts", "proc")}


def test_what_is_written_beside_such_a_place_is_the_containers(box: Engine, tmp_path: Path) -> None:
    ref = bare(box, tmp_path, "beside")
    name = box.start("echo x > /etc/mine; chmod 700 /etc; echo done; sleep 1000", image=ref)
    until(lambda: box.output(name))
    record = attend.find(box.paths, name)
    writings = Writings(box.paths, box.runtime.images, cgroups.detect())
    box.exec(name, "true")
    assert [str(change) for change in writings.diff(record)] == ["C /etc", "A /etc/mine"]


def test_a_place_that_somebody_deleted_is_made_again(box: Engine, tmp_path: Path) -> None:
    ref = bare(box, tmp_path, "deleted")
    assert box.run("true", image=ref).code == 0
    shutil.rmtree(box.paths.root / "points")
    assert box.run("test -s /etc/hosts && test -d /proc/self", image=ref).code == 0
    assert len(os.listdir(box.paths.root / "points")) == 1


def test_they_go_with_their_image(box: Engine, tmp_path: Path) -> None:
    ref = bare(box, tmp_path, "leaving")
    assert box.run("true", image=ref).code == 0
    top = box.runtime.images.get(str(ref)).chain_ids[-1]  # type: ignore[union-attr]
    place = box.paths.root / "points" / top.partition(":")[2]
    assert place.is_dir()
    box.runtime.images.remove(str(ref))
    assert not place.exists()


def test_a_container_with_ids_of_its_own_has_them_too(box: Engine, tmp_path: Path) -> None:
    ref = bare(box, tmp_path, "mapped")
    result = box.run(
        "stat -c '%u %g %a' /etc /proc; touch /etc/mine", image=ref, userns="auto", userns_size=65536
    )
    assert (result.code, result.lines[0]) == (0, "7 8 751"), result


def test_a_volume_of_the_host_may_lie_over_them(box: Engine, tmp_path: Path) -> None:
    ref = bare(box, tmp_path, "volume")
    mine = layer(tmp_path / "mine", "etc/only")
    result = box.run("ls /etc", image=ref, mounts=(bind(str(mine / "etc"), "/etc", read_only=False),))
    assert "only" in result.lines
