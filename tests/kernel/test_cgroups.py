"""Control groups: which controller is where, limits before the program begins, use, removal. Needs root."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.linux import cgroups, devices, mounts
from runtime.linux.cgroups import IoLimit, Limits
from runtime.linux.cgroups_v2 import V2
from runtime.wishes import LimitsRequest, RestartRequest
from tests.kernel.engine_box import PYTHON, Engine, engine
from tests.kernel.shim_box import MEBIBYTE, until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

HOST = cgroups.detect()


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("cgroups")) as made:
        yield made


@pytest.fixture
def path() -> Iterator[str]:
    """A cgroup of this machine."""
    made = f"stead.slice/test{uuid.uuid4().hex[:12]}"
    HOST.create(made)
    yield made
    HOST.kill(made)
    HOST.remove(made)
    assert not any(os.path.exists(f"{root}/{made}") for root in HOST.roots())


def kernel(path: str, controller: str, name: str) -> str:
    owner = HOST.owner(controller)
    root = (
        owner.root if isinstance(owner, V2) else owner.mounted["blkio" if controller == "io" else controller]
    )  # type: ignore[union-attr]
    return Path(root, path, name).read_text().strip()


def test_a_cgroup_that_is_being_removed_is_not_there(path: str) -> None:
    """A file of it that was found answers ENODEV when it is opened a moment later."""
    gone = f"{path}/gone"
    HOST.create(gone)
    held = [os.open(f"{root}/{gone}/cgroup.procs", os.O_PATH) for root in HOST.roots()]
    try:
        HOST.remove(gone)
        for fd in held:
            with pytest.raises(OSError, match="No such device"):
                os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
            assert cgroups.read(f"/proc/self/fd/{fd}") is None
    finally:
        for fd in held:
            os.close(fd)


# ---------------------------------------------------------------- where controllers are


LINE = "{id} 23 0:{id} / {target} rw,nosuid shared:9 - {kind} {kind} rw,{options}"


def table(*rows: tuple[str, str, str]) -> list[mounts.Mount]:
    """Of (target, type, super options), as /proc/self/mountinfo has it."""
    lines = (LINE.format(id=30 + n, target=t, kind=k, options=o) for n, (t, k, o) in enumerate(rows))
    return [mounts.parse_line(line.encode()) for line in lines]


def unified(tmp_path: Path, controllers: str) -> str:
    (tmp_path / "cgroup.controllers").write_text(controllers)
    return str(tmp_path)


def test_a_unified_host_has_every_controller_in_v2(tmp_path: Path) -> None:
    found = cgroups.detect(table((unified(tmp_path, "cpuset cpu io memory pids\n"), "cgroup2", "nsdelegate")))
    assert found.v1 is None and found.v2 is not None
    assert {name: found.owner(name) for name in cgroups.CONTROLLERS} == dict.fromkeys(
        cgroups.CONTROLLERS, found.v2
    )


def test_a_hybrid_host_is_asked_controller_by_controller(tmp_path: Path) -> None:
    found = cgroups.detect(
        table(
            ("/cg/cpu,cpuacct", "cgroup", "cpu,cpuacct"),
            ("/cg/memory", "cgroup", "memory"),
            ("/cg/systemd", "cgroup", "xattr,name=systemd"),
            (unified(tmp_path, "io pids"), "cgroup2", ""),
        )
    )
    assert [name for name in cgroups.CONTROLLERS if found.owner(name) is found.v1] == ["cpu", "memory"]
    assert [name for name in cgroups.CONTROLLERS if found.owner(name) is found.v2] == ["io", "pids"]
    assert found.owner("cpuset") is None
    assert found.roots() == ["/cg/cpu,cpuacct", "/cg/memory", "/cg/systemd", str(tmp_path)]


def test_a_legacy_host_has_v1_only_and_a_host_without_is_told() -> None:
    found = cgroups.detect(table(("/cg/pids", "cgroup", "pids"), ("/cg/blkio", "cgroup", "blkio")))
    assert found.v2 is None
    assert found.owner("io") is found.owner("pids") is found.v1
    with pytest.raises(OSError, match="no hierarchy is mounted"):
        cgroups.detect(table(("/proc", "proc", "")))


def test_a_limit_without_its_controller_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    found = cgroups.detect(table((unified(tmp_path, ""), "cgroup2", "")))
    with pytest.raises(OSError, match="this host has no pids controller"):
        found.apply("x", Limits(pids=5))
    found.apply("x", Limits())


# ---------------------------------------------------------------- limits


LIMITS = Limits(
    cpus=1.5,
    cpu_weight=250,
    cpuset="0",
    memory=64 * MEBIBYTE,
    memory_reservation=32 * MEBIBYTE,
    memory_swap=96 * MEBIBYTE,
    pids=50,
)


def test_limits_are_read_back_as_they_were_set_and_lifted_again(path: str) -> None:
    for limits in (
        LIMITS,
        replace(LIMITS, memory=128 * MEBIBYTE, memory_swap=-1),
        LIMITS,
        Limits(),
        Limits(cpus=0.25),
    ):
        for _ in range(2):
            HOST.apply(path, limits)
            assert HOST.read_limits(path) == cgroups.normalize(limits)


def test_limits_of_a_block_device_are_set_and_lifted(path: str) -> None:
    devices = sorted(Path("/sys/block").glob("*/dev"))
    if HOST.owner("io") is None or not devices:
        pytest.skip("this machine has no io controller or no block device")
    number = devices[0].read_text().strip()
    both = IoLimit(f"/dev/{devices[0].parent.name}", read_bps=1 << 20, write_iops=50)
    for io in ((both,), (IoLimit(number, write_bps=8192),), ()):
        try:
            HOST.apply(path, Limits(io=io))
        except OSError as error:
            assert "the kernel has no" in str(error)
            pytest.skip("this kernel does not throttle")
        assert HOST.read_limits(path) == cgroups.normalize(Limits(io=io))


@pytest.mark.skipif(HOST.v1 is None or not HOST.v1.has("memory"), reason="needs cgroup v1")
def test_values_are_converted_for_v1(path: str) -> None:
    HOST.apply(path, replace(LIMITS, memory_swap=0))
    assert kernel(path, "cpu", "cpu.cfs_quota_us") == "150000"
    assert kernel(path, "cpu", "cpu.cfs_period_us") == "100000"
    assert kernel(path, "cpu", "cpu.shares") == "2560"  # 100 is 1024
    assert kernel(path, "memory", "memory.memsw.limit_in_bytes") == str(128 * MEBIBYTE)  # both together
    HOST.apply(path, replace(LIMITS, memory_swap=96 * MEBIBYTE))
    assert kernel(path, "memory", "memory.memsw.limit_in_bytes") == str(96 * MEBIBYTE)
    for weight in (1, 7, 99, 101, 10000):
        HOST.apply(path, Limits(cpu_weight=weight))
        assert HOST.read_limits(path).cpu_weight == weight


def test_values_are_converted_for_v2(tmp_path: Path) -> None:
    """In files with the kernel's content; what a kernel makes of them is tried in tests/vm."""
    before = {
        "cpu.max": "max 100000",
        "cpu.weight": "100",
        "cpuset.cpus": "",
        "memory.max": "max",
        "memory.low": "0",
        "memory.swap.max": "max",
        "pids.max": "max",
        "io.max": "8:0 rbps=1024 wbps=max riops=max wiops=max",
        "io.weight": "default 100",
    }
    (tmp_path / "x").mkdir()
    for name, content in before.items():
        (tmp_path / "x" / name).write_text(content + "\n")
    host = cgroups.detect(table((unified(tmp_path, "cpuset cpu io memory pids"), "cgroup2", "")))
    assert host.read_limits("x") == Limits(io=(IoLimit("8:0", read_bps=1024),))

    def written(limits: Limits) -> dict[str, str]:
        """What a kernel would get: here it lies over the file's old content."""
        for name, content in before.items():
            (tmp_path / "x" / name).write_text(content + "\n")
        host.apply("x", limits)
        found = {name: (tmp_path / "x" / name).read_text() for name in before}
        return {name: text for name, text in found.items() if text != before[name] + "\n"}

    def assert_written(limits: Limits, expected: dict[str, str]) -> None:
        found = written(limits)
        assert found.keys() == expected.keys()
        assert {name: text for name, text in found.items() if not text.startswith(expected[name])} == {}

    lifted = {"io.max": "8:0 rbps=max wbps=max riops=max wiops=max"}
    swap = {"memory.max": str(64 * MEBIBYTE), "memory.swap.max": str(32 * MEBIBYTE)}  # swap only
    rest = {"memory.low": str(32 * MEBIBYTE), "cpu.max": "150000 100000", "cpu.weight": "250"}
    assert_written(LIMITS, {**lifted, **swap, **rest, "cpuset.cpus": "0", "pids.max": "50"})
    twice = {"memory.max": str(64 * MEBIBYTE), "memory.swap.max": str(64 * MEBIBYTE)}
    assert_written(Limits(memory=64 * MEBIBYTE), {**lifted, **twice})
    assert "memory.swap.max" not in written(Limits(memory=64 * MEBIBYTE, memory_swap=-1))
    assert_written(
        Limits(io=(IoLimit("8:0", write_bps=2048, read_iops=10),), io_weight=50),
        {"io.max": "8:0 rbps=max wbps=2048 riops=10 wiops=max", "io.weight": "default 50"},
    )
    written(Limits())
    (tmp_path / "x/io.max").write_text("")
    (tmp_path / "x/memory.swap.max").unlink()
    host.apply("x", Limits(memory=64 * MEBIBYTE))  # no swap is accounted for, and none was spoken of
    assert host.read_limits("x").memory_swap == 128 * MEBIBYTE
    with pytest.raises(OSError, match=r"the kernel has no memory\.swap\.max"):
        host.apply("x", LIMITS)


def test_values_that_the_kernel_would_round_are_rounded_before() -> None:
    found = cgroups.normalize(Limits(cpus=0.001, cpu_weight=99999, memory=8192 * 1000 + 1, cpuset="0,0"))
    assert (found.cpus, found.cpu_weight, found.memory, found.memory_swap) == (0.01, 10000, 8192000, 16384000)
    assert cgroups.canonical_cpus("3,0,1,7-9,8") == "0-1,3,7-9"
    assert cgroups.normalize(Limits(cpu_weight=100, io_weight=100)) == Limits()


def test_limits_hold_before_the_program_begins(box: Engine) -> None:
    limits = LimitsRequest(cpus=0.5, memory=64 * MEBIBYTE, pids=7)
    name = box.start("cat /proc/self/cgroup; echo begun; exec sleep 1000", limits=limits)
    assert HOST.read_limits(f"stead.slice/{box.id(name)}") == cgroups.normalize(
        Limits(cpus=0.5, memory=64 * MEBIBYTE, pids=7)
    )
    pid = box.state(name).pid
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        assert line.endswith(f"/stead.slice/{box.id(name)}")
    box.runtime.remove_container(name)


def test_a_number_of_processes_is_not_exceeded(box: Engine) -> None:
    result = box.run(
        "for n in 1 2 3 4 5 6 7 8 9; do sleep 100 & done; echo over", limits=LimitsRequest(pids=5)
    )
    assert "can't fork" in result.errors
    assert "over" not in result.text or result.code != 0


def test_an_oom_kill_of_a_child_is_counted_and_is_not_the_containers(box: Engine) -> None:
    eat = "x=0123456789abcdef; while :; do x=$x$x$x$x; done"
    name = box.start(
        f"sh -c '{eat}'; echo survived $?; exec sleep 1000", limits=LimitsRequest(memory=16 * MEBIBYTE)
    )
    until(lambda: "survived 137" in box.output(name))
    (sample,) = [item for item in box.runtime.sample() if item.name == name]
    assert sample.oom_events == 1
    seen = box.runtime.observe().containers[name]
    assert (seen.phase, seen.oom_killed) == ("running", False)
    os.kill(seen.pid, signal.SIGKILL)  # 137, and an OOM kill before, but not this one
    state = box.result(name).state
    assert state is not None
    assert state.exit_code == 137
    box.runtime.remove_container(name)


def test_only_an_oom_kill_of_this_run_counts(box: Engine) -> None:
    name = box.start(
        "sleep 1000", restart=RestartRequest("always"), limits=LimitsRequest(memory=16 * MEBIBYTE)
    )
    before = box.state(name)
    os.kill(before.pid, signal.SIGKILL)
    until(lambda: box.state(name).restarts == 1 and box.state(name).phase == "running")
    assert (box.state(name).exit_code, box.state(name).oom_killed) == (137, False)
    box.runtime.remove_container(name)


def test_use_is_counted(path: str) -> None:
    lines = (
        "import time",
        "input()",
        "x = b'x' * (30 << 20)",
        "while time.process_time() < 0.2: pass",
        "input()",
    )
    with subprocess.Popen([PYTHON, "-I", "-S", "-c", "\n".join(lines)], stdin=subprocess.PIPE) as process:
        HOST.add(path, process.pid)  # what it has taken before is counted elsewhere
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        until(lambda: HOST.stats(path).cpu_seconds >= 0.08 and HOST.stats(path).memory_rss > 20 * MEBIBYTE)
        stats = HOST.stats(path)
        assert stats.pids == 1
        assert stats.memory_usage >= stats.memory_working_set > 20 * MEBIBYTE
        process.communicate(b"\n")


# ---------------------------------------------------------------- devices of v2

OPEN = """
import os, sys
sys.stdin.readline()
for path, flags in (("/dev/null", os.O_RDWR), (sys.argv[1], os.O_RDONLY), (sys.argv[1], os.O_RDWR)):
    try:
        os.close(os.open(path, flags))
        print("yes")
    except PermissionError:
        print("no")
try:
    os.mknod(sys.argv[2], 0o020600, os.makedev(1, 1))
    print("yes")
except PermissionError:
    print("no")
"""


@pytest.mark.skipif(HOST.v2 is None, reason="needs cgroup v2, be it without controllers")
def test_the_device_program_of_v2_allows_what_the_rules_say(path: str, tmp_path: Path) -> None:
    device = next(
        (name for name in ("/dev/loop0", "/dev/fuse", "/dev/vda", "/dev/sda") if _opens(name)), None
    )
    if device is None:
        pytest.skip("this machine has no device to try with")
    assert HOST.v2 is not None

    def found(*rules: dict[str, object]) -> list[str]:
        directory = os.open(f"{HOST.v2.root}/{path}", os.O_RDONLY | os.O_DIRECTORY)  # type: ignore[union-attr]
        try:
            devices.attach_program(directory, devices.cgroup_rules(rules))
        finally:
            os.close(directory)
        (tmp_path / "node").unlink(missing_ok=True)
        arguments = [PYTHON, "-I", "-S", "-c", OPEN, device, str(tmp_path / "node")]
        with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            HOST.add(path, process.pid)
            return process.communicate("\n")[0].split()

    assert found() == ["yes", "no", "no", "yes"]
    assert found({"allow": True, "path": device, "access": "r"}) == ["yes", "yes", "no", "yes"]
    assert found({"allow": True, "path": device, "access": "rw"}) == ["yes", "yes", "yes", "yes"]
    assert found({"allow": False, "access": "rwm"}) == ["yes", "no", "no", "yes"]
    assert found({"allow": True, "access": "rwm"}) == ["yes", "yes", "yes", "yes"]


def _opens(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError:
        return False
    return True


# ---------------------------------------------------------------- the end


def test_a_tree_with_a_fork_bomb_in_it_is_killed_and_removed(path: str) -> None:
    inner = f"{path}/inner"
    HOST.create(inner)
    HOST.apply(path, Limits(pids=40))
    bomb = "while :; do (sleep 100 &) ; done 2>/dev/null"
    with subprocess.Popen(["sh", "-c", f"trap '' TERM HUP; {bomb}"], start_new_session=True) as process:
        HOST.add(inner, process.pid)
        until(lambda: len(HOST.pids(path)) > 10)
        HOST.kill(path)
        assert HOST.pids(path) == []
        process.wait()
    HOST.remove(path)
    HOST.remove(path)
    HOST.create(path)


def test_a_cgroup_whose_process_is_about_to_end_is_waited_for(path: str) -> None:
    with subprocess.Popen(["sleep", "1"]) as process:
        HOST.add(path, process.pid)
        began = time.monotonic()
        HOST.remove(path)
        assert time.monotonic() - began >= 0.1
    HOST.create(path)
