"""User and time namespaces, namespaces by path, id-mapped mounts and the options of mounts, as a shim makes
them of a config.json. Needs root."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.shim import client
from tests.kernel.shim_box import Box, box, until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

MAPPING = [{"containerID": 0, "hostID": 200000, "size": 65536}]
CAPABILITIES = ["CAP_CHOWN", "CAP_SETUID", "CAP_SETGID", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN", "CAP_KILL"]
APPLETS = ("id", "mount", "stat", "readlink", "touch", "ls", "grep", "wc", "cut", "sysctl", "hostname", "ip")


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Box]:
    tmp_path.chmod(0o700)
    with box(tmp_path) as one:
        for applet in APPLETS:
            (one.rootfs / "bin" / applet).symlink_to("busybox")
        for kind in ("bounding", "effective", "permitted"):
            one.config["process"]["capabilities"][kind] = CAPABILITIES
        yield one


def in_user_namespace(one: Box) -> None:
    one.config["linux"]["namespaces"].append({"type": "user"})
    one.config["linux"]["uidMappings"] = one.config["linux"]["gidMappings"] = MAPPING
    os.chown(one.rootfs, 200000, 200000)


def lines(one: Box, script: str) -> list[str]:
    one.spawn(script, restart={"policy": "no"})
    state = one.ended()
    assert state.exit_code == 0, (state.error, one.output())
    return one.output().decode().splitlines()


def bind(source: Path, target: str, *options: str, **more: object) -> dict[str, object]:
    entry = {"destination": target, "type": "bind", "source": str(source), "options": ["rbind", *options]}
    return {**entry, **more}


def test_root_of_a_user_namespace_is_nobody_outside(made: Box) -> None:
    in_user_namespace(made)
    made.with_network()
    made.config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.shmmni": "77"}
    made.config["linux"]["maskedPaths"] = ["/proc/kcore", "/proc/acpi"]
    made.config["linux"]["readonlyPaths"] = ["/proc/sys"]
    state = made.spawn(
        "id -u; cat /proc/self/uid_map; touch /tmp/x 2> /dev/null || echo denied;"
        "sysctl -n net.ipv4.ip_forward kernel.shmmni; echo x > /dev/null; stat -c %t:%T /dev/null;"
        "cat /proc/kcore 2> /dev/null || echo masked; echo end; exec sleep 100"
    )
    until(lambda: b"end" in made.output())
    said = made.output().decode().split()
    assert said == ["0", "0", "200000", "65536", "denied", "1", "77", "1:3", "masked", "end"]
    assert os.stat(f"/proc/{state.pid}").st_uid == 200000
    assert os.stat(made.rootfs / "tmp").st_uid == 0
    for kind in ("user", "pid", "mnt", "uts", "ipc", "cgroup"):
        assert os.readlink(f"/proc/{state.pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
    os.kill(state.shim_pid, signal.SIGTERM)


def test_exec_joins_the_user_namespace(made: Box) -> None:
    in_user_namespace(made)
    made.config["linux"]["namespaces"].append({"type": "time"})
    state = made.spawn("exec sleep 100")
    script = "id -u; cat /proc/self/uid_map; ls -l /proc/self/ns | cut -d'>' -f2"
    output, theirs = os.pipe()
    with open(output, "rb") as reader:
        process = made.process("/bin/sh", "-c", script)
        with client.exec_process(made.live, process, stdio=(0, theirs, theirs)) as session:
            os.close(theirs)
            said = reader.read().decode().split()
            assert session.wait(10) == 0
    assert said[:4] == ["0", "0", "200000", "65536"]
    for kind in ("user", "mnt", "time"):
        assert os.readlink(f"/proc/{state.pid}/ns/{kind}") in said
    os.kill(state.shim_pid, signal.SIGTERM)


def test_an_id_mapped_mount_shows_the_hosts_files_as_the_containers_own(made: Box, tmp_path: Path) -> None:
    in_user_namespace(made)
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o700)
    (shared / "own").touch()
    made.config["mounts"].append(bind(shared, "/data", "idmap"))
    said = lines(made, "stat -c %u:%g /data /data/own; touch /data/new; stat -c %u /data/new")
    assert said == ["0:0", "0:0", "0"]
    assert (shared / "new").stat().st_uid == 0


def test_an_id_mapped_mount_has_mappings_of_its_own_without_a_user_namespace(
    made: Box, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    mapping = [{"containerID": 0, "hostID": 5000, "size": 10}]
    made.config["mounts"].append(bind(shared, "/data", uidMappings=mapping, gidMappings=mapping))
    assert lines(made, "stat -c %u:%g /data") == ["5000:5000"]


def test_a_file_system_that_cannot_be_id_mapped_is_named(made: Box) -> None:
    in_user_namespace(made)
    made.config["mounts"].append(bind(Path("/proc/sys"), "/data", "idmap"))
    with pytest.raises(client.ShimError, match=r"mount /data: its file system \(proc\) takes no id-mapped"):
        made.spawn("true")


def test_clocks_of_a_time_namespace_have_their_offsets(made: Box) -> None:
    made.config["linux"]["namespaces"].append({"type": "time"})
    made.config["linux"]["timeOffsets"] = {"boottime": {"secs": 1_000_000, "nanosecs": 5}}
    (uptime,) = lines(made, "cut -d. -f1 /proc/uptime")
    with open("/proc/uptime") as file:
        assert abs(int(uptime) - float(file.read().split()[0]) - 1_000_000) < 100


def test_namespaces_are_joined_by_path(made: Box, tmp_path_factory: pytest.TempPathFactory) -> None:
    in_user_namespace(made)
    first = made.spawn("exec sleep 100")
    other = tmp_path_factory.mktemp("other")
    with box(other) as second:
        kinds = ("user", "pid", "ipc", "uts", "cgroup")
        paths = [{"type": kind, "path": f"/proc/{first.pid}/ns/{kind}"} for kind in kinds]
        second.config["linux"]["namespaces"] = [{"type": "mount"}, *paths]
        del second.config["hostname"]
        os.chmod(other, 0o711)
        state = second.spawn("echo $$; hostname; exec sleep 100")
        until(lambda: second.output())
        assert second.output().decode().split()[0] != "1"
        for kind in kinds:
            assert os.readlink(f"/proc/{state.pid}/ns/{kind}") == os.readlink(f"/proc/{first.pid}/ns/{kind}")
        os.kill(state.shim_pid, signal.SIGTERM)
    os.kill(first.shim_pid, signal.SIGTERM)


OPTIONS = {
    "noatime": ["noatime"],
    "nosymfollow": ["nosymfollow"],
    "nosuid,nodev,noexec,nodiratime": ["nosuid", "nodev", "noexec", "nodiratime"],
    "ro": ["ro"],
    "strictatime": [],
}


@pytest.mark.parametrize("words", OPTIONS)
def test_options_of_a_bind_are_those_of_its_mount(made: Box, tmp_path: Path, words: str) -> None:
    made.config["mounts"].append(bind(tmp_path, "/data", *words.split(",")))
    (line,) = lines(made, "grep ' /data ' /proc/self/mountinfo")
    found = line.split()[5].split(",")
    assert set(OPTIONS[words]) <= set(found)
    assert ("relatime" in found) == ("atime" not in words.replace("nodiratime", ""))


def test_a_tmpfs_has_the_mode_and_on_request_the_files_of_what_it_covers(made: Box) -> None:
    covered = made.rootfs / "etc"
    covered.chmod(0o750)
    (covered / "deep").mkdir()
    (covered / "deep" / "file").write_text("kept")
    (covered / "link").symlink_to("deep/file")
    os.chown(covered / "deep" / "file", 7, 8)
    entry = {"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "ro"]}
    made.config["mounts"].append(entry)
    said = lines(
        made,
        "stat -c %a /etc; cat /etc/link; stat -c %u:%g /etc/deep/file; touch /etc/x 2> /dev/null || echo ro",
    )
    assert said[0] == "750" and said[1] == "kept7:8"
    assert said[-1] == "ro"
