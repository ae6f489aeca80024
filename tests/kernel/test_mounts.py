"""A container's mounts: in its root only, in both directions, and gone with it. Needs root."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.faults import Fault
from runtime.linux import mounts, namespaces
from runtime.shim import entries
from specs.values import ImageRef, MountPoint
from tests.kernel.engine_box import Engine, bind, engine, rootfs
from tests.kernel.shim_box import until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("mounts")) as made:
        yield made


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host that is a mount of its own, shared as systemd makes all of them."""
    path = tmp_path / "place"
    path.mkdir()
    mounts.mount("tmpfs", path, "tmpfs")
    mounts.make_private(path, kind="shared")
    yield path
    for mount in reversed([item.target for item in mounts.table() if item.target.startswith(str(path))]):
        mounts.unmount(mount)


def mounted_in(pid: int) -> list[mounts.Mount]:
    return mounts.table(f"/proc/{pid}/mountinfo")


# ---------------------------------------------------------------- leaks


def test_mounts_leak_in_no_direction(box: Engine, place: Path) -> None:
    name = box.start(
        "mkdir -p /data/inside && mount -t tmpfs none /data/inside && touch /data/inside/x && sleep 1000",
        mounts=(bind(str(place), "/data", read_only=False),),
        cap_add=("SYS_ADMIN",),
    )
    pid = box.state(name).pid
    until(lambda: any(item.target == "/data/inside" for item in mounted_in(pid)))
    assert not mounts.is_mounted(place / "inside")
    (place / "outside").mkdir()
    mounts.mount("tmpfs", place / "outside", "tmpfs")
    assert not any(item.target == "/data/outside" for item in mounted_in(pid))
    box.runtime.remove_container(name)


@pytest.mark.parametrize("propagation", ["rslave", "rshared"])
def test_mounts_propagate_where_that_is_asked_for(box: Engine, place: Path, propagation: str) -> None:
    (place / "outside").mkdir()
    (place / "inside").mkdir()
    name = box.start(
        "mount -t tmpfs none /data/inside && sleep 1000",
        mounts=(bind(str(place), "/data", read_only=False, propagation=propagation),),
        cap_add=("SYS_ADMIN",),
    )
    pid = box.state(name).pid
    until(lambda: any(item.target == "/data/inside" for item in mounted_in(pid)))
    mounts.mount("tmpfs", place / "outside", "tmpfs")
    assert any(item.target == "/data/outside" for item in mounted_in(pid))
    assert mounts.is_mounted(place / "inside") is (propagation == "rshared")
    box.runtime.remove_container(name)
    assert mounts.is_mounted(place / "outside")


def test_propagation_of_a_private_mount_is_refused(box: Engine, place: Path) -> None:
    mounts.make_private(place, kind="private")
    with pytest.raises(Fault, match=rf"mount /data: it lies on {place}, a private mount of the host"):
        box.start("true", mounts=(bind(str(place), "/data", propagation="rslave"),))


def test_a_container_sees_no_mount_but_its_own(box: Engine, place: Path) -> None:
    first = box.start("sleep 1000")
    second = box.start("sleep 1000")
    seen = mounted_in(box.state(second).pid)
    assert {item.target for item in seen if item.target.count("/") == 1} == {"/", "/proc", "/dev", "/sys"}
    assert not any(box.id(first) in item.target + item.root for item in seen)
    assert all(not item.propagation for item in seen)
    mounts.unmount(place)  # no container holds it
    os.rmdir(place)
    for name in (first, second):
        box.runtime.remove_container(name)


def test_a_failed_start_leaves_no_mount(box: Engine, tmp_path: Path) -> None:
    with pytest.raises(Fault, match="mount /etc/passwd/x: openat2: not a directory"):
        box.start("true", mounts=(bind(str(tmp_path), "/etc/passwd/x"),))
    ours = (str(box.base), str(tmp_path), "/etc/")  # other tests on this machine mount elsewhere meanwhile
    assert [item.target for item in mounts.table() if item.target.startswith(ours)] == []


# ---------------------------------------------------------------- destinations


def test_no_link_of_the_image_leads_a_mount_out_of_the_root(box: Engine, tmp_path: Path) -> None:
    image, outside = rootfs(tmp_path / "image"), tmp_path / "outside"
    outside.mkdir()
    (image / "absolute").symlink_to(outside)
    (image / "relative").symlink_to("../" * 30 + str(outside).lstrip("/"))
    (image / "magic").symlink_to("/proc/1/root/tmp")
    reference = ImageRef.parse("tests/links:1")
    box.runtime.import_image(image, reference)
    for link in ("absolute", "relative"):
        target = (bind(str(tmp_path), f"/{link}/made"),)
        assert box.run("ls /absolute/", image=reference, mounts=target).lines == ["made"]
    assert list(outside.iterdir()) == []
    with pytest.raises(Fault, match="mount /magic/made: openat2: too many levels of symbolic links"):
        box.start("true", image=reference, mounts=(bind(str(tmp_path), "/magic/made"),))


def test_a_link_to_nothing_is_followed_and_its_target_made(box: Engine, tmp_path: Path) -> None:
    image = rootfs(tmp_path / "image")
    (image / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    (image / "var").symlink_to("/elsewhere/var")
    (image / "a").symlink_to("b")
    (image / "b").symlink_to("a")
    reference = ImageRef.parse("tests/dangling:1")
    box.runtime.import_image(image, reference)
    content = (bind(str(tmp_path), "/var/data"),)
    script = (
        "grep -c . /etc/resolv.conf >/dev/null && echo yes; ls /elsewhere/var/data; ls /run/systemd/resolve"
    )
    lines = box.run(script, image=reference, mounts=content, dns=("192.0.2.1",)).lines
    assert lines == ["yes", "image", "stub-resolv.conf"]
    with pytest.raises(Fault, match="mount /a/x: openat2: too many levels of symbolic links"):
        box.start("true", image=reference, mounts=(bind(str(tmp_path), "/a/x"),))


def test_mounts_lie_in_each_other_whatever_their_order(box: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("one\n")
    given = (
        bind(str(tmp_path / "file"), "/scratch/deep/file"),
        MountPoint("tmpfs", "", "/scratch", tmpfs_size=1 << 20, tmpfs_mode=0o700),
        bind(str(tmp_path), "/scratch/deep/directory"),
    )
    script = (
        "cat /scratch/deep/file /scratch/deep/directory/file; stat -c %a /scratch; df -k /scratch | tail -n 1"
    )
    lines = box.run(script, mounts=given).lines
    assert lines[:3] == ["one", "one", "700"]
    assert lines[3].split()[1] == "1024"


def test_a_read_only_bind_holds_for_mounts_below_it(box: Engine, place: Path) -> None:
    (place / "below").mkdir()
    mounts.mount("tmpfs", place / "below", "tmpfs")
    result = box.run("touch /data/x /data/below/x", mounts=(bind(str(place), "/data"),))
    assert result.errors.count("Read-only file system") == 2
    assert not os.statvfs(place).f_flag & os.ST_RDONLY


# ---------------------------------------------------------------- the calls themselves


def test_a_refused_option_is_named_with_the_kernels_words() -> None:
    with pytest.raises(OSError, match=r"mount tmpfs: .*nonsense"):
        mounts.new_filesystem("tmpfs", (("nonsense", "1"),))


def test_what_mount_refuses_is_told_in_the_kernels_words(place: Path) -> None:
    root = os.open(place, os.O_PATH | os.O_DIRECTORY)
    with pytest.raises(OSError, match="tmpfs: Unknown parameter 'nosuch'"):
        entries.mount(root, {"destination": "/", "type": "tmpfs", "options": ["mode=755", "nosuch=1"]})
    os.close(root)


def test_a_mount_is_told_from_a_directory(place: Path) -> None:
    (place / "plain").mkdir()
    assert mounts.is_mounted(place)
    assert not mounts.is_mounted(place / "plain")
    assert not mounts.is_mounted(place / "missing")
    mounts.unmount(place / "plain")
    mounts.unmount(place)
    mounts.unmount(place)
    assert not mounts.is_mounted(place)


def test_odd_names_are_read_from_the_mount_table(place: Path) -> None:
    odd = place / "a b\tc\\d#e\nf"
    odd.mkdir()
    mounts.mount("tmpfs", odd, "tmpfs")
    assert str(odd) in [item.target for item in mounts.table()]


def test_a_network_namespace_is_made_once_and_this_thread_stays_in_its_own(tmp_path: Path) -> None:
    path, own = tmp_path / "netns", os.readlink("/proc/thread-self/ns/net")
    namespaces.create_netns(path)
    inode = os.stat(path).st_ino
    namespaces.create_netns(path)
    assert os.stat(path).st_ino == inode
    assert namespaces.is_netns(path)
    found: list[str] = []

    def look() -> None:
        with namespaces.in_netns(path):
            found.append(os.readlink("/proc/thread-self/ns/net"))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [f"net:[{inode}]"]
    assert os.readlink("/proc/thread-self/ns/net") == own
    namespaces.delete_netns(path)
    namespaces.delete_netns(path)
    assert not path.exists()
