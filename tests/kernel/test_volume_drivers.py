"""What a volume lies on: mounts, files with a file system, quotas; from its first use to its last. As
root."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from runtime.faults import Fault
from runtime.linux import mounts, quota
from runtime.volumes import Volume
from runtime.wishes import VolumeRequest
from specs.values import MountPoint
from tests.kernel.engine_box import Engine, engine
from tests.kernel.shim_box import until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

TMPFS = {"type": "tmpfs", "o": "size=1m,mode=750"}
#: A container that stays, with the volume t/data at /home, where the image has the directory web.
HOME = (MountPoint("volume", "t/data", "/home"),)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("drivers")) as made:
        yield made


@pytest.fixture
def machine(shared: Engine) -> Iterator[Engine]:
    """Nothing of a test stays: no container, volume or mount."""
    yield shared
    for name in shared.runtime.observe().containers:
        shared.runtime.remove_container(name)
    for volume in shared.runtime.volumes.list():
        shared.runtime.remove_volume(volume.name)
    assert mounted(shared) == [] and not (shared.paths.volumes / "t").exists()
    held = shared.paths.run / "volumes"
    assert not held.exists() or os.listdir(held) == []


def mounted(machine: Engine) -> list[str]:
    """Mounts below the volumes' directory."""
    return [mount.target for mount in mounts.table() if str(machine.paths.volumes) in mount.target]


def volume(machine: Engine, options: Mapping[str, str], name: str = "t/data") -> Volume:
    machine.runtime.create_volume(VolumeRequest(name, "t", "f", options=options))
    found = machine.runtime.volumes.get(name)
    assert found is not None
    return found


def refusal(machine: Engine, options: Mapping[str, str], code: str = "volume-refused") -> str:
    with pytest.raises(Fault) as caught:
        volume(machine, options)
    assert caught.value.code == code
    assert machine.runtime.volumes.list() == [], "what is refused is not there"
    return str(caught.value)


def test_a_tmpfs_is_mounted_at_the_first_use_and_unmounted_after_the_last(machine: Engine) -> None:
    data = volume(machine, TMPFS)
    assert mounted(machine) == [], "it was only tried"
    one = machine.start("echo one >/home/one; echo done; sleep 1000", mounts=HOME)
    two = machine.start("sleep 1000", mounts=HOME)
    assert mounted(machine) == [str(data.path)]
    until(lambda: machine.output(one))
    script = "cat /home/one; stat -c %U /home/web; df -k /home | tail -n 1 | { read a size b; echo $size; }"
    assert machine.exec(two, script).text.split() == ["one", "web", "1024"], "with the image's content"
    machine.runtime.stop_container(one)
    assert mounted(machine) == [str(data.path)]
    machine.runtime.stop_container(two)
    assert mounted(machine) == []
    machine.runtime.start_container(two)
    assert machine.exec(two, "ls /home").text.split() == ["web"], "it is another one, filled again"


def test_the_kernels_own_reason_is_said(machine: Engine) -> None:
    assert "Unknown parameter 'sise'" in refusal(machine, {"type": "tmpfs", "o": "sise=1m"})
    assert "Bad value for 'size'" in refusal(machine, {"type": "tmpfs", "o": "size=much"})
    gone = refusal(machine, {"o": "bind", "type": "none", "device": "/nowhere/at/all"})
    assert "/nowhere/at/all does not exist" in gone
    assert "unknown option 'what'" in refusal(machine, {"what": "ever"}, "request-invalid")


def test_nfs_goes_through_mount_with_the_host_that_docker_has_in_o(machine: Engine) -> None:
    """The kernel has no NFS here, or no server answers: the call is made as mount(8) wants it, and
    refused."""
    options = {"type": "nfs", "o": "addr=127.0.0.1,vers=4,port=1,retry=0,timeo=1,soft", "device": ":/srv"}
    said = refusal(machine, options)
    assert "127.0.0.1:/srv" in said or "mount.nfs" in said or "unknown filesystem type 'nfs'" in said


def test_a_directory_of_the_host_is_bound_and_keeps_what_is_in_it(machine: Engine, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    data = volume(machine, {"type": "none", "o": "bind", "device": str(tmp_path / "disk")})
    machine.run("echo x >/home/x", mounts=HOME)
    assert sorted(os.listdir(tmp_path / "disk")) == ["web", "x"]
    assert (tmp_path / "disk/web").stat().st_uid == 1000
    (tmp_path / "disk/web").rmdir()
    assert machine.run("ls /home", mounts=HOME).lines == ["x"], "it is filled once"
    assert mounted(machine) == []
    machine.runtime.remove_volume("t/data")
    assert (tmp_path / "disk/x").exists() and not data.path.exists(), "the directory is not ours to delete"


LOOP = {"loop": "ext4", "size": "4m"}
needs_mkfs = pytest.mark.skipif(
    shutil.which("mkfs.ext4", path="/usr/sbin:/sbin") is None, reason="needs e2fsprogs"
)


@needs_mkfs
def test_a_file_with_a_file_system_limits_what_a_volume_takes(machine: Engine) -> None:
    data = volume(machine, LOOP)
    made = (data.home / "_image").stat()
    assert made.st_size == 4 << 20 and mounted(machine) == []
    fill = "dd if=/dev/zero of=/home/big bs=65536 count=100 2>&1 | head -n 1; ls /home"
    found = machine.run(fill, mounts=HOME).text
    assert "No space left" in found and "lost+found" not in found and "web" in found
    machine.run("rm /home/big; echo kept >/home/web/kept", mounts=HOME)
    assert machine.run("cat /home/web/kept", mounts=HOME).lines == ["kept"], "it is there after the last user"
    until(lambda: _loops(data.home) == "")  # no loop device stays; the kernel lets it go a moment later
    volume(machine, {**LOOP, "size": "8m"})
    assert machine.run(
        "df -k /home | tail -n 1 | { read a size b; [ $size -gt 5000 ] && cat /home/web/kept; }", mounts=HOME
    ).lines == ["kept"], "it grows, and keeps what is in it"
    machine.runtime.remove_volume("t/data")
    assert not data.home.exists()


def _loops(home: Path) -> str:
    return subprocess.run(["losetup", "-j", str(home / "_image")], capture_output=True, text=True).stdout


def test_a_quota_that_the_file_system_does_not_have_is_refused_and_says_what_would_do(
    machine: Engine,
) -> None:
    fd = quota.open_directory(machine.paths.volumes)
    try:
        quota.usage(fd, 1)
        pytest.skip("the temporary directory's file system has project quotas")
    except OSError:
        said = refusal(machine, {"size": "1m"})
        assert "no project quotas" in said and 'loop = "ext4"' in said
    finally:
        os.close(fd)


@needs_mkfs
def test_a_quota_limits_one_volume_and_not_the_next(tmp_path: Path) -> None:
    disk, place = tmp_path / "disk", tmp_path / "place"
    place.mkdir()
    disk.touch()
    os.truncate(disk, 96 << 20)
    make = ["mkfs.ext4", "-q", "-F", "-O", "quota,project", "-E", "quotatype=prjquota", str(disk)]
    subprocess.run(make, check=True)
    done = subprocess.run(
        ["mount", "-o", "loop,prjquota", str(disk), str(place)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"this kernel has no project quotas (CONFIG_QFMT_V2): {done.stderr.strip()}")
    try:
        with engine(place) as machine:
            data = volume(machine, {"size": "1m"})
            (data.path / "old").write_bytes(b"x" * 500_000)
            volume(machine, {}, "t/free")
            both = (*HOME, MountPoint("volume", "t/free", "/free"))
            write = (
                "for d in /home /free; do dd if=/dev/zero of=$d/big bs=65536 count=30 2>&1 | tail -n 1; done"
            )
            found = machine.run(f"{write}; stat -c %s /home/big /free/big", mounts=both, user="0").lines
            assert int(found[-2]) < 1 << 20 and int(found[-1]) == 30 * 65536
            volume(machine, {"size": "8m"})
            assert machine.run("dd if=/dev/zero of=/home/more bs=65536 count=30 2>/dev/null", mounts=HOME)
            assert (data.path / "more").stat().st_size == 30 * 65536, "it grew"
            machine.runtime.remove_volume("t/data")
            assert not data.home.exists()
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_two_containers_start_at_once_on_a_volume_that_nobody_uses_yet(machine: Engine) -> None:
    data = volume(machine, TMPFS)
    names = [machine.create("sleep 1000", mounts=HOME) for _ in range(4)]
    threads = [threading.Thread(target=machine.runtime.start_container, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mounted(machine) == [str(data.path)]
    machine.exec(names[0], "echo shared >/home/shared")
    assert [machine.exec(name, "cat /home/shared").text for name in names] == ["shared\n"] * 4


@needs_mkfs
def test_a_backup_has_what_lies_in_a_file_that_nobody_has_mounted(machine: Engine, tmp_path: Path) -> None:
    volume(machine, LOOP)
    machine.run("echo kept >/home/web/kept", mounts=HOME)
    made = machine.runtime.backups.backup("t/data", tmp_path, now=1e9)
    assert made.summary.entries >= 3 and mounted(machine) == []
    machine.runtime.backups.restore("t/copy", made.path)
    copy = machine.runtime.volumes.need("t/copy", "look at")
    assert (copy.path / "web/kept").read_text() == "kept\n"


# ---------------------------------------------------------------- drift and crashes


@pytest.mark.parametrize("options", [TMPFS, "bind"])
def test_a_mount_that_somebody_takes_away_is_brought_back_with_its_content(
    machine: Engine, tmp_path: Path, options: Any
) -> None:
    (tmp_path / "disk").mkdir()
    bound = {"type": "none", "o": "bind", "device": str(tmp_path / "disk")}
    data = volume(machine, bound if options == "bind" else options)
    name = machine.start("echo mine >/home/mine; echo done; sleep 1000", mounts=HOME)
    until(lambda: machine.output(name))
    pid = machine.state(name).pid
    subprocess.run(["umount", str(data.path)], check=True)
    (defect,) = machine.runtime.observe().containers[name].defects
    assert (defect.kind, defect.text, defect.restart) == ("volume", "volume t/data is not mounted", False)
    machine.runtime.repair_container(name)
    assert machine.runtime.observe().containers[name].defects == ()
    assert machine.state(name).pid == pid
    assert machine.run("cat /home/mine", mounts=HOME).lines == ["mine"], "another one has the same"


def test_what_a_killed_agent_left_mounted_is_found_and_goes(machine: Engine) -> None:
    data = volume(machine, TMPFS)
    holders = machine.paths.run / "volumes" / "t,data"
    holders.mkdir(parents=True)
    (holders / "0123").touch()  # a container that is not there any more
    subprocess.run(["mount", "-t", "tmpfs", "none", str(data.path)], check=True)
    assert machine.runtime.observe().leftovers == ("mount of volume t/data",)
    assert "mount of volume t/data" in machine.runtime.sweep()
    assert mounted(machine) == [] and machine.runtime.observe().leftovers == ()

    name = machine.create("sleep 1000", mounts=HOME)  # killed between its mount and its program
    id = machine.id(name)
    machine.paths.live(id).mkdir()
    machine.runtime.volumes.use("t/data", id, rootfs=machine.base / "image", target="/home", nocopy=False)
    assert mounted(machine) == [str(data.path)]
    machine.runtime.start_container(name)
    assert mounted(machine) == [str(data.path)]
    machine.runtime.remove_container(name)
    assert mounted(machine) == []


def test_a_removal_that_was_cut_off_is_finished(machine: Engine) -> None:
    removed = machine.paths.volumes / ".removed"
    (removed / "0123" / "_data").mkdir(parents=True)
    assert machine.runtime.observe().leftovers == ("removed volume 0123",)
    assert "removed volume 0123" in machine.runtime.sweep()
    assert not removed.exists() and machine.runtime.observe().leftovers == ()


def test_what_somebody_mounted_in_a_volume_is_not_deleted(machine: Engine, tmp_path: Path) -> None:
    data = volume(machine, {})
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").touch()
    (data.path / "disk").mkdir()
    subprocess.run(["mount", "--bind", str(tmp_path / "precious"), str(data.path / "disk")], check=True)
    try:
        with pytest.raises(Fault, match=f"something is mounted at {data.path}/disk"):
            machine.runtime.remove_volume("t/data")
        assert machine.runtime.volumes.get("t/data") is not None
    finally:
        subprocess.run(["umount", str(data.path / "disk")], check=True)
    machine.runtime.remove_volume("t/data")
    assert (tmp_path / "precious/file").exists()
