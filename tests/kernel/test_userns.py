"""Containers with ids of their own: who they are on the host, and whose files are. Needs root."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime.faults import Fault
from runtime.linux import mounts
from runtime.secrets import SecretStore
from runtime.wishes import Attachment, FileRequest, NetworkRequest, VolumeRequest
from specs.values import MountPoint, PortBinding
from tests.kernel.engine_box import FIRST_ID, IMAGE, SUBIDS, Engine, bind, engine
from tests.kernel.shim_box import until
from tests.ports import free_port

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

OWN = {"userns": "auto", "userns_size": 65536}


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("userns")) as made:
        yield made


@contextmanager
def running(box: Engine, script: str = "sleep 1000", **request: object) -> Iterator[str]:
    name = box.start(script, **OWN, **request)
    try:
        yield name
    finally:
        box.runtime.remove_container(name)


def owner(path: Path) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_uid, status.st_gid


# ---------------------------------------------------------------- who it is


def test_root_inside_is_nobody_on_the_host(box: Engine) -> None:
    with running(box) as name:
        pid = box.state(name).pid
        assert os.stat(f"/proc/{pid}").st_uid == FIRST_ID
        assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", str(FIRST_ID), "65536"]
        assert Path(f"/proc/{pid}/gid_map").read_text().split() == ["0", str(FIRST_ID), "65536"]
        assert box.exec(name, "id -u; id -g; stat -c %u:%g / /bin /home/web /tmp").lines == [
            "0", "0", "0:0", "0:0", "1000:1000", "0:0",
        ]  # fmt: skip
        assert box.exec(name, "id -u; touch ~/x; stat -c %u ~/x", user="web").lines == ["1000", "1000"]
        assert os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user")


def test_it_has_all_that_others_have(box: Engine) -> None:
    """/proc, /sys, /dev, names, mqueue, shm, cgroups, its network's settings."""
    script = """
        hostname; cat /proc/self/cgroup | grep -vc ':/$'; ls /sys/class/net; ls /dev/mqueue | wc -l
        for n in null zero full random urandom tty; do echo > /dev/$n && echo w$n; done 2> /dev/null
        touch /dev/shm/x && echo shm; echo x > /proc/sys/kernel/core_pattern; mount -t tmpfs t /tmp && echo x
        cat /proc/sys/net/ipv4/ip_unprivileged_port_start; mknod /tmp/mem c 1 1 || echo refused
        cat /proc/kcore | wc -c; ls /sys/fs/cgroup | head -n 1 | wc -l
    """
    result = box.run(script, hostname="own", **OWN)
    assert result.lines == [
        "own", "0", "lo", "0", "wnull", "wzero", "wrandom", "wurandom", "shm", "0", "refused", "0", "1",
    ], result.errors  # fmt: skip
    settings = {"net.ipv4.ip_forward": "1"}
    if tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 9):  # before, some of them are the host's
        settings |= {"net.core.somaxconn": "77", "kernel.msgmax": "9000"}
    shown = box.run(f"sysctl -n {' '.join(settings)}", sysctls=settings, **OWN)
    assert shown.lines == list(settings.values())


def test_it_has_no_more_rights_than_others(box: Engine) -> None:
    status = "grep -E '^(CapEff|Seccomp|NoNewPrivs):' /proc/self/status"
    assert box.run(status, **OWN).lines == box.run(status).lines


def test_a_restart_by_the_shim_and_a_terminal_work(box: Engine) -> None:
    from runtime.wishes import RestartRequest

    script = "echo $(id -u) >> /root/runs; sleep 0.05; exit 1"
    restart = RestartRequest("on-failure", 2, initial=0.01)
    result = box.start(script, restart=restart, **OWN)
    until(lambda: box.state(result).phase == "exited" or box.state(result).restarts >= 2)
    until(lambda: (box.home(result) / "upper/root/runs").read_text() == "0\n0\n0\n")
    box.runtime.remove_container(result)
    text = box.run("tty; id -u; stat -c %u:%g $(tty) /dev/console", tty=True, **OWN).text
    assert text.split() == ["/dev/pts/0", "0", "0:5", "0:5"]


def test_a_log_is_written_by_another_user_inside(box: Engine) -> None:
    result = box.run("echo out > /dev/stdout; echo err > /dev/stderr", user="web", **OWN)
    assert (result.code, result.text, result.errors) == (0, "out\n", "err\n")


@pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables")
def test_it_is_reached_in_its_network_and_on_its_published_port(box: Engine) -> None:
    box.runtime.create_network(NetworkRequest("t/net", "t", "f"))
    port = free_port()
    request = {"network_mode": "bridge", "networks": (Attachment("t/net"),)}
    serve = "mkdir /www; echo here > /www/index.html; httpd -f -p 80 -h /www"
    with running(box, serve, ports=(PortBinding("127.0.0.1", port, 80),), **request) as name:
        ((_, address),) = box.runtime.observe().containers[name].networks
        for where in ((address, 80), ("127.0.0.1", port)):
            assert b"here" in until(lambda where=where: fetch(where))
    box.runtime.remove_network("t/net")


def fetch(where: tuple[str, int]) -> bytes:
    """An answer by HTTP; empty when nobody gives one."""
    try:
        with socket.create_connection(where, timeout=5) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            with connection.makefile("rb") as answer:
                return answer.read()
    except OSError:
        return b""


# ---------------------------------------------------------------- whose files are


def test_files_on_disk_keep_the_owners_that_they_have_inside(box: Engine) -> None:
    script = "touch /a; chown 33:44 /a; mkdir /d; rm -r /home; sleep 1000"
    with running(box, script) as name:
        upper = box.home(name) / "upper"
        until(lambda: (upper / "home").exists() and stat.S_ISCHR(os.lstat(upper / "home").st_mode))
        assert owner(upper / "a") == (33, 44)
        assert owner(upper / "d") == (0, 0)
        assert os.lstat(upper / "home").st_rdev == 0  # a whiteout


def test_a_volume_is_filled_and_shared_with_those_that_have_the_hosts_ids(
    box: Engine, tmp_path: Path
) -> None:
    box.runtime.create_volume(VolumeRequest("t/mapped", "t", "f"))
    volume = MountPoint("volume", "t/mapped", "/home")
    script = (
        "stat -c %u:%g /home /home/web; touch /home/web/mine; chown web:web /home/web/mine; touch /home/roots"
    )
    assert box.run(script, mounts=(volume,), **OWN).lines == ["0:0", "1000:1000"]
    other = "stat -c %u:%g /home/web/mine /home/roots; touch /home/theirs; chown 1000 /home/theirs"
    assert box.run(other, mounts=(volume,)).lines == ["1000:1000", "0:0"]
    assert box.run("stat -c %u:%g /home/theirs", mounts=(volume,), **OWN).lines == ["1000:0"]
    assert owner(box.paths.volumes / "t/mapped/_data/web/mine") == (1000, 1000)


def test_binds_files_tmpfs_and_images_have_owners(box: Engine, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "file").write_text("x")
    os.chown(tmp_path / "file", 1000, 1000)
    places = (
        bind(str(tmp_path / "d"), "/data", read_only=False),
        bind(str(tmp_path / "file"), "/file"),
        MountPoint("tmpfs", "", "/scratch", tmpfs_size=1 << 20),
        MountPoint("image", str(IMAGE), "/image"),
    )
    script = """
        touch /data/x /scratch/x; chown 7:8 /data/x
        stat -c %u:%g /file /scratch/x /image/home/web /etc/hosts
        echo 1.2.3.4 a >> /etc/hosts && echo written
    """
    result = box.run(script, mounts=places, **OWN)
    assert result.lines == ["1000:1000", "0:0", "1000:1000", "0:0", "written"], result.errors
    assert owner(tmp_path / "d/x") == (7, 8)


def test_cp_sees_the_owners_inside_also_when_it_has_ended_by_itself(box: Engine, tmp_path: Path) -> None:
    """Its root is still mounted then, with its ids."""
    box.runtime.create_volume(VolumeRequest("t/ended", "t", "f"))
    script = "for at in /tmp /vol; do echo x >$at/mine; chown 1000:1000 $at/mine; done"
    with running(box, script, mounts=(MountPoint("volume", "t/ended", "/vol"),)) as name:
        until(lambda: box.state(name).phase == "exited")
        assert mounts.is_mounted(box.paths.rootfs(box.state(name).id))
        (tmp_path / "in").write_text("x")
        for place in ("tmp", "vol"):
            for words in ((f"{name}:/{place}/mine", f"{place}"), ("in", f"{name}:/{place}/in")):
                subprocess.run(box.stead("cp", "-a", *words), check=True, cwd=tmp_path)
            assert owner(tmp_path / place) == (1000, 1000)
            subprocess.run(box.stead("cp", "-a", f"{name}:/{place}/in", "again"), check=True, cwd=tmp_path)
            assert owner(tmp_path / "again") == (0, 0)
        box.runtime.stop_container(name)
        subprocess.run(box.stead("cp", "-a", f"{name}:/tmp/in", "again"), check=True, cwd=tmp_path)
        assert owner(tmp_path / "again") == (0, 0)
    box.runtime.remove_volume("t/ended")


def test_a_file_whose_owner_it_does_not_have_is_named_when_it_is_copied_in(
    box: Engine, tmp_path: Path
) -> None:
    (tmp_path / "of").mkdir()
    (tmp_path / "of/nobody").write_text("x")
    os.chown(tmp_path / "of/nobody", 70000, 70000)
    with running(box) as name:
        words = box.stead("cp", "-a", "of", f"{name}:/tmp")
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 1
        assert "its owner has no id in there (of/nobody)" in done.stderr


def test_few_ids_have_no_group_of_terminals_and_a_group_beyond_them_is_named(box: Engine) -> None:
    name = box.start("stat -c %u:%g /dev/pts", userns="auto", userns_size=5)
    assert box.result(name).lines == ["0:0"]
    box.runtime.remove_container(name)
    name = box.create("true", group_add=("70000",), **OWN)
    with pytest.raises(Fault, match="group 70000 is beyond its 65536 ids"):
        box.runtime.start_container(name)
    box.runtime.remove_container(name)


def test_cp_and_export_see_the_owners_inside(box: Engine, tmp_path: Path) -> None:
    with running(box, "touch /home/web/new; chown 1000:1000 /home/web/new; echo; sleep 1000") as name:
        until(lambda: box.output(name))
        (tmp_path / "in").write_text("x")
        for words in (
            (str(tmp_path / "in"), f"{name}:/root/in"),
            (f"{name}:/home/web/new", str(tmp_path / "out")),
        ):
            subprocess.run(box.stead("cp", "-a", *words), check=True)
        assert box.exec(name, "stat -c %u:%g /root/in").lines == ["0:0"]
        assert owner(tmp_path / "out") == (1000, 1000)
        with open(tmp_path / "x.tar", "wb") as out:
            subprocess.run(box.stead("container", "export", name), stdout=out, check=True)
    listed = subprocess.run(
        ["tar", "--numeric-owner", "-tvf", str(tmp_path / "x.tar")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    owners = {line.split()[-1].removeprefix("./"): line.split()[1] for line in listed.splitlines()}
    assert owners["home/web/new"] == "1000/1000"
    assert owners["etc/passwd"] == "0/0"


def test_a_file_system_that_takes_no_mappings_is_named(box: Engine, tmp_path: Path) -> None:
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    from runtime.linux import overlay

    overlay.mount([tmp_path / "lower"], tmp_path / "upper", tmp_path / "work", tmp_path / "merged")
    name = box.create("true", mounts=(bind(str(tmp_path / "merged"), "/data"),), **OWN)
    try:
        with pytest.raises(Fault, match=r"file system \(overlay\) takes no id-mapped mounts"):
            box.runtime.start_container(name)
    finally:
        box.runtime.remove_container(name)
        mounts.unmount(tmp_path / "merged")


# ---------------------------------------------------------------- ranges


def test_two_containers_never_have_an_id_in_common_and_a_removed_one_gives_its_back(box: Engine) -> None:
    names = [box.start("sleep 1000", **OWN) for _ in range(3)]
    firsts = [box.runtime.ids.get(box.id(name)).first for name in names]  # type: ignore[union-attr]
    assert sorted(firsts) == [FIRST_ID, FIRST_ID + 65536, FIRST_ID + 2 * 65536]
    box.runtime.stop_container(names[0])
    with running(box) as other:
        assert box.runtime.ids.get(box.id(other)).first == FIRST_ID + 3 * 65536  # type: ignore[union-attr]
    box.runtime.remove_container(names[0])
    with running(box) as other:
        assert box.runtime.ids.get(box.id(other)).first == FIRST_ID  # type: ignore[union-attr]
    for name in names[1:]:
        box.runtime.remove_container(name)


def test_what_cannot_be_given_is_said(box: Engine) -> None:
    box.subids.write_text("")
    try:
        with pytest.raises(Fault, match="have no ids for stead or root") as raised:
            box.start("true", **OWN)
        assert raised.value.code == "ids-exhausted"
        assert raised.value.hint.startswith("add stead:")
    finally:
        box.subids.write_text(SUBIDS)
    with pytest.raises(Fault, match="beyond its 100 ids"):
        box.start("true", user="1000", userns="auto", userns_size=100)
    with pytest.raises(Fault, match="do not go with network_mode host"):
        box.start("true", network_mode="host", **OWN)


def test_namespaces_that_were_unbound_by_hand_are_bound_again(box: Engine) -> None:
    with running(box) as name:
        place = box.live(name) / "userns"
        mounts.unmount(place)
        box.runtime.repair_container(name)
        assert os.stat(place).st_ino == os.stat(f"/proc/{box.state(name).pid}/ns/user").st_ino


def test_a_secret_is_the_users_inside_and_nobody_elses_there(box: Engine) -> None:
    digest = SecretStore(box.paths).put(b"sesame")
    item = FileRequest("secret", "s", "/run/secrets/s", 1000, 1000, 0o400, digest)
    with running(box, files=(item,)) as name:
        assert box.exec(name, "stat -c '%a %u:%g' /run/secrets/s").lines == ["400 1000:1000"]
        assert box.exec(name, "cat /run/secrets/s", user="web").lines == ["sesame"]
        assert box.exec(name, "cat /run/secrets/s", user="5").code != 0
