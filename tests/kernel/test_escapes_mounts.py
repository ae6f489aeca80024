"""Escapes through mounts: links in images, and in volumes that another container changes meanwhile. Needs
root.

The attacker swaps a directory or file of a shared volume and a link for as long as victims are started. A
mount that went where the link leads on the host is not in the victim's mount table, for it stayed with the
old root.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from runtime.faults import Fault
from runtime.images.tarstream import Pieces, Reader
from runtime.images.unpack import Unpacker
from runtime.linux import namespaces
from runtime.shim import entries
from runtime.volumes import filling
from runtime.wishes import VolumeRequest
from specs import values
from specs.values import ImageRef, MountPoint
from tests.kernel.engine_box import Engine, bind, engine, rootfs
from tests.kernel.hostile import attacker
from tests.kernel.shim_box import until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

#: Victims that are started against each race.
VICTIMS = 12


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("mounts")) as made:
        yield made


def swapping(path: str, link: str) -> str:
    """An attack: `path` (in the attacker's view) is what it is, then a link to `link`, and so on."""
    return f"""
if not os.path.lexists({path + ".way"!r}):
    os.symlink({link!r}, {path + ".way"!r})
while time.monotonic() < end:
    try:
        exchange({path!r}, {path + ".way"!r})
    except OSError:
        pass
"""


def swapping_once(path: str, place: str) -> str:
    """An attack: `path` changes places with `place` as soon as that is there, which is told."""
    return f"""
while time.monotonic() < end:
    try:
        exchange({path!r}, {place!r})
    except OSError:
        continue
    print("swapped", flush=True)
    break
time.sleep(1000)
"""


def mounted(lines: list[str]) -> dict[str, list[str]]:
    """target -> file system and its options, of a mountinfo."""
    return {line.split()[4]: line.partition(" - ")[2].split() for line in lines}


def image(box: Engine, directory: Path, name: str) -> ImageRef:
    ref = ImageRef.parse(f"tests/{name}:1")
    box.runtime.import_image(directory, ref)
    return ref


# ---------------------------------------------------------------- races


def test_a_mount_within_a_volume_stays_in_the_root_while_links_are_swapped(
    box: Engine, tmp_path: Path
) -> None:
    """CVE-2021-30465: the destination of a mount lies in a volume that another container writes to."""
    volume, outside = tmp_path / "volume", tmp_path / "outside"
    for directory in (volume / "sub", outside):
        directory.mkdir(parents=True)
    shared = bind(str(volume), "/data", read_only=False)
    places = (shared, MountPoint("tmpfs", "", "/data/sub", tmpfs_size=12344 << 10))
    ways = 0
    with attacker(box, swapping("/data/sub", str(outside)), mounts=(shared,)):
        for _ in range(VICTIMS):
            try:
                result = box.run("cat /proc/self/mountinfo", mounts=places)
            except Fault:
                continue  # refused: nothing was mounted anywhere
            sizes = {
                target: words
                for target, words in mounted(result.lines).items()
                if "size=12344k" in str(words)
            }
            assert list(sizes) in (["/data/sub"], [str(outside)], ["/data/sub.way"]), result.text
            ways += list(sizes) != ["/data/sub"]
    assert ways, "no victim met the link: the race was not run"
    assert os.listdir(outside) == []


@pytest.mark.parametrize("target", ["/proc/version", "/proc/sys/kernel/core_pattern", "/etc/passwd"])
def test_masks_do_not_come_from_the_containers_own_null(box: Engine, tmp_path: Path, target: str) -> None:
    """CVE-2025-31133: what is bound over masked files is /dev/null of the container, which is a link then."""
    dev = tmp_path / "dev"
    dev.mkdir()
    os.mknod(dev / "null", 0o020666, os.makedev(1, 3))
    shared = bind(str(dev), "/dev", read_only=False)
    script = (
        "for f in /proc/kcore /proc/keys /proc/timer_list; do stat -c %t:%T $f; done; cat /proc/kcore | wc -c"
    )
    with attacker(box, swapping("/x/null", target), mounts=(bind(str(dev), "/x", read_only=False),)):
        for _ in range(VICTIMS // 2):
            lines = box.run(script, mounts=(shared,)).lines
            there = [name for name in ("kcore", "keys", "timer_list") if os.path.exists(f"/proc/{name}")]
            assert lines == ["1:3"] * len(there) + ["0"]


def test_the_console_is_the_terminal_itself(box: Engine, tmp_path: Path) -> None:
    """CVE-2025-52565: /dev/console is bound from /dev/pts/N by name, and lies where a link leads to."""
    dev = tmp_path / "dev"
    (dev / "pts").mkdir(parents=True)
    (dev / "console").touch()
    shared = bind(str(dev), "/dev", read_only=False)
    attack = swapping("/x/console", "/proc/sys/kernel/core_pattern")
    script = "cat /proc/self/mountinfo; echo evil > /dev/console"
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    with attacker(box, attack, mounts=(bind(str(dev), "/x", read_only=False),)):
        for _ in range(VICTIMS // 2):
            try:
                text = box.run(script, mounts=(shared,), tty=True).text
            except Fault:
                continue
            found = [line.split() for line in text.splitlines() if " devpts " in line]
            consoles = [words for words in found if words[4] != "/dev/pts"]
            assert {words[3] for words in consoles} == {"/0"}, text  # the root of the bind: devpts' node 0
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


def test_settings_are_not_written_to_a_proc_of_the_containers(box: Engine, tmp_path: Path) -> None:
    """CVE-2025-52881, CVE-2019-16884: a volume at /proc takes what the runtime writes there."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    fake = tmp_path / "proc"
    names = ("sys/net/ipv4/ip_unprivileged_port_start", "sys/kernel/shm_rmid_forced", "self/attr/exec")
    names += ("thread-self/attr/exec", "thread-self/attr/apparmor/exec", "self/oom_score_adj")
    for name in names:
        (fake / name).parent.mkdir(parents=True, exist_ok=True)
        (fake / name).symlink_to("/victim")
    sysctls = {"net.ipv4.ip_unprivileged_port_start": "7", "kernel.shm_rmid_forced": "1"}
    places = (bind(str(fake), "/proc", read_only=False), bind(str(victim), "/victim", read_only=False))
    name = box.start("sleep 1000", mounts=places, sysctls=sysctls)
    assert box.exec(name, "cat /victim").text == "precious"
    assert victim.read_text() == "precious"
    assert all((fake / each).is_symlink() for each in names)
    with namespaces.in_netns(box.live(name) / "netns"):
        assert Path("/proc/thread-self/net/dev").read_text().count("\n") == 3
    box.runtime.remove_container(name)


def test_a_part_of_a_volume_is_found_within_it_while_links_are_swapped(box: Engine, tmp_path: Path) -> None:
    """CVE-2017-1002101, in another engine: the source of a mount is a part of a volume."""

    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    box.runtime.create_volume(VolumeRequest("t/shared", "t", "f"))
    whole = MountPoint("volume", "t/shared", "/x")
    box.run("mkdir -p /x/sub", mounts=(whole,))
    part = MountPoint("volume", "t/shared", "/part", subpath="sub")
    started = 0
    with attacker(box, swapping("/x/sub", str(outside)), mounts=(whole,)):
        for _ in range(VICTIMS):
            try:
                assert "secret" not in box.run("ls /part", mounts=(part,)).text
                started += 1
            except Fault as fault:
                assert fault.code == "mount-source-missing"
    assert started


def test_a_volume_is_filled_within_it_while_its_copy_is_swapped_for_a_link(
    box: Engine, tmp_path: Path
) -> None:
    """What an image has at the volume's place is copied within the volume, where that is a file system of its
    own, and another container has it already."""
    outside = tmp_path / "outside"
    outside.mkdir()
    root = rootfs(tmp_path / "image")
    (root / "data").mkdir()
    for number in range(300):
        (root / "data" / f"file{number}").write_text("of the image")
    ref = image(box, root, "filled")
    memory = {"type": "tmpfs", "device": "tmpfs"}
    box.runtime.create_volume(VolumeRequest("t/shared", "test", "f", options=memory))
    attack = f"""
os.mkdir("/x/lost+found")
os.symlink({str(outside)!r}, "/x/lost+found/way")
{swapping_once("/x/lost+found/way", "/x/.stead_copy")}
"""
    with attacker(box, attack, mounts=(MountPoint("volume", "t/shared", "/x"),)) as name:
        for _ in range(VICTIMS):
            with suppress(Fault):
                box.run("true", image=ref, mounts=(MountPoint("volume", "t/shared", "/data"),))
            if "swapped" in box.output(name):
                break
        assert "swapped" in box.output(name), "the race was not run"
    assert os.listdir(outside) == []


@pytest.mark.parametrize("left", [".stead_copy", ".stead_copied", ".stead_restore"])
def test_a_link_where_a_volume_is_worked_on_keeps_nobody_from_starting(box: Engine, left: str) -> None:
    name = f"t/{left.replace('.stead_', '')}"
    memory = {"type": "tmpfs", "device": "tmpfs"}
    box.runtime.create_volume(VolumeRequest(name, "test", "f", options=memory))
    mounts = (MountPoint("volume", name, "/x"),)
    holder = box.start(f"ln -s /etc /x/{left}; sleep 1000", mounts=mounts)
    until(lambda: left in box.exec(holder, "ls -a /x").text)
    assert box.run("echo started", mounts=mounts).lines == ["started"]
    box.runtime.remove_container(holder)


@pytest.mark.parametrize("left", [".stead_copy", ".stead_copied"])
def test_what_containers_leave_where_a_volume_is_filled_is_not_followed(tmp_path: Path, left: str) -> None:
    outside, data, root = tmp_path / "outside", tmp_path / "data", tmp_path / "root"
    for directory in (outside, data, root / "data"):
        directory.mkdir(parents=True)
    (outside / "file").touch()
    (root / "data" / "own").touch()
    (data / "lost+found").mkdir()
    (data / left).symlink_to(outside)
    filling.fill(data, root, "/data", mounted=True)
    assert os.listdir(outside) == ["file"]
    assert not os.path.lexists(data / ".stead_copied")


# ---------------------------------------------------------------- images


LINKS = {
    "etc": ["/proc/sys/kernel", "/../../../../../../etc", "/proc/self/root/etc"],
    "dev": ["/etc", "/proc", "/../../../../dev"],
    "proc": ["/etc", "/sys", "/../../../../../tmp"],
    "sys": ["/proc", "/../../../../../sys"],
}


@pytest.mark.parametrize("name", LINKS)
def test_mount_points_that_are_links_lead_nowhere_but_inside(box: Engine, tmp_path: Path, name: str) -> None:
    """An image whose /etc, /dev, /proc or /sys is a link: it starts with them in its root, or not at all."""
    before = host()
    for number, link in enumerate(LINKS[name]):
        root = rootfs(tmp_path / f"image{number}")
        (shutil.rmtree if (root / name).is_dir() else os.unlink)(root / name)
        (root / name).symlink_to(link)
        ref = image(box, root, f"linked-{name}{number}")
        try:
            container = box.start("/bin/busybox", "sleep", "1000", image=ref)
        except Fault as fault:
            assert fault.code in ("start-failed", "kernel-error", "request-invalid"), fault
        else:
            table = Path(f"/proc/{box.state(container).pid}/mountinfo").read_text().splitlines()
            box.runtime.remove_container(container)
            assert strangers(box, table) == []
            # what was mounted is there, be it under something else: none of it went to the host's paths
            kinds = [line.partition(" - ")[2].split()[0] for line in table]
            assert {"proc", "sysfs", "devpts", "mqueue"} <= set(kinds), kinds
            assert sum(str(box.paths.root / "containers") in line.split()[3] for line in table) == 3
        assert host() == before


def test_hosts_files_that_are_links_are_mounted_where_they_lead_inside(box: Engine, tmp_path: Path) -> None:
    """/etc/hosts and its like as links to files of /proc, of the host's path, and to magic links."""
    before = host()
    root = rootfs(tmp_path / "image")
    for name, link in (
        ("hosts", "/proc/version"),
        ("hostname", "/../../../../../../etc/hostname.evil"),
        ("resolv.conf", "../../../../../../../../tmp/resolv.evil"),
    ):
        (root / "etc" / name).symlink_to(link)
    ref = image(box, root, "linked-files")
    result = box.run("cat /etc/hostname; ls /etc /tmp", image=ref, hostname="own")
    assert result.lines[0] == "own"
    assert "hostname.evil" in result.text
    assert not os.path.lexists("/etc/hostname.evil")
    assert not os.path.lexists("/tmp/resolv.evil")
    magic = rootfs(tmp_path / "magic")
    (magic / "etc/hosts").symlink_to("/proc/self/exe")
    with pytest.raises(Fault, match="symbolic links"):
        box.run("true", image=image(box, magic, "magic"))
    assert host() == before


@pytest.mark.parametrize(
    "target", ["/proc/1", "/proc/self/fd/5", "/proc/self/attr", "/proc/version", "//proc/acpi"]
)
def test_nothing_is_mounted_inside_of_proc_by_name(box: Engine, tmp_path: Path, target: str) -> None:
    """A directory of a process is gone with the process, and what is mounted there with it."""
    with pytest.raises(Fault, match="it is inside of /proc"):
        box.run("true", mounts=(bind(str(tmp_path), target),))


def test_no_link_leads_a_mount_to_a_process(box: Engine, tmp_path: Path) -> None:
    root = rootfs(tmp_path / "image")
    (root / "data").symlink_to("/proc/self")
    ref = image(box, root, "self")
    with pytest.raises(Fault, match="it leads to a process's directory in /proc"):
        box.run("true", image=ref, mounts=(bind(str(tmp_path), "/data"),))


def test_what_lxcfs_gives_is_mounted_inside_of_proc(box: Engine, tmp_path: Path) -> None:
    assert set(values.COVERED) == entries.COVERED
    (tmp_path / "uptime").write_text("1.00 2.00\n")
    result = box.run("cat /proc/uptime", mounts=(bind(str(tmp_path / "uptime"), "/proc/uptime"),))
    assert result.text == "1.00 2.00\n"


def strangers(box: Engine, lines: list[str]) -> list[str]:
    """Lines of a mountinfo that show a directory of the host which is not the container's own."""
    disk = os.stat(box.base).st_dev
    number, own = f"{os.major(disk)}:{os.minor(disk)}", str(box.paths.root / "containers")
    table = [line.split() for line in lines if " - " in line]
    return [" ".join(words) for words in table if words[2] == number and not words[3].startswith(own)]


def host() -> tuple[object, ...]:
    """What of the host such a link would change."""
    names = ("/etc", "/dev", "/tmp", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname")
    found: list[object] = [os.stat(name).st_ino for name in names]
    targets = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    mounts = sorted(target for target in targets if not target.startswith(("/tmp", "/run", "/work")))
    return (*found, *mounts, Path("/etc/hosts").read_text(), sorted(os.listdir("/dev")))


def test_a_link_put_in_the_place_of_what_is_restored_is_not_entered(box: Engine, tmp_path: Path) -> None:
    """A volume that is a bind of a directory is restored within it, and another container has the same
    directory."""
    outside, disk, to = tmp_path / "outside", tmp_path / "disk", tmp_path / "to"
    for directory in (outside, disk, to):
        directory.mkdir()
    options = {"type": "none", "o": "bind", "device": str(disk)}
    box.runtime.create_volume(VolumeRequest("t/restored", "test", "f", options=options))
    for number in range(300):
        (disk / f"file{number}").write_text("of the backup")
    made = box.runtime.backups.backup("t/restored", to, now=1.0, quiesce="none")
    (disk / "way").symlink_to(outside)
    attack = swapping_once("/x/way", "/x/.stead_restore")
    with attacker(box, attack, mounts=(bind(str(disk), "/x", read_only=False),)) as name:
        for _ in range(VICTIMS):
            with suppress(Fault, OSError):
                box.runtime.backups.restore("t/restored", made.path, force=True)
            if "swapped" in box.output(name):
                break
            (disk / "way").unlink(missing_ok=True)
            (disk / "way").symlink_to(outside)
        assert "swapped" in box.output(name), "the race was not run"
    assert os.listdir(outside) == []


def test_a_link_in_the_place_of_a_restored_directory_gets_nothing_of_it(tmp_path: Path) -> None:
    """Directories get what belongs to them at the end, when somebody may have exchanged their parents."""
    root = tmp_path / "root"
    (root / "other" / "own").mkdir(parents=True)
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name in ("a", "a/own"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.uid = tarfile.DIRTYPE, 0o777, 1234
            archive.addfile(entry)
    pid = os.fork()
    if not pid:
        with suppress(BaseException):
            os.chroot(root)
            os.chdir("/")
            unpacker = Unpacker(exact=True)
            unpacker.take(Reader(Pieces(iter([written.getvalue()]))))
            os.rename("a", "moved")
            os.symlink("other", "a")
            unpacker.finish()
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.lstat(root / "a").st_uid == 0 and (root / "moved" / "own").is_dir()
    status = (root / "other" / "own").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o755)


def test_a_link_in_the_place_of_a_restored_pipe_changes_no_mode(tmp_path: Path) -> None:
    """The pipe's directory is moved out of what is unpacked, where `..` leads on, before its mode is set."""
    root, victim = tmp_path / "root", tmp_path / "victim"
    (root / "a").mkdir(parents=True)
    victim.touch(mode=0o600)
    pipe = tarfile.TarInfo("a/pipe")
    pipe.type, pipe.mode, pipe.uid = tarfile.FIFOTYPE, 0o4777, 1
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        archive.addfile(pipe)
    outside = os.open(tmp_path, os.O_RDONLY)
    make = os.mknod

    def made(name: bytes, mode: int, *, dir_fd: int) -> None:
        make(name, mode, dir_fd=dir_fd)
        os.rename("/a", "moved", dst_dir_fd=outside)
        os.unlink(name, dir_fd=dir_fd)
        os.symlink("../victim", name, dir_fd=dir_fd)

    pid = os.fork()
    if not pid:
        with suppress(BaseException):
            os.mknod = made  # type: ignore[assignment]
            fds = os.open("/proc/self/fd", os.O_RDONLY)
            os.chroot(root)
            os.chdir("/")
            Unpacker(exact=True, fds=fds).take(Reader(Pieces(iter([written.getvalue()]))))
        os._exit(0)
    os.waitpid(pid, 0)
    assert (tmp_path / "moved" / "pipe").is_symlink(), "the race was not run"
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600
