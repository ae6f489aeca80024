"""Places that wait for the next container: who gets one notices nothing, and who gets none either."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from runtime import spares
from runtime.faults import Fault
from runtime.linux import cgroups, mounts, pidfd
from runtime.prepare import cgroup_path
from runtime.wishes import LimitsRequest
from specs.values import PortBinding
from tests.kernel.engine_box import Engine, Result, engine
from tests.kernel.shim_box import until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

#: what a program can see of what was made for it
LOOK = """
cut -d ' ' -f 4- /proc/self/mountinfo
grep -v -E 'ctxt|Vm|Rss|SigQ|HugetlbPages' /proc/self/status
cat /proc/self/limits /proc/self/oom_score_adj /proc/self/cgroup /proc/sys/net/ipv4/ip_unprivileged_port_start
ls -l /proc/self/fd | cut -d ' ' -f 1-4
for path in /dev/* /dev/.; do stat -c '%F %a %u %g %t %T %N' $path; done
stat -c '%n %a %u %g' / /proc /sys /dev /dev/shm /dev/mqueue /sys/fs/cgroup /sys/fs/cgroup/* /tmp
echo /proc/[0-9]*; hostname | tr -d '0-9a-f'; ls /sys/class/net; umask; pwd; env; id
"""


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Engine]:
    with engine(tmp_path, stays=True) as made:
        yield made


def waiting(box: Engine) -> str:
    """The id of the place that waits, once there is one and its first process has come to its wait."""

    def found() -> str:
        id = next(iter(spares.waiting(box.paths)), "")
        return id if id and _sleeps(id) else ""

    return str(until(found))


def _sleeps(id: str) -> bool:
    pids = members(id)
    with suppress(OSError):
        return bool(pids) and "pipe_read" in Path(f"/proc/{pids[0]}/wchan").read_text()
    return False


def members(id: str) -> list[int]:
    try:
        return cgroups.detect().pids(cgroup_path(id))
    except OSError:
        return []


def warm(box: Engine, **request: Any) -> str:
    """A place waits that is right for the same request. Its id."""
    box.run("true", **{"source": "", "command": ("true",), **request})
    return waiting(box)


def gone(box: Engine, id: str) -> bool:
    paths = [box.paths.live(id), box.paths.container(id)]
    paths += [Path(top, cgroup_path(id)) for top in cgroups.detect().roots()]
    return not any(path.exists() for path in paths)


def plain(text: str, id: str) -> list[str]:
    """Without what is another one in each container."""
    text = re.sub(
        r"(?<=[/ ])[0-9a-f]{32}|Pid:.*|PPid:.*|NSpid:.*|NStgid:.*|NSpgid:.*|NSsid:.*|Tgid:.*", "", text
    )
    text = re.sub(r"(lowerdir|upperdir|workdir)=[^ ,]*|master:\d+|\b\d+:\d+\b|" + id[:12], "", text)
    return text.splitlines()


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"auto_remove": "attended"},
        {"privileged": True},
        {"ipc_mode": "host", "uts_mode": "host", "cgroup_mode": "host"},
        {"ipc_mode": "none", "read_only": True, "shm_size": 1 << 20},
        {"limits": LimitsRequest(memory=128 << 20, pids=50, cpus=0.5), "oom_score_adj": 100},
        {"user": "web", "network_mode": "bridge"},
    ],
    ids=["plain", "attended", "privileged", "of-the-host", "no-ipc", "limited", "user"],
)
def test_a_program_in_a_place_that_waited_sees_what_it_sees_in_one_made_for_it(
    box: Engine, tmp_path: Path, request_: dict[str, Any]
) -> None:
    request = {"source": "", "hostname": "abc", **request_}
    seen: list[list[str]] = []
    taken = warm(box, **request)
    for expected in (taken, ""):
        name = box.create(LOOK, **request)
        id = box.id(name)
        assert not expected or id == expected
        box.runtime.start_container(name)
        result = box.result(name)
        assert result.code == 0, result.errors
        seen.append(plain(result.text, id))
        box.runtime.remove_container(name)
        if expected:
            box.runtime.containers.close()  # the next one has its place made for it
    assert seen[0] == seen[1]
    assert len(seen[0]) > 60
    assert gone(box, taken)


def test_limits_and_devices_hold_in_a_place_that_was_made_with_others(box: Engine) -> None:
    id = warm(box)
    request = {"source": "", "limits": LimitsRequest(memory=96 << 20, pids=30)}
    name = box.start(
        "sleep 100", **request, devices=(("/dev/loop-control", "/dev/loop", "r"),), cap_add=("MKNOD",)
    )
    assert box.id(name) == id
    limits = cgroups.detect().read_limits(cgroup_path(id))
    assert (limits.memory, limits.pids) == (96 << 20, 30)
    assert box.exec(name, ": < /dev/loop").code == 0
    assert box.exec(name, ": > /dev/loop").code == 1
    refused = box.exec(name, "mknod /tmp/disk b 8 0 && head -c 1 /tmp/disk")
    assert "not permitted" in refused.errors.lower()
    box.runtime.remove_container(name)
    assert gone(box, id)


@pytest.mark.parametrize(
    "request_",
    [
        {"pid_mode": "host"},
        {"tty": True},
        {"network_mode": "host"},
        {"userns": "auto", "userns_size": 65536},
        {"limits": LimitsRequest(memory=8 << 20)},
        {"oom_score_adj": 77},
        {"auto_remove": "attended"},
        {"cgroup_mode": "host"},
    ],
    ids=lambda request: next(iter(request)),
)
def test_who_needs_another_place_has_one_and_the_first_is_gone(box: Engine, request_: dict[str, Any]) -> None:
    id = warm(box)
    before = members(id)
    name = box.start("sleep 100", source="", **request_)
    assert box.id(name) == id
    now = members(id)
    assert now
    assert not set(before) & set(now)
    assert box.state(name).phase == "running"
    box.runtime.remove_container(name)
    assert gone(box, id)


def test_who_shares_the_network_of_another_gets_that(box: Engine) -> None:
    owner = box.start("sleep 100", source="", command=("sleep", "100"))
    id = waiting(box)
    name = box.start("readlink /proc/self/ns/net; sleep 100", source="", network_mode=f"container:{owner}")
    assert box.id(name) == id
    until(lambda: box.output(name))
    assert box.output(name).strip() == os.readlink(f"/proc/{box.state(owner).pid}/ns/net")


def test_a_place_is_nobodys_leftover_as_long_as_its_process_lives(box: Engine) -> None:
    id = warm(box)
    assert box.runtime.observe().leftovers == ()
    assert box.runtime.sweep() == ()
    listed = subprocess.run(box.stead("ps", "-aq"), check=True, capture_output=True, text=True)
    assert listed.stdout == ""
    assert waiting(box) == id
    assert members(id)
    box.runtime.containers.close()
    assert gone(box, id)
    assert spares.waiting(box.paths) == set()


def test_a_failed_create_gives_the_place_back(box: Engine) -> None:
    id = warm(box)
    other = box.create("true", source="other")
    assert box.id(other) == id
    id = warm(box)
    with pytest.raises(Fault, match="taken"):
        box.create("true", name=other)
    assert waiting(box) == id
    assert box.runtime.sweep() == ()
    assert box.id(box.create("true")) == id


def test_a_container_that_is_never_started_leaves_nothing(box: Engine) -> None:
    id = warm(box)
    name = box.create("true")
    box.runtime.remove_container(name)
    assert gone(box, id)
    assert members(id) == []


def test_a_place_waits_for_a_minute_and_a_container_has_its_own_after_that(
    box: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spares, "KEEP", 0.5)
    box.run("true", source="", command=("true",))
    id = str(until(lambda: next(iter(spares.waiting(box.paths)), "")))
    until(lambda: gone(box, id) and spares.waiting(box.paths) == set())
    monkeypatch.setattr(spares, "KEEP", 3.0)
    id = warm(box)
    name = box.create("exit 7")
    assert box.id(name) == id
    until(lambda: members(id) == [])
    box.runtime.start_container(name)
    assert box.result(name).code == 7


def test_only_what_a_person_made_is_followed_by_a_place(box: Engine) -> None:
    box.run("true")
    box.run("true", source="", userns="auto", userns_size=65536)
    box.run("true", source="", network_mode="host")
    time.sleep(0.3)
    assert spares.waiting(box.paths) == set()


def _kill_shim(box: Engine, id: str) -> None:
    (pid,) = members(id)
    shim = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(shim, signal.SIGKILL)
    until(lambda: members(id) == [])


def _unbind(box: Engine, id: str) -> None:
    mounts.unmount(box.paths.netns(id))


def _kill_first(box: Engine, id: str) -> None:
    (pid,) = members(id)
    os.kill(pid, signal.SIGKILL)
    until(lambda: members(id) == [])


@pytest.mark.parametrize("harm", [_kill_shim, _kill_first, _unbind])
def test_a_place_that_was_harmed_while_it_waited_is_made_anew(box: Engine, harm: Any) -> None:
    id = warm(box)
    harm(box, id)
    name = box.start("readlink /proc/self/ns/net; sleep 100", source="")
    assert box.id(name) == id
    until(lambda: box.output(name))
    assert mounts.is_mounted(box.paths.netns(id))
    bound = os.stat(box.paths.netns(id)).st_ino
    assert box.output(name).strip() == f"net:[{bound}]"


def test_what_a_killed_process_had_waiting_is_swept_by_the_next(tmp_path: Path) -> None:
    with engine(tmp_path) as box:
        script = """
            import sys, time
            from pathlib import Path
            from runtime.local import LocalRuntime
            from runtime.paths import Paths
            from runtime.wishes import ContainerRequest
            from specs.values import ImageRef
            from tests.kernel.engine_box import IMAGE
            runtime = LocalRuntime(Paths(Path(sys.argv[1]), Path(sys.argv[2])), stays=True)
            made = ContainerRequest(
                name="one", source="", identity="", adjustable="", facets="{}", image=IMAGE,
                command=("true",), network_mode="none",
            )
            runtime.create_container(made)
            runtime.start_container("one")
            runtime.remove_container("one")
            time.sleep(100)
        """
        words = [sys.executable, "-c", textwrap.dedent(script), str(box.paths.root), str(box.paths.run)]
        owner = subprocess.Popen(words)
        try:
            id = waiting(box)
            assert box.runtime.observe().leftovers == ()
            (pid,) = members(id)
            start = pidfd.start_time(pid)
        finally:
            owner.kill()
            owner.wait()
        until(lambda: not pidfd.is_alive(pid, start))
        assert box.runtime.observe().leftovers == (id,)
        assert box.runtime.sweep() == (f"container {id}",)
        assert gone(box, id)
        assert box.runtime.observe().leftovers == ()


def test_many_at_once_get_one_place_and_no_two_the_same(box: Engine) -> None:
    from concurrent.futures import ThreadPoolExecutor

    id = warm(box)
    with ThreadPoolExecutor(8) as pool:
        results: list[Result] = list(pool.map(lambda code: box.run(f"exit {code}", source=""), range(16)))
    assert [result.code for result in results] == list(range(16))
    until(lambda: waiting(box) != id)
    assert gone(box, id)


def test_a_start_that_fails_before_it_takes_the_place_is_made_up_for(box: Engine) -> None:
    """Somebody listens on its port; then nobody does."""
    id = warm(box)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = PortBinding("127.0.0.1", other.getsockname()[1], 80)
        name = box.create("sleep 100", source="", network_mode="bridge", ports=(port,))
        assert box.id(name) == id
        with pytest.raises(Fault):
            box.runtime.start_container(name)
    begun = time.monotonic()
    box.runtime.start_container(name)
    assert time.monotonic() - begun < 2.0, "nobody waits for a shim that nobody told to end"
    assert box.state(name).phase == "running"


def test_a_place_that_cannot_be_made_is_not_the_end_of_them(
    box: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its device is gone; there can be no more threads."""
    monkeypatch.setattr(spares, "REST", 0.5)
    device = tmp_path / "device"
    os.mknod(device, 0o020666, os.makedev(1, 3))
    box.start("sleep 100", source="", devices=((str(device), "/dev/x", "r"),))
    device.unlink()
    time.sleep(1.0)
    assert spares.waiting(box.paths) == set()
    monkeypatch.setattr(spares, "REST", 0.05)
    refused: list[str] = []

    def no_thread(id: str, _rules: object) -> None:
        refused.append(id)
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(box.runtime._preparation, "place", no_thread)
        box.start("sleep 100", source="", command=("sleep", "100"))
        until(lambda: refused)
    assert warm(box)


def test_a_mark_that_is_damaged_or_no_file_is_none(box: Engine) -> None:
    mark = box.paths.run / spares.MARK
    for text in (b"a b c", b"a 1", b"\0" * 50, b"\xff 1 1", b""):
        mark.write_bytes(text)
        assert spares.waiting(box.paths) == set()
        assert box.runtime.observe().leftovers == ()
    mark.unlink()
    for make in (os.mkfifo, os.mkdir):
        make(mark)
        assert spares.waiting(box.paths) == set()
        if mark.is_dir():
            mark.rmdir()
        else:
            mark.unlink()
