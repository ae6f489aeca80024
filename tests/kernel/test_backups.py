"""Backups and restores of volumes that containers use: freezing, stopping, refusing, damage. Needs root."""

from __future__ import annotations

import io
import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import attend
from runtime.backups import holds, target
from runtime.backups.backups import Made
from runtime.backups.holds import Holds
from runtime.faults import Fault
from runtime.images.decompress import decompressed
from runtime.linux import cgroups
from runtime.prepare import cgroup_path
from runtime.wishes import ProbeRequest, VolumeRequest
from specs.values import Keep, MountPoint
from tests.kernel.engine_box import Engine, engine
from tests.kernel.images_box import tree
from tests.kernel.shim_box import until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

MOUNT = (MountPoint("volume", "t/data", "/data"),)
COUNT = "i=0; while true; do i=$((i+1)); echo $i > /data/count; echo $i > /data/also; done"


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("backups")) as made:
        yield made


@pytest.fixture
def data(box: Engine) -> Iterator[Path]:
    box.runtime.create_volume(VolumeRequest("t/data", "test", "f"))
    found = box.runtime.volumes.get("t/data")
    assert found is not None
    yield found.path
    for record in attend.read_all(box.paths):
        box.runtime.remove_container(record.name)
    for volume in box.runtime.volumes.list():
        box.runtime.remove_volume(volume.name)
    assert box.runtime.backups.leftovers() == set()


def backup(
    box: Engine, into: Path, volume: str = "t/data", *, now: float = 1.7e9, quiesce: str = "freeze"
) -> Made:
    return box.runtime.backups.backup(volume, into, now=now, quiesce=quiesce)


def path_of(box: Engine, volume: str) -> Path:
    found = box.runtime.volumes.get(volume)
    assert found is not None
    return found.path


def acl(user: int) -> bytes:
    """system.posix_acl_access: u::rw-,u:USER:r--,g::r--,m::r--,o::--- (acl(5), posix_acl_xattr.h)"""
    nothing = 0xFFFFFFFF
    entries = [(1, 6, nothing), (2, 4, user), (4, 4, nothing), (16, 4, nothing), (32, 0, nothing)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def test_all_that_a_file_system_keeps_comes_back(box: Engine, data: Path, tmp_path: Path) -> None:
    (data / ".wh.name").write_text("a name that layers have a meaning for")
    (data / "whiteout").parent.mkdir(exist_ok=True)
    os.mknod(data / "whiteout", stat.S_IFCHR | 0o600, os.makedev(0, 0))
    (data / "layered").mkdir()
    os.setxattr(data / "layered", "trusted.overlay.opaque", b"y")
    (data / "shared").write_text("x")
    os.setxattr(data / "shared", "system.posix_acl_access", acl(1234))
    with (data / "holes").open("wb") as file:
        for offset in (3 << 20, 20 << 20):
            os.pwrite(file.fileno(), b"data" * 2000, offset)
        file.truncate(40 << 20)
    (data / "empty-holes").touch()
    os.truncate(data / "empty-holes", 50 << 20)
    before, used = tree(data), (data / "holes").stat().st_blocks
    made = backup(box, tmp_path)
    assert made.bytes < 100_000
    box.runtime.backups.restore("t/again", made.path)
    again = path_of(box, "t/again")
    assert tree(again) == before
    assert (again / "holes").stat().st_blocks == used
    assert os.getxattr(again / "layered", "trusted.overlay.opaque") == b"y"
    assert os.getxattr(again / "shared", "system.posix_acl_access") == acl(1234)
    with made.path.open("rb") as file:
        plain = io.BytesIO(b"".join(decompressed(file)))  # which passes over what is behind the archive
    with tarfile.open(fileobj=plain) as archive:
        member = archive.extractfile("holes")
        assert member is not None and member.read() == (data / "holes").read_bytes()
        assert len(archive.getmembers()) == len(before)


@pytest.mark.skipif(shutil.which("zstd") is None, reason="needs zstd(1)")
def test_tar_takes_a_backup_as_it_is(box: Engine, data: Path, tmp_path: Path) -> None:
    (data / "file").write_text("content")
    made, out = backup(box, tmp_path), tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "--zstd", "-xf", str(made.path), "-C", str(out)], check=True)
    assert (out / "file").read_text() == "content"


def test_frozen_writers_are_read_at_one_moment_and_go_on(box: Engine, data: Path, tmp_path: Path) -> None:
    name = box.start(COUNT, mounts=MOUNT)
    until((data / "also").exists)
    (data / "more").write_bytes(os.urandom(3_000_000))  # between the two in the archive
    made = backup(box, tmp_path)
    assert made.summary.users == (name,)
    box.runtime.backups.restore("t/again", made.path)
    count, also = ((path_of(box, "t/again") / item).read_text() for item in ("count", "also"))
    assert "" in (count, also) or int(count) - int(also) in (0, 1)
    before = (data / "count").stat().st_mtime_ns
    until(lambda: (data / "count").stat().st_mtime_ns != before)
    assert box.runtime.backups.drill("t/data", tmp_path).path == made.path


def test_a_frozen_container_is_not_found_ill(box: Engine, data: Path) -> None:
    probe = ProbeRequest(shell="true", interval=0.05, timeout=1.5, retries=1)
    name = box.start("sleep 1000", mounts=MOUNT, probe=probe, stop_signal="SIGKILL")
    record = attend.find(box.paths, name)

    def health() -> str:
        state = attend.live_state(box.paths, record)
        assert state is not None and state.restarts == 0
        return state.health

    until(lambda: health() == "healthy")
    groups, path = cgroups.detect(), cgroup_path(record.id)
    groups.freeze(path)
    try:
        for _ in range(40):
            time.sleep(0.05)  # longer than a probe would take to fail
            assert health() == "healthy"
    finally:
        groups.thaw(path)
    state = attend.live_state(box.paths, record)
    assert state is not None
    seen = state.health_log[-1].started_at if state.health_log else 0.0
    until(lambda: attend.live_state(box.paths, record).health_log[-1].started_at > seen)  # type: ignore[union-attr]
    assert health() == "healthy"


def test_stopped_writers_end_before_and_are_started_after(box: Engine, data: Path, tmp_path: Path) -> None:
    script = (
        "trap 'echo ended > /data/state; exit' TERM; echo runs > /data/state; while true; do sleep 0.1; done"
    )
    name = box.start(script, mounts=MOUNT, stop_grace_period=20.0)
    reader = box.start("sleep 1000", mounts=(MountPoint("volume", "t/data", "/data", read_only=True),))
    until((data / "state").exists)
    box_id = attend.find(box.paths, reader)
    was = attend.live_state(box.paths, box_id)
    made = backup(box, tmp_path, quiesce="stop")
    assert made.summary.users == (name,)
    box.runtime.backups.restore("t/again", made.path)
    assert (path_of(box, "t/again") / "state").read_text() == "ended\n"
    until(lambda: (data / "state").read_text() == "runs\n")
    assert attend.live_state(box.paths, box_id) == was
    assert box.runtime.backups.backup("t/data", tmp_path, now=1, quiesce="none").summary.users == ()


CUT = """
import sys
from pathlib import Path
from runtime.local import LocalRuntime
from runtime.paths import Paths
from runtime.backups import backups
paths = Paths(Path(sys.argv[1]), Path(sys.argv[2]))
runtime = LocalRuntime(paths)
def wait(*_words):
    print("held", flush=True)
    sys.stdin.read()
runtime.backups._write = wait
runtime.backups.backup("t/data", Path(sys.argv[3]), now=1.0, quiesce=sys.argv[4])
"""


@pytest.mark.parametrize("quiesce", ["freeze", "stop"])
def test_users_run_again_when_who_backs_up_is_killed(
    box: Engine, data: Path, tmp_path: Path, quiesce: str
) -> None:
    name = box.start(COUNT, mounts=MOUNT)
    until((data / "also").exists)
    words = [sys.executable, "-c", CUT, str(box.paths.root), str(box.paths.run), str(tmp_path), quiesce]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        assert list(box.runtime.observe().volumes) == ["t/data"]
        with pytest.raises(Fault, match=r"being backed up by process \d+") as caught:
            backup(box, tmp_path)
        assert caught.value.code == "volume-in-use"
        with pytest.raises(Fault, match="volume t/data is being backed up by process"):
            box.start("true", mounts=MOUNT)
        stopped = (data / "count").stat().st_mtime_ns
        process.send_signal(signal.SIGKILL)
    until(lambda: (data / "count").stat().st_mtime_ns != stopped)
    found, path = cgroups.detect(), cgroup_path(box.id(name))
    assert not found.v2 or not found.v2.is_frozen(path)
    assert [item for item in os.listdir(tmp_path) if item.endswith(".tar.zst")] == []
    backup(box, tmp_path)
    assert len(os.listdir(tmp_path)) == 1


def test_containers_may_be_started_beside_a_backup_that_holds_nobody_still(
    box: Engine, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [sys.executable, "-c", CUT, str(box.paths.root), str(box.paths.run), str(tmp_path), "none"]
    monkeypatch.setattr(holds, "STARTS", 0.1)
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        box.run("echo x > /data/file", mounts=MOUNT)
        for refused in (
            lambda: backup(box, tmp_path),
            lambda: backup(box, tmp_path, quiesce="none"),
            lambda: box.runtime.volumes.remove("t/data"),
        ):
            with pytest.raises(Fault) as caught:
                refused()
            assert caught.value.code == "volume-in-use"
        process.send_signal(signal.SIGKILL)
    backup(box, tmp_path, quiesce="none")


def test_a_restore_is_refused_while_the_volume_is_used_or_has_data(
    box: Engine, data: Path, tmp_path: Path
) -> None:
    (data / "file").write_text("first")
    made = backup(box, tmp_path)
    (data / "file").write_text("second")
    name = box.start("sleep 1000", mounts=MOUNT, stop_signal="SIGKILL")
    restore = box.runtime.backups.restore
    with pytest.raises(Fault, match=f"cannot restore volume t/data: used by {name}") as used:
        restore("t/data", made.path, force=True)
    with pytest.raises(Fault, match="it has data") as full:
        restore("t/data", made.path, stop=True)
    assert (used.value.code, full.value.code) == ("volume-in-use", "volume-not-empty")
    before = attend.live_state(box.paths, attend.find(box.paths, name))
    restore("t/data", made.path, force=True, stop=True)
    assert (data / "file").read_text() == "first"
    after = attend.live_state(box.paths, attend.find(box.paths, name))
    assert before is not None and after is not None and after.pid != before.pid
    seen = box.exec(name, "cat", "/data/file")
    assert seen.text == "first"
    box.runtime.remove_container(name)
    box.runtime.remove_volume("t/data")
    restore("t/data", made.path)
    restore("t/again", made.path)
    sources = {item.name: item.source for item in box.runtime.volumes.list()}
    assert sources == {"t/data": "test", "t/again": ""}


def test_what_is_damaged_cut_off_or_no_backup_touches_nothing(
    box: Engine, data: Path, tmp_path: Path
) -> None:
    (data / "file").write_bytes(os.urandom(100_000))
    made, before = backup(box, tmp_path), tree(data)
    good = made.path.read_bytes()
    middle = len(good) // 2
    for bad, code in (
        (good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :], "digest-mismatch"),
        (good[:-1], "backup-invalid"),
        (good[:middle] + good[middle + 1 :], "backup-invalid"),
        (good[:-60] + bytes(5) + good[-55:], "backup-invalid"),
        (b"", "backup-invalid"),
        (os.urandom(1000), "backup-invalid"),
    ):
        made.path.write_bytes(bad)
        with pytest.raises(Fault) as caught:
            box.runtime.backups.restore("t/data", made.path, force=True)
        assert caught.value.code == code
        assert tree(data) == before
        with pytest.raises(Fault) as caught:
            box.runtime.backups.drill("t/data", tmp_path)
        assert caught.value.code == code or "has none" in str(caught.value)
    with pytest.raises(Fault, match="no such file"):
        box.runtime.backups.restore("t/data", tmp_path / "missing", force=True)


def test_a_drill_finds_what_differs(box: Engine, data: Path, tmp_path: Path) -> None:
    """As a restore that leaves something out or changes it would."""
    for name in ("a", "b", "c"):
        (data / name).write_text(name)
    made = backup(box, tmp_path)
    file, summary = target.opened(made.path, "open")
    with file:
        for change, said in (
            (lambda: (data / "b").write_text("x"), "'b' has another mtime, content"),
            (lambda: os.chmod(data / "b", 0o600), "'b' has another mode"),
            (lambda: (data / "c").unlink(), "'c' is in the backup and not there"),
            (lambda: (data / "d").touch(), "'d' is there and not in the backup"),
        ):
            shutil.rmtree(data)
            box.runtime.backups.restore("t/data", made.path)
            box.runtime.backups._compare(data, file, summary, "t/data")
            change()
            with pytest.raises(Fault, match=said) as caught:
                box.runtime.backups._compare(data, file, summary, "t/data")
            assert caught.value.code == "backup-differs"


def test_old_backups_go_and_what_is_not_ours_stays(box: Engine, data: Path, tmp_path: Path) -> None:
    (data / "file").write_text("x")
    box.runtime.create_volume(VolumeRequest("t/other", "test", "f"))
    other = backup(box, tmp_path, "t/other", now=1)
    made = [backup(box, tmp_path, now=day * 86_400.0).path for day in range(1, 5)]
    stranger, cut = tmp_path / "t-data-1.tar.zst", tmp_path / ".t-data-2.tar.zst.1.partial"
    stranger.write_text("mine")
    cut.write_text("half")
    gone = box.runtime.backups.prune(tmp_path, "t/data", Keep(last=2))
    assert sorted(gone) == made[:2]
    left = {item.name for item in tmp_path.iterdir()}
    assert left == {*(item.name for item in made[2:]), other.path.name, stranger.name, cut.name}
    with pytest.raises(Fault, match="it is there already"):
        backup(box, made[3], now=9e8)
    backup(box, tmp_path, now=9e8)
    assert not cut.exists()


def test_a_full_disk_leaves_no_backup_and_no_half_of_a_volume(
    box: Engine, data: Path, tmp_path: Path
) -> None:
    (data / "big").write_bytes(os.urandom(3_000_000))
    name = box.start(COUNT, mounts=MOUNT)
    made, small = backup(box, tmp_path), tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(small)], check=True)
    try:
        with pytest.raises(Fault, match="no space left on device") as caught:
            backup(box, small)
        assert caught.value.code == "disk-full" and os.listdir(small) == []
        before = (data / "count").stat().st_mtime_ns
        until(lambda: (data / "count").stat().st_mtime_ns != before)  # it goes on
        bind = {"type": "none", "o": "bind", "device": str(small)}
        box.runtime.create_volume(VolumeRequest("t/on", "test", "f", options=bind))
        (small / "old").touch()
        with pytest.raises(Fault, match=r"\d+ bytes are needed, \d+ are free") as caught:
            box.runtime.backups.restore("t/on", made.path, force=True)
        assert caught.value.code == "disk-full" and os.listdir(small) == ["old"]
    finally:
        subprocess.run(["umount", str(small)], check=True)
    box.runtime.remove_container(name)


def test_what_a_killed_restore_and_drill_left_is_swept(box: Engine, data: Path) -> None:
    left = [data.parent / "_restore", box.paths.root / "drills" / "t@data"]
    for path in left:
        (path / "half").mkdir(parents=True)
    told = ("drill of volume t/data", "restore of volume t/data")
    assert box.runtime.observe().leftovers == told
    with Holds(box.paths).hold("t/data", "being restored"):
        assert box.runtime.observe().leftovers == told[:1]
        box.runtime.sweep()
        assert left[0].exists() and not left[1].exists()
    assert box.runtime.sweep() == told[1:]
    assert not left[0].exists() and box.runtime.observe().leftovers == ()


def test_bad_places_are_said(box: Engine, data: Path, tmp_path: Path) -> None:
    for into, said in (
        (data, "is inside the volume"),
        (tmp_path / "missing" / "file", "no such file or directory"),
        (Path("/proc/file"), "cannot back up volume t/data"),
    ):
        with pytest.raises(Fault, match=said):
            backup(box, into)
    (tmp_path / "file").touch()
    with pytest.raises(Fault, match="not a directory"):
        box.runtime.backups.drill("t/data", tmp_path / "file")
    (tmp_path / "file").unlink()
    with pytest.raises(Fault, match="no volume of this name"):
        backup(box, tmp_path, "t/none")
    deep = data
    for _ in range(260):
        deep = deep / "d"
    deep.mkdir(parents=True)
    with pytest.raises(Fault, match="more than 256 directories above it") as caught:
        backup(box, tmp_path)
    assert caught.value.code == "backup-invalid"
    assert os.listdir(tmp_path) == []


needs_mkfs = pytest.mark.skipif(
    shutil.which("mkfs.ext4", path="/usr/sbin:/sbin") is None, reason="needs e2fsprogs"
)
LOOP = {"loop": "ext4", "size": "4m"}
BIND = {"type": "none", "o": "bind"}


@pytest.mark.parametrize("options", [pytest.param(LOOP, marks=needs_mkfs), BIND], ids=["loop", "bind"])
def test_what_a_volume_lies_on_is_mounted_meanwhile(
    box: Engine, data: Path, tmp_path: Path, options: dict[str, str]
) -> None:
    if options is BIND:
        (tmp_path / "disk").mkdir()
        options = {**options, "device": str(tmp_path / "disk")}
    box.runtime.create_volume(VolumeRequest("t/on", "test", "f", options=options))
    on = path_of(box, "t/on")
    mount = (MountPoint("volume", "t/on", "/data"),)
    box.run("echo first > /data/file; mkdir /data/dir; ln /data/file /data/dir/same", mounts=mount)
    (tmp_path / "to").mkdir()
    made = backup(box, tmp_path / "to", "t/on")
    box.run("echo second > /data/more; rm -r /data/dir", mounts=mount)
    with pytest.raises(Fault, match="it has data"):
        box.runtime.backups.restore("t/on", made.path)
    box.runtime.backups.restore("t/on", made.path, force=True)
    assert box.run("cat /data/dir/same; ls /data", mounts=mount).lines[:3] == ["first", "dir", "file"]
    assert os.listdir(on) == []
    assert set(os.listdir(on.parent)) <= {"_data", "_image"}

    (on.parent / "_cut_off").touch()  # as a crash in the middle leaves it
    with pytest.raises(Fault, match=r"a restore of it was cut off in the middle \(restore it again"):
        box.start("true", mounts=mount)
    box.runtime.backups.restore("t/on", made.path)
    assert box.run("cat /data/file", mounts=mount).lines == ["first"]
    box.runtime.backups.restore("t/data", made.path)  # from one kind to the other
    assert (data / "dir/same").read_text() == "first\n"


def test_a_volume_in_memory_is_backed_up_while_it_is_used(box: Engine, data: Path, tmp_path: Path) -> None:
    memory = {"type": "tmpfs", "device": "tmpfs"}
    box.runtime.create_volume(VolumeRequest("t/on", "test", "f", options=memory))
    script = "echo here > /data/file; sleep 1000"
    name = box.start(script, mounts=(MountPoint("volume", "t/on", "/data"),), stop_signal="SIGKILL")
    until((path_of(box, "t/on") / "file").exists)
    made = backup(box, tmp_path, "t/on")
    box.runtime.stop_container(name)
    with pytest.raises(Fault, match="only while containers use it"):
        backup(box, tmp_path, "t/on")
    with pytest.raises(Fault, match="only while containers use it"):
        box.runtime.backups.restore("t/on", made.path)
    box.runtime.backups.restore("t/data", made.path)
    assert (data / "file").read_text() == "here\n"


def test_who_uses_an_anonymous_volume_is_held_still_too(box: Engine, data: Path, tmp_path: Path) -> None:
    name = box.start("sleep 1000", mounts=(MountPoint("volume", "", "/data"),), stop_signal="SIGKILL")
    (volume,) = [item for item in box.runtime.volumes.list() if item.anonymous]
    made = backup(box, tmp_path, volume.name, quiesce="stop")
    assert made.summary.users == (name,)
    assert box.runtime.backups.drill(volume.name, tmp_path).path == made.path
