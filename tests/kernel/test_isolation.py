"""What a container sees and may do, looked at from inside: its root, its devices, its rights. Needs root."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.bundle import DEFAULT_CAPABILITIES, MASKED, READ_ONLY
from runtime.faults import Fault
from runtime.linux import capabilities
from specs.values import MountPoint
from tests.kernel.engine_box import PYTHON, Engine, bind, engine, with_python
from tests.kernel.shim_box import until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


DEVICES = ("/dev/loop0", "/dev/fuse", "/dev/zram0", "/dev/vda", "/dev/sda", "/dev/nvme0n1")


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("isolation")) as made:
        yield made


def status(box: Engine, **request: object) -> dict[str, str]:
    """/proc/self/status of a container's program."""
    lines = box.run("cat /proc/self/status", **request).lines
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def python(box: Engine, text: str, **request: object) -> list[str]:
    result = box.run(PYTHON, "-I", "-S", "-c", text, mounts=with_python(), **request)
    assert result.code == 0, result.errors
    return result.lines


# ---------------------------------------------------------------- namespaces


def test_every_namespace_but_user_and_time_is_its_own(box: Engine) -> None:
    lines = box.run("cd /proc/self/ns; for n in *; do echo $n $(readlink $n); done").lines
    inside = dict(line.split() for line in lines)
    same = {kind for kind, name in inside.items() if os.readlink(f"/proc/self/ns/{kind}") == name}
    assert same == {"user", "time", "time_for_children"} & inside.keys()


def test_namespaces_of_the_host_are_shared_where_asked_for(box: Engine) -> None:
    modes = {"pid_mode": "host", "ipc_mode": "host", "uts_mode": "host", "network_mode": "host"}
    lines = box.run("cd /proc/self/ns; for n in *; do echo $n $(readlink $n); done", **modes).lines
    inside = dict(line.split() for line in lines)
    for kind in ("pid", "ipc", "uts", "net"):
        assert inside[kind] == os.readlink(f"/proc/self/ns/{kind}")


def test_the_program_is_pid_1_and_sees_nothing_of_the_host(box: Engine) -> None:
    result = box.run("echo $$; ls -d /proc/[0-9]* | wc -l; cat /proc/self/cgroup")
    assert result.lines[0] == "1"
    assert int(result.lines[1]) <= 3
    assert all(line.endswith(":/") for line in result.lines[2:])


def test_hostname_and_domainname_are_set_in_the_container_only(box: Engine) -> None:
    before = os.uname().nodename
    result = box.run("hostname; cat /proc/sys/kernel/domainname", hostname="own", domainname="example.net")
    assert result.lines == ["own", "example.net"]
    assert os.uname().nodename == before
    assert box.run("hostname; mkdir /x; hostname other; echo $?").lines[-1] == "1"  # no CAP_SYS_ADMIN


def test_sysctls_of_its_own_namespaces_are_set_and_others_refused(box: Engine) -> None:
    before = Path("/proc/sys/kernel/shmmni").read_text()
    sysctls = {"net.ipv4.ip_forward": "1", "kernel.shmmni": "77", "fs.mqueue.msg_max": "20"}
    shown = "for k in net.ipv4.ip_forward kernel.shmmni fs.mqueue.msg_max; do sysctl -n $k; done"
    assert box.run(shown, sysctls=sysctls).lines == ["1", "77", "20"]
    assert Path("/proc/sys/kernel/shmmni").read_text() == before
    own = (("vm.swappiness", {}), ("net/../vm/swappiness", {}))
    for key, mode in (*own, ("net.ipv4.ip_forward", {"network_mode": "host"})):
        with pytest.raises(Fault, match=f"sysctl {key}: it is not the container's own"):
            box.run("true", sysctls={key: "1"}, **mode)
    with pytest.raises(Fault, match=r"net\.ipv4\.ip_forward=abc: invalid argument"):  # which
        box.run("true", sysctls={"kernel.shmmni": "77", "net.ipv4.ip_forward": "abc"})


def test_another_user_may_bind_low_ports_and_ping(box: Engine) -> None:
    keys = ("net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range")
    assert box.run(f"sysctl -n {keys[0]} {keys[1]}").text.split() == ["0", "0", "2147483647"]


def test_a_container_has_a_session_keyring_of_its_own(box: Engine) -> None:
    """keyctl(2): KEYCTL_GET_KEYRING_ID = 0, KEY_SPEC_SESSION_KEYRING = -3."""
    ask = "import ctypes; print(ctypes.CDLL(None).syscall(250, 0, -3, 0))"
    if os.uname().machine != "x86_64":
        ask = ask.replace("250", "219")
    first, second = (int(python(box, ask, seccomp_unconfined=True)[0]) for _ in range(2))
    assert first > 0 and second > 0 and first != second


# ---------------------------------------------------------------- files


def test_dev_holds_what_every_container_has_and_nothing_else(box: Engine) -> None:
    lines = box.run(
        "cd /dev; ls; for n in null zero full random urandom tty; do stat -c '%n %a %t:%T' $n; done"
    ).lines
    names = {"core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm"}
    names |= {"stderr", "stdin", "stdout", "tty", "urandom", "zero"}
    assert set(lines[: len(names)]) == names
    numbers = {"null": "1:3", "zero": "1:5", "full": "1:7", "random": "1:8", "urandom": "1:9", "tty": "5:0"}
    assert lines[len(names) :] == [f"{name} 666 {number}" for name, number in numbers.items()]
    links = box.run("cd /dev; for n in fd stdin stdout stderr ptmx; do readlink $n; done").lines
    assert links == ["/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "pts/ptmx"]


def test_dev_can_be_used(box: Engine) -> None:
    assert box.run(
        "head -c 4 /dev/zero | wc -c; echo x > /dev/null; echo full > /dev/full; echo $?"
    ).lines == ["4", "1"]
    made = python(
        box, "import os; a, b = os.openpty(); print(os.ttyname(b), oct(os.fstat(b).st_mode & 0o777))"
    )
    assert made == ["/dev/pts/0 0o620"]


def test_shm_has_64_mib_unless_another_size_is_given(box: Engine) -> None:
    shown = "df -k /dev/shm | tail -n 1; stat -c %a /dev/shm"
    first, second = (box.run(shown, **more).lines for more in ({}, {"shm_size": 1 << 20}))
    assert (first[0].split()[1], first[1]) == ("65536", "1777")
    assert second[0].split()[1] == "1024"
    used = box.run("dd if=/dev/zero of=/dev/shm/x bs=1M count=2 2>&1; ls -l /dev/shm/x", shm_size=1 << 20)
    assert "No space left" in used.text


def test_masked_paths_are_empty_and_read_only(box: Engine) -> None:
    there = [path for path in MASKED if os.path.exists(path)]
    assert there
    files = " ".join(path for path in there if not os.path.isdir(path))
    directories = " ".join(path for path in there if os.path.isdir(path))
    result = box.run(f"cat {files}; ls -A {directories or '/tmp'} | grep -v :; touch {directories}/x; true")
    assert result.text.split() == []
    assert not directories or "Read-only" in result.errors
    unmasked = box.run(f"head -c 1 {files.split()[0]} | wc -c", privileged=True)
    assert unmasked.lines == ["1"]


def test_parts_of_proc_and_all_of_sys_are_read_only(box: Engine) -> None:
    paths = [path for path in READ_ONLY if os.path.isdir(path)]
    shown = box.run("cat /proc/self/mountinfo").lines
    options = {line.split()[4]: line.split()[5].split(",") for line in shown}
    for path in (*paths, "/sys", "/sys/fs/cgroup"):
        assert "ro" in options[path], path
        assert {"nosuid", "nodev", "noexec"} <= set(options[path]), path
    if os.path.exists("/proc/sysrq-trigger"):
        assert "ro" in options["/proc/sysrq-trigger"]
    for line in shown:
        assert "/sys/fs/cgroup" not in line.split()[4] or "ro" in line.split()[5].split(",")
    assert box.run("echo x > /proc/sys/kernel/shmmni; echo $?; mkdir /sys/fs/cgroup/x; echo $?").lines == [
        "1",
        "1",
    ]


def test_a_read_only_root_leaves_volumes_and_tmpfs_writable(box: Engine, tmp_path: Path) -> None:
    places = (
        bind(str(tmp_path), "/data", read_only=False),
        MountPoint("tmpfs", "", "/scratch", tmpfs_size=1 << 20),
    )
    script = "for d in / /etc /data /scratch /dev/shm; do touch $d/x && echo $d; done"
    assert box.run(script, read_only=True, mounts=places).lines == ["/data", "/scratch", "/dev/shm"]
    assert (tmp_path / "x").exists()


def test_only_the_standard_streams_are_open(box: Engine) -> None:
    name = box.start("sleep", "1000")  # a shell has others of its own at times
    fds = f"/proc/{box.state(name).pid}/fd"
    expected = {"0": "/dev/null", "1": "pipe:", "2": "pipe:"}
    until(lambda: set(os.listdir(fds)) == set(expected))  # the kernel is heard of amid closing, execve(2)
    assert all(os.readlink(f"{fds}/{fd}").startswith(target) for fd, target in expected.items())
    box.runtime.remove_container(name)


# ---------------------------------------------------------------- rights


SOME = {*DEFAULT_CAPABILITIES} - {"CAP_MKNOD", "CAP_KILL"}


def names(mask: str) -> set[str]:
    bits = int(mask, 16)
    return {name for number, name in enumerate(capabilities.NAMES) if bits >> number & 1}


def test_root_has_the_14_default_capabilities(box: Engine) -> None:
    found = status(box)
    assert len(DEFAULT_CAPABILITIES) == 14
    for kind in ("CapEff", "CapPrm", "CapBnd"):
        assert names(found[kind]) == set(DEFAULT_CAPABILITIES)
    assert names(found["CapInh"]) == names(found["CapAmb"]) == set()


def test_another_user_has_none_and_keeps_the_bounding_set(box: Engine) -> None:
    found = status(box, user="web", cap_add=("NET_ADMIN",))
    assert names(found["CapEff"]) == names(found["CapPrm"]) == names(found["CapAmb"]) == set()
    assert names(found["CapBnd"]) == {*DEFAULT_CAPABILITIES, "CAP_NET_ADMIN"}


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        (("NET_ADMIN",), ("MKNOD", "CAP_KILL"), {*SOME, "CAP_NET_ADMIN"}),
        (("KILL",), ("ALL",), {"CAP_KILL"}),
        ((), ("ALL",), set()),
        (("ALL",), ("SYS_ADMIN",), {*capabilities.bounding()} - {"CAP_SYS_ADMIN"}),
    ],
    ids=["some", "one", "none", "all-but-one"],
)  # fmt: skip
def test_capabilities_are_dropped_then_added(box: Engine, add: tuple, drop: tuple, expected: set) -> None:
    found = status(box, cap_add=add, cap_drop=drop)
    assert names(found["CapEff"]) == names(found["CapBnd"]) == expected


def test_a_capability_that_the_host_lacks_is_named(box: Engine) -> None:
    missing = set(capabilities.NAMES) - set(capabilities.bounding())
    if not missing:
        pytest.skip("this machine gives every capability")
    name = sorted(missing)[0]
    with pytest.raises(Fault, match=f"cap_add asks for {name}"):
        box.start("true", cap_add=(name,))


def test_a_privileged_container_has_what_the_host_has(box: Engine) -> None:
    found = status(box, privileged=True)
    assert names(found["CapEff"]) == set(capabilities.bounding())
    assert found["Seccomp"] == "0"
    assert box.run("ls /dev/kmsg", privileged=True).lines == ["/dev/kmsg"]


def test_what_a_container_is_without_is_shown(box: Engine) -> None:
    name = box.create("true", cap_add=("NET_ADMIN",), seccomp_unconfined=True)
    shown = subprocess.run(box.stead("ps", "-a", "--json"), capture_output=True, text=True, check=True).stdout
    (mine,) = [item for item in json.loads(shown) if item["name"] == name]
    assert mine["loosened"] == ["cap_add NET_ADMIN", "seccomp unconfined"]
    assert box.runtime.observe().containers[name].loosened == ("cap_add NET_ADMIN", "seccomp unconfined")
    box.runtime.remove_container(name)


def test_no_new_privileges_is_kept_where_asked_for(box: Engine) -> None:
    assert status(box)["NoNewPrivs"] == "0"
    for user in ("", "web"):
        found = status(box, no_new_privileges=True, user=user)
        assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")


def test_rlimits_are_set_and_one_above_the_hosts_is_what_the_host_gives(box: Engine) -> None:
    ulimits = (("nofile", 100, 200), ("core", 0, 0), ("nproc", 50, 60), ("locks", 5, 6), ("rttime", 7, 8))
    lines = box.run("cat /proc/self/limits", ulimits=ulimits).lines
    limits = {line[:26].strip(): line[26:].split()[:2] for line in lines}
    assert limits["Max open files"] == ["100", "200"]
    assert limits["Max core file size"] == ["0", "0"]
    assert limits["Max processes"] == ["50", "60"]
    assert limits["Max file locks"] == ["5", "6"]
    assert limits["Max realtime timeout"] == ["7", "8"]
    above, own = (("nofile", 1, 9_999_999_999),), resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if "CAP_SYS_RESOURCE" in capabilities.bounding():  # the kernel refuses it: fs.nr_open
        with pytest.raises(Fault, match=rf"cannot set RLIMIT_NOFILE to 1:9999999999, .* limit is {own}"):
            box.start("true", ulimits=above)
    else:
        assert box.run("ulimit -Sn; ulimit -Hn", ulimits=above).lines == ["1", str(own)]


CALLS = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    ctypes.set_errno(0)
    libc.syscall(number, *arguments)
    print(errno.errorcode.get(ctypes.get_errno(), "ok"))
call(435, None, 0)  # clone3
call(452, -1, b"x", 0, 0)  # fchmodat2: allowed, and newer than this libseccomp
call(448, -1, 0)  # process_mrelease
call(430, b"tmpfs", 0)  # fsopen
call(500)  # none yet
libc.unshare.argtypes = [ctypes.c_int]
ctypes.set_errno(0); libc.unshare(0x10000000); print(errno.errorcode.get(ctypes.get_errno(), "ok"))
"""


def test_the_default_filter_refuses_what_docker_refuses(box: Engine) -> None:
    assert status(box)["Seccomp"] == "2"
    # a C library falls back after ENOSYS, and gives up after EPERM
    assert python(box, CALLS) == ["ENOSYS", "EBADF", "EBADF", "EPERM", "ENOSYS", "EPERM"]
    assert python(box, CALLS, cap_add=("SYS_ADMIN",))[3] == "ok"
    unconfined = python(box, CALLS, seccomp_unconfined=True)
    assert status(box, seccomp_unconfined=True)["Seccomp"] == "0"
    assert unconfined[-1] == "ok"


def test_families_of_sockets_are_refused_whatever_the_upper_half_of_the_register_holds(box: Engine) -> None:
    """The kernel takes 32 bits of a family, where a filter compares 64."""
    if os.uname().machine != "x86_64":
        pytest.skip("the number of socket(2) is that of x86_64")
    text = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
for family in (1, 38, 40):
    for upper in (0, 1 << 32, -1 << 32):
        ctypes.set_errno(0)
        libc.syscall(41, ctypes.c_long(upper | family), ctypes.c_long(1), ctypes.c_long(0))
        print(family, errno.errorcode.get(ctypes.get_errno(), "ok"))
"""
    assert python(box, text) == [*["1 ok"] * 3, *["38 EPERM"] * 3, *["40 EPERM"] * 3]


def test_a_program_of_the_other_word_size_is_filtered_too(box: Engine) -> None:
    """Through int 0x80 the numbers of i386 count: unshare is 310 there."""
    if os.uname().machine != "x86_64":
        pytest.skip("int 0x80 is of x86")
    text = """
import ctypes, mmap
code = bytes.fromhex("53" "b836010000" "bb00000010" "cd80" "5b" "c3")  # unshare(CLONE_NEWUSER)
memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
memory.write(code)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
print(ctypes.CFUNCTYPE(ctypes.c_int)(address)())
"""
    assert python(box, text) == ["-1"]
    assert python(box, text, seccomp_unconfined=True) == ["0"]


def test_devices_are_denied_but_for_the_default_ones(box: Engine) -> None:
    nodes = "mknod /tmp/mem c 1 1; mknod /tmp/disk b 7 0; mknod /tmp/zero c 1 5"
    result = box.run(f"{nodes}; head -c 1 /tmp/mem /tmp/disk; head -c 1 /tmp/zero | wc -c")
    assert result.lines[-1] == "1"
    assert result.errors.count("Operation not permitted") == 2


def test_a_device_that_was_given_is_there_with_the_access_given(box: Engine) -> None:
    device = next((path for path in DEVICES if opens(path)), None)
    if device is None:
        pytest.skip(f"this machine has none of {', '.join(DEVICES)}")
    opening = "stat -c %t:%T /dev/mine; (: < /dev/mine) && echo read; (: >> /dev/mine) && echo write"
    lines = {
        mode: box.run(opening, devices=((device, "/dev/mine", mode),)).lines for mode in ("r", "w", "rw")
    }
    number = os.stat(device).st_rdev
    name = f"{os.major(number):x}:{os.minor(number):x}"
    assert lines == {"r": [name, "read"], "w": [name, "write"], "rw": [name, "read", "write"]}


def test_every_device_of_a_directory_is_given(box: Engine, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for name, minor in (("null", 3), ("below/zero", 5), ("below/mem", 1)):
        os.mknod(tmp_path / name, 0o020666, os.makedev(1, minor))
    (tmp_path / "text").touch()
    script = "cd /dev/mine; ls * ; head -c 1 below/zero | wc -c; (: < below/mem) && echo read"
    result = box.run(script, devices=((str(tmp_path), "/dev/mine", "r"),), cap_add=("SYS_RAWIO",))
    assert result.lines[:5] == ["null", "", "below:", "mem", "zero"]
    assert result.lines[5] == "1"
    with pytest.raises(Fault, match=r"device .*/missing does not exist"):
        box.start("true", devices=((str(tmp_path / "missing"), "/dev/mine", "r"),))


def opens(path: str) -> bool:
    """Whether this test itself may use the device."""
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError:
        return False
    return True
