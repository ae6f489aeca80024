"""A further program in a running container: like the container's own in all that holds it. Needs root."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import attend
from runtime.faults import Fault
from runtime.shim import client
from runtime.wishes import LimitsRequest, RestartRequest
from tests.kernel.engine_box import Engine, engine
from tests.kernel.shim_box import until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("exec")) as made:
        yield made


STATUS = "grep -E 'Cap|Seccomp|NoNewPrivs|Uid|Gid|Groups|Umask|Sig(Blk|Ign)' /proc/self/status"
SHOW = f"""
cd /proc/self/ns; for n in *; do echo $n $(readlink $n); done; cd /
{STATUS}; cat /proc/self/cgroup /proc/self/limits /proc/self/mountinfo /proc/self/oom_score_adj
env | grep -v SHLVL; pwd
"""


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"user": "web", "group_add": ("third",), "no_new_privileges": True, "working_dir": "/home/web"},
        {"cap_add": ("NET_ADMIN",), "cap_drop": ("KILL",), "ulimits": (("nofile", 64, 128), ("core", 0, 0))},
        {"privileged": True, "pid_mode": "host", "uts_mode": "host", "environment": {"A": "1 2"}},
        {"seccomp_unconfined": True, "ipc_mode": "host", "read_only": True, "hostname": "own"},
    ],
    ids=["plain", "user", "rights", "privileged", "unconfined"],
)
def test_exec_has_all_that_the_containers_program_has(box: Engine, request_: dict) -> None:
    name = box.start(SHOW + "exec sleep 1000", **request_)
    until(lambda: "sleep" in Path(f"/proc/{box.state(name).pid}/comm").read_text())
    found = box.exec(name, SHOW)
    assert found.errors == ""
    assert found.lines == box.output(name).splitlines()
    box.runtime.remove_container(name)


def test_exec_may_run_as_another_user_elsewhere_with_more_environment(box: Engine) -> None:
    name = box.start("sleep 1000", environment={"A": "1", "B": "2"})
    script = "echo $(id -u):$(id -g) $(id -G); pwd; echo $HOME $A $B; grep CapEff /proc/self/status"
    options = {"user": "web", "working_dir": "/tmp", "environment": {"B": "3"}}
    lines = box.exec(name, script, **options).lines
    assert lines[0].split()[0] == "1000:1000"
    assert {*lines[0].split()[1:]} == {"1000", "2000", "2001"}
    assert lines[1:] == ["/tmp", "/home/web 1 3", "CapEff:\t0000000000000000"]
    assert box.exec(name, "echo out >/dev/stdout", user="web").text == "out\n"
    with pytest.raises(Fault, match="no such user"):
        box.exec(name, "true", user="nobody")
    box.runtime.remove_container(name)


def test_exec_as_root_in_another_users_container_has_the_bounding_set(box: Engine) -> None:
    name = box.start("sleep 1000", user="web", cap_drop=("KILL",))
    lines = box.exec(name, "grep -E 'CapEff|CapBnd' /proc/self/status", user="root").lines
    assert len({line.split()[1] for line in lines}) == 1
    box.runtime.remove_container(name)


def test_the_end_of_input_and_both_outputs_are_passed_on(box: Engine) -> None:
    name = box.start("sleep 1000")
    result = box.exec(name, "cat; echo over; echo errors >&2; exit 41", stdin=b"some input\n")
    assert (result.code, result.text, result.errors) == (41, "some input\nover\n", "errors\n")
    assert box.exec(name, "kill -9 $$").code == 137
    box.runtime.remove_container(name)


def test_a_directory_of_the_host_is_no_stream(box: Engine) -> None:
    name = box.start("sleep 1000")
    record = attend.find(box.paths, name)
    process = attend.exec_process(box.paths, record, attend.ExecOptions(("ls", "/proc/self/fd/0/"), {}))
    directory = os.open("/etc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(client.ShimError, match="a directory cannot be a stream"):
            client.exec_process(box.paths.live(record.id), process, stdio=(directory, directory, directory))
    finally:
        os.close(directory)
        box.runtime.remove_container(name)


def test_the_command_line_hands_the_container_pipes_and_not_its_own_streams(
    box: Engine, tmp_path: Path
) -> None:
    name = box.start("sleep 1000")
    mine = tmp_path / "mine"
    with open(mine, "wb") as file:
        script = "for n in 0 1 2; do readlink /proc/$$/fd/$n; done; chmod 4777 /proc/$$/fd/1"
        done = subprocess.run(
            box.stead("exec", "-i", name, "sh", "-c", script),
            stdin=subprocess.DEVNULL,
            stdout=file,
            check=False,
        )
    assert done.returncode == 0
    assert [line.partition(":")[0] for line in mine.read_text().splitlines()] == ["pipe"] * 3
    assert mine.stat().st_mode & 0o7777 == 0o644
    box.runtime.remove_container(name)


def test_the_command_line_copies_all_that_goes_in_and_comes_out(box: Engine) -> None:
    name = box.start("sleep 1000")
    data = os.urandom(3_000_000)
    done = subprocess.run(box.stead("exec", "-i", name, "cat"), input=data, capture_output=True, check=True)
    assert done.stdout == data
    script = "echo out; echo err >&2; sleep 1000 & exit 3"
    done = subprocess.run(box.stead("exec", name, "sh", "-c", script), input=data, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
    done = subprocess.run(box.stead("exec", "-i", name, "true"), input=data, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    with subprocess.Popen(box.stead("exec", name, "yes"), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(2) == b"y\n"
        process.stdout.close()
        assert process.wait(10) in (141, 1)  # the program's own end: SIGPIPE, or a failed write
    box.runtime.remove_container(name)


def test_a_command_may_be_as_long_as_the_kernel_takes_it(box: Engine) -> None:
    """Longer than a packet of the shim's socket; execve(2) takes 2 MiB, of strings of 128 KiB."""
    name = box.start("sleep 1000", environment={f"V{number}": "x" * 100_000 for number in range(3)})
    script = 'echo "$*" | wc -c; env | wc -c'
    command = box.stead("exec", "-e", "W=" + "y" * 100_000, name, "sh", "-c", script)
    words = ["a" * 100_000, "b" * 100_000, "c" * 100_000]
    done = subprocess.run([*command, "sh", *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    shown, environment = map(int, done.stdout.split())
    assert shown == 300_003 and environment > 400_000
    done = subprocess.run(
        [*box.stead("exec", name, "true"), *(18 * ["a" * 100_000])], capture_output=True, text=True
    )
    assert (done.returncode, "exec true: argument list too long" in done.stderr) == (126, True)
    assert box.exec(name, "echo lives").lines == ["lives"]
    box.runtime.remove_container(name)


def test_exec_is_refused_where_nothing_runs(box: Engine) -> None:
    created = box.create("true")
    with pytest.raises(Fault, match="it is not running"):
        box.exec(created, "true")
    ended = box.start("true")
    box.result(ended)
    with pytest.raises(Fault, match="it is not running"):
        box.exec(ended, "true")
    waiting = box.start("exit 1", restart=RestartRequest("always", initial=60.0))
    until(lambda: box.state(waiting).phase == "backoff")
    with pytest.raises(Fault, match="it is not running"):
        box.exec(waiting, "true")
    for name in (created, ended, waiting):
        box.runtime.remove_container(name)


def test_exec_comes_into_a_container_that_is_full(box: Engine) -> None:
    name = box.start("sleep 1000 & sleep 1000 & sleep 1000 & wait", limits=LimitsRequest(pids=4))
    until(lambda: [item.pids for item in box.runtime.sample() if item.name == name] == [4])
    assert box.exec(name, "echo", "in").text == "in\n"
    box.runtime.remove_container(name)


def test_exec_and_what_it_started_end_with_the_container(box: Engine) -> None:
    name = box.start("sleep 1000")
    codes: list[int] = []
    script = "sleep 1000 & setsid sleep 1000 & echo ready > /tmp/ready; wait"
    thread = threading.Thread(target=lambda: codes.append(box.exec(name, script).code))
    thread.start()
    ready = box.paths.rootfs(box.id(name)) / "tmp/ready"
    until(ready.exists)
    pids = box.runtime._cgroups.pids(f"stead.slice/{box.id(name)}")
    assert len(pids) == 4
    box.runtime.stop_container(name)
    thread.join(10)
    assert codes == [137]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    box.runtime.remove_container(name)


def test_exec_changes_nothing_of_the_container(box: Engine) -> None:
    name = box.start("sleep 1000")
    before = box.state(name)
    for _ in range(3):
        assert box.exec(name, "true").code == 0
    assert box.exec(name, "exit 9").code == 9
    assert box.state(name) == before
    box.runtime.remove_container(name)
