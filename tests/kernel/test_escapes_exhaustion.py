"""Containers that use up what they can: their log, their disk, processes, memory. Their neighbours and the
agent's runtime go on. Needs root."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.faults import Fault
from runtime.linux import mounts
from runtime.wishes import LimitsRequest
from tests.kernel.engine_box import Engine, engine
from tests.kernel.hostile import attacker
from tests.kernel.shim_box import until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

MIB = 1 << 20
#: A neighbour says a number every 20 ms.
NEIGHBOUR = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done"


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """On a file system of 48 MiB of its own."""
    base = tmp_path_factory.mktemp("exhaustion")
    fd = mounts.new_filesystem("tmpfs", (("size", "48m"), ("mode", "700")))
    mounts.attach(fd, base)
    os.close(fd)
    try:
        with engine(base / "box") as made:
            yield made
    finally:
        mounts.unmount(base)


@pytest.fixture
def neighbour(box: Engine) -> Iterator[str]:
    name = box.start(NEIGHBOUR)
    yield name
    box.runtime.remove_container(name)


def lines(box: Engine, name: str) -> int:
    return box.output(name).count("\n")


def goes_on(box: Engine, neighbour: str, patience: float = 10.0) -> None:
    """It says more, others start and answer, and the runtime looks and tells."""
    before = lines(box, neighbour)
    until(lambda: lines(box, neighbour) > before + 3, patience)
    assert box.run("echo well").lines == ["well"]
    assert box.exec(neighbour, "echo well").lines == ["well"]
    assert neighbour in box.runtime.observe().containers


def test_one_that_fills_its_log_has_the_newest_of_it_and_no_more_disk(box: Engine, neighbour: str) -> None:
    name = box.start("yes 0123456789012345678901234567890123456789", log_max_size=MIB, log_max_files=2)

    def used() -> int:
        directory = str(box.home(name) / "log")
        done = subprocess.run(["du", "-sb", directory], capture_output=True, text=True)  # files go meanwhile
        return int(done.stdout.split()[0])

    until(lambda: any(int(file.stem) > 20 for file in (box.home(name) / "log").glob("*.log")))
    for _ in range(20):
        assert used() <= 2 * MIB + 300_000  # two files, and their index
    goes_on(box, neighbour)
    box.runtime.remove_container(name)


def test_one_that_fills_the_disk_leaves_what_others_need(box: Engine, neighbour: str) -> None:
    name = box.start("dd if=/dev/zero of=/big bs=64k 2>&1; echo full; sleep 1000")
    until(lambda: os.statvfs(box.base).f_bavail == 0)
    assert (box.home(name) / "upper/big").stat().st_size > 8 * MIB
    # nothing can be written: a start says so, looks and stops go on, and the neighbour runs
    with pytest.raises(Fault, match="no space"):
        box.run("echo well")
    pid = box.state(neighbour).pid
    assert box.exec(neighbour, "echo well").lines == ["well"]
    assert name in box.runtime.observe().containers
    box.runtime.remove_container(name)
    assert box.state(neighbour).pid == pid
    goes_on(box, neighbour)


def test_one_that_forks_without_end_ends_at_its_limit(box: Engine, neighbour: str) -> None:
    bomb = """
while time.monotonic() < end:
    try:
        os.fork()
    except OSError:
        pass
"""
    group = box.runtime._cgroups.pids
    with attacker(box, bomb, limits=LimitsRequest(pids=64)) as name:
        path = f"stead.slice/{box.id(name)}"
        until(lambda: len(group(path)) >= 64)
        for _ in range(20):
            assert len(group(path)) <= 64
        goes_on(box, neighbour)
        assert box.exec(name, "echo in").lines == ["in"]  # exec is not barred
        began = time.monotonic()
    assert time.monotonic() - began < 10
    assert group(path) == []


def test_one_that_takes_all_memory_is_killed_alone(box: Engine, neighbour: str) -> None:
    hog = "head -c 200000000 /dev/zero | tail -c 190000000 > /dev/null; echo survived"
    memory = LimitsRequest(memory=16 * MIB, memory_swap=16 * MIB)
    name = box.start(hog, limits=memory)
    until(
        lambda: (
            box.runtime._cgroups.oom_kills(f"stead.slice/{box.id(name)}") > 0
            or "survived" in box.output(name)
        )
    )
    shim = box.state(neighbour).shim_pid
    goes_on(box, neighbour)
    assert box.state(neighbour).shim_pid == shim
    box.runtime.remove_container(name)
    shm = box.run("dd if=/dev/zero of=/dev/shm/x bs=1M count=64 2>/dev/null; echo ended", limits=memory)
    assert shm.code in (0, 137)
    goes_on(box, neighbour)


def test_one_that_writes_endless_lines_to_its_hosts_file_harms_nobody(box: Engine, neighbour: str) -> None:
    """/etc/hosts, hostname and resolv.conf lie on the host's disk, and are read by us."""
    script = "yes '1.2.3.4 x' | head -c 4000000 > /etc/hosts; wc -c < /etc/hosts; sleep 1000"
    name = box.start(script)
    until(lambda: "4000000" in box.output(name))
    box.runtime.repair_container(name)
    goes_on(box, neighbour)
    box.runtime.remove_container(name)


def test_the_command_line_answers_meanwhile(box: Engine, neighbour: str) -> None:
    name = box.start("while :; do yes | head -c 100000; done", log_max_size=MIB, log_max_files=2)
    until(lambda: Path(box.home(name) / "log").exists())
    done = subprocess.run(box.stead("ps"), capture_output=True, text=True, timeout=20)
    assert done.returncode == 0
    assert neighbour in done.stdout
    box.runtime.remove_container(name)
