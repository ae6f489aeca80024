"""Volumes, binds and tmpfs on a real file system, as root."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.database import Database
from runtime.faults import Fault
from runtime.paths import Paths
from runtime.volumes import VOLUMES_SCHEMA, Volumes
from runtime.volumes.mounting import Mounting, User
from runtime.wishes import ContainerRequest, VolumeRequest
from specs.values import ImageRef, MountPoint
from tests.at_once import at_once
from tests.kernel.engine_box import engine

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for owners")]


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = Paths(tmp_path / "root", tmp_path / "run")
    paths.make()
    return paths


@pytest.fixture
def volumes(paths: Paths) -> Iterator[Volumes]:
    database = Database(paths.database, (VOLUMES_SCHEMA,))
    yield Volumes(paths, database)
    database.close()


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    data = tmp_path / "rootfs" / "var" / "data"
    (data / "deep").mkdir(parents=True)
    (data / "file").write_text("content")
    (data / "program").write_text("#!")
    os.chown(data / "program", 12, 34)
    os.chmod(data / "program", 0o4755)
    os.link(data / "file", data / "deep" / "same")
    os.symlink("/etc/passwd", data / "link")
    os.mkfifo(data / "pipe")
    os.setxattr(data / "file", "user.mark", b"x")
    os.utime(data / "file", ns=(1_000_000_000, 2_000_000_000))
    os.chown(data, 99, 98)
    os.chmod(data, 0o1770)
    os.symlink("var", tmp_path / "rootfs" / "alias")
    os.symlink("/../../../../../../etc", tmp_path / "rootfs" / "escape")
    return tmp_path / "rootfs"


def request(*mounts: MountPoint) -> ContainerRequest:
    return ContainerRequest("p/c", "test", "", "", "", ImageRef.parse("busybox"), mounts=mounts)


def create(volumes: Volumes, name: str = "p/data") -> Path:
    volumes.create(VolumeRequest(name, "test", "f"))
    (found,) = [volume for volume in volumes.list() if volume.name == name]
    return found.path


def prepare(volumes: Volumes, rootfs: Path, *mounts: MountPoint) -> list[dict[str, Any]]:
    """What the mounts of container `c` become, which runs on no image."""
    return Mounting(volumes.paths, volumes, None).prepare(User("c", request(*mounts), rootfs), {})


def use(volumes: Volumes, rootfs: Path, **fields: Any) -> dict[str, Any]:
    (mount,) = prepare(volumes, rootfs, MountPoint("volume", "p/data", **fields))
    return mount


def test_an_empty_volume_gets_the_images_content_with_owners_modes_and_links(
    volumes: Volumes, rootfs: Path
) -> None:
    path = create(volumes)
    inode = path.stat().st_ino
    assert use(volumes, rootfs, target="/var/data") == {
        "destination": "/var/data",
        "type": "bind",
        "source": str(path),
        "options": ["rbind", "rprivate", "rw"],
    }
    assert path.stat().st_ino == inode
    assert (path.stat().st_uid, path.stat().st_gid) == (99, 98)
    assert stat.S_IMODE(path.stat().st_mode) == 0o1770
    assert (path / "file").read_text() == "content"
    assert (path / "file").stat().st_mtime_ns == 2_000_000_000
    assert os.getxattr(path / "file", "user.mark") == b"x"
    assert (path / "file").stat().st_ino == (path / "deep" / "same").stat().st_ino
    program = (path / "program").stat()
    assert (program.st_uid, program.st_gid, stat.S_IMODE(program.st_mode)) == (12, 34, 0o4755)
    assert os.readlink(path / "link") == "/etc/passwd"
    assert stat.S_ISFIFO((path / "pipe").lstat().st_mode)
    assert sorted(os.listdir(path.parent)) == ["_data"]


def test_content_is_copied_once(volumes: Volumes, rootfs: Path) -> None:
    path = create(volumes)
    use(volumes, rootfs, target="/var/data")
    for entry in ("file", "program", "link", "pipe", "deep/same"):
        (path / entry).unlink()
    (path / "deep").rmdir()
    use(volumes, rootfs, target="/var/data")
    assert os.listdir(path) == []


def test_a_volume_with_content_and_nocopy_are_left_alone(volumes: Volumes, rootfs: Path) -> None:
    path = create(volumes)
    use(volumes, rootfs, target="/var/data", nocopy=True)
    assert os.listdir(path) == []
    (path / "mine").touch()
    use(volumes, rootfs, target="/var/data")
    assert os.listdir(path) == ["mine"]


def test_the_path_in_the_image_may_go_through_its_own_links_only(volumes: Volumes, rootfs: Path) -> None:
    path = create(volumes)
    use(volumes, rootfs, target="/escape")
    assert os.listdir(path) == []
    use(volumes, rootfs, target="/alias/data")
    assert (path / "file").exists()


def test_a_copy_that_was_cut_off_is_begun_again_or_finished(volumes: Volumes, rootfs: Path) -> None:
    path = create(volumes)
    (path.parent / "_copy").mkdir()
    (path.parent / "_copy" / "half").touch()
    use(volumes, rootfs, target="/var/data")
    assert (path / "file").exists() and not (path / "half").exists()

    volumes.remove("p/data")
    path = create(volumes)
    copied = path.parent / "_copied"
    copied.mkdir(mode=0o750)
    (copied / "late").touch()
    (path / "early").touch()
    use(volumes, rootfs, target="/var/data")
    assert sorted(os.listdir(path)) == ["early", "late"]
    assert not copied.exists() and stat.S_IMODE(path.stat().st_mode) == 0o750


def test_a_disk_that_gets_full_while_copying_is_said_and_gets_its_room_back(
    rootfs: Path, tmp_path: Path
) -> None:
    (rootfs / "var/data/big").write_bytes(os.urandom(3_000_000))
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)], check=True)
    try:
        paths = Paths(place / "root", place / "run")
        paths.make()
        database = Database(paths.database, (VOLUMES_SCHEMA,))
        volumes = Volumes(paths, database)
        path = create(volumes)
        with pytest.raises(Fault) as caught:
            use(volumes, rootfs, target="/var/data")
        assert caught.value.code == "disk-full"
        assert os.listdir(path) == [] and os.listdir(path.parent) == ["_data"]
        (rootfs / "var/data/big").unlink()
        use(volumes, rootfs, target="/var/data")
        assert (path / "file").read_text() == "content"
        database.close()
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_capabilities_devices_and_odd_files_are_copied_and_sockets_are_not(
    volumes: Volumes, rootfs: Path
) -> None:
    data, capability = rootfs / "var/data", bytes.fromhex("0100000200200000000000000000000000000000")
    os.chown(data / "file", 5, 6)
    os.setxattr(data / "file", "security.capability", capability)
    os.mknod(data / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.symlink("nowhere", data / "broken")
    os.lchown(data / "broken", 7, 8)
    os.mknod(data / "socket", 0o600 | stat.S_IFSOCK)
    (data / "empty").mkdir(mode=0o2750)
    path = create(volumes)
    use(volumes, rootfs, target="/var/data")
    assert os.getxattr(path / "file", "security.capability") == capability
    assert (path / "null").stat().st_rdev == os.makedev(1, 3)
    assert (path / "broken").lstat().st_uid == 7 and os.readlink(path / "broken") == "nowhere"
    assert stat.S_IMODE((path / "empty").stat().st_mode) == stat.S_IMODE((data / "empty").stat().st_mode)
    assert not (path / "socket").exists()


def test_first_use_by_many_at_once_copies_once(volumes: Volumes, rootfs: Path) -> None:
    path = create(volumes)
    assert at_once(8, lambda: use(volumes, rootfs, target="/var/data")) == []
    assert sorted(os.listdir(path)) == ["deep", "file", "link", "pipe", "program"]


def test_a_missing_bind_source_is_a_fault_and_the_short_form_makes_it(
    volumes: Volumes, rootfs: Path, tmp_path: Path
) -> None:
    source = tmp_path / "not" / "there"
    with pytest.raises(Fault) as caught:
        prepare(volumes, rootfs, MountPoint("bind", str(source), "/mnt"))
    assert caught.value.code == "mount-source-missing" and not source.exists()
    short = MountPoint("bind", str(source), "/mnt", read_only=True, create_source=True)
    (mount,) = prepare(volumes, rootfs, short)
    assert source.is_dir()
    assert mount["options"] == ["rbind", "rprivate", "rro"]


def test_tmpfs_has_size_and_mode(volumes: Volumes, rootfs: Path) -> None:
    (mount,) = prepare(volumes, rootfs, MountPoint("tmpfs", "", "/tmp", tmpfs_size=4096))
    assert mount["type"] == "tmpfs"
    assert {"mode=1777", "size=4096", "nosuid", "nodev"} <= set(mount["options"])


def test_a_volume_in_use_stays_and_removal_may_be_repeated(volumes: Volumes, paths: Paths) -> None:
    path = create(volumes)
    with pytest.raises(Fault) as caught:
        volumes.remove("p/data", ("p/c",))
    assert caught.value.code == "volume-in-use" and path.exists()
    volumes.remove("p/data")
    volumes.remove("p/data")
    assert os.listdir(paths.volumes) == [] and volumes.list() == []


def test_an_unknown_volume_and_a_bad_name_are_faults(volumes: Volumes, rootfs: Path) -> None:
    with pytest.raises(Fault) as caught:
        use(volumes, rootfs, target="/var/data")
    assert caught.value.code == "volume-not-found"
    for name in ("../x", "p/../x", "p/_data", "a/b/c", ""):
        with pytest.raises(Fault) as caught:
            volumes.create(VolumeRequest(name, "test", "f"))
        assert caught.value.code == "request-invalid"


# ---------------------------------------------------------------- in containers


def test_a_volume_goes_from_container_to_container_with_what_is_nested_in_it(tmp_path: Path) -> None:
    with engine(tmp_path) as machine:
        machine.runtime.create_volume(VolumeRequest("t/data", "t", "f"))
        (tmp_path / "one-file").write_text("a file of the host")
        mounts = (
            MountPoint("bind", str(tmp_path / "one-file"), "/home/web/deep/er/file", read_only=True),
            MountPoint("tmpfs", "", "/home/web/fast", tmpfs_size=65536, tmpfs_mode=0o750),
            MountPoint("volume", "t/data", "/home"),
        )
        script = (
            "stat -c '%u:%g' /home/web; cat /home/web/deep/er/file; echo; stat -c %a /home/web/fast;"
            " df -k /home/web/fast | tail -n 1 | { read a size c; echo $size; };"
            " touch /home/web/deep/er/file; echo kept >/home/web/kept; touch /home/web/fast/lost"
        )
        lines = machine.run(script, mounts=mounts).lines
        assert lines == ["1000:1000", "a file of the host", "750", "64"]
        name = machine.start("sleep 1000", mounts=(MountPoint("volume", "t/data", "/mnt", read_only=True),))
        found = machine.exec(name, "cat /mnt/web/kept; ls -A /mnt/web/fast; touch /mnt/web/new")
        assert (found.text, found.code) == ("kept\n", 1) and "Read-only" in found.errors
        with pytest.raises(Fault, match=f"used by {name}") as caught:
            machine.runtime.remove_volume("t/data")
        assert caught.value.code == "volume-in-use"
        machine.runtime.remove_container(name)
        (volume,) = machine.runtime.volumes.list()
        assert (volume.path / "web/kept").read_text() == "kept\n", "it stays when its containers go"
        machine.runtime.remove_volume("t/data")
        assert not volume.path.exists()


def test_a_link_in_a_volume_does_not_lead_a_mount_out_of_the_root(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    with engine(tmp_path) as machine:
        machine.runtime.create_volume(VolumeRequest("t/evil", "t", "f"))
        evil = MountPoint("volume", "t/evil", "/evil")
        machine.run(f"ln -s {victim} /evil/far; ln -s /../../../../..{victim} /evil/up", mounts=(evil,))
        for target in ("/evil/far/in", "/evil/up/in"):
            mounts = (evil, MountPoint("tmpfs", "", target))
            lines = machine.run("grep -c 'victim/in tmpfs' /proc/mounts", mounts=mounts).lines
            assert lines == ["1"], "it is followed within the root"
        assert os.listdir(victim) == []
