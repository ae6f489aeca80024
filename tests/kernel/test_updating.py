"""Limits of a container that runs, and stopped containers that go: those made by hand. Needs root."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.calls import perform
from agent.cli.main import main
from runtime.linux import cgroups
from runtime.shim import client
from runtime.wishes import LimitsRequest, RestartRequest
from tests.kernel.engine_box import Engine, engine
from tests.kernel.shim_box import until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

HOST = cgroups.detect()
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("updating")) as made:
        yield made


class Stead:
    def __init__(self, box: Engine, capfd: pytest.CaptureFixture[str]) -> None:
        self._box, self._capfd, self.errors = box, capfd, ""

    def __call__(self, *words: str, code: int = 0) -> list[str]:
        self._capfd.readouterr()
        found = main(["--root", str(self._box.paths.root), "--run", str(self._box.paths.run), *words])
        said = self._capfd.readouterr()
        self.errors = said.err
        assert found == code, said
        return said.out.splitlines()


@pytest.fixture
def stead(box: Engine, capfd: pytest.CaptureFixture[str]) -> Stead:
    return Stead(box, capfd)


def limits(box: Engine, name: str) -> cgroups.Limits:
    return HOST.read_limits(box.state(name).cgroup)


def test_limits_change_while_the_program_runs_on(box: Engine, stead: Stead) -> None:
    name = box.start("exec sleep 1000", source="", limits=LimitsRequest(memory=64 * MIB, io_weight=200))
    pid = box.state(name).pid
    words = ("-m", "128m", "--memory-reservation", "32m", "--cpus", "0.5", "--cpuset-cpus", "0")
    assert stead("update", *words, "--pids-limit", "50", name) == [name]
    found = limits(box, name)
    assert (found.memory, found.memory_reservation, found.cpus) == (128 * MIB, 32 * MIB, 0.5)
    assert (found.cpuset, found.pids) == ("0", 50)
    stead("container", "update", "-c", "2048", "--cpu-quota", "20000", "--cpu-period", "10000", name)
    assert (limits(box, name).cpu_weight, limits(box, name).cpus) == (200, 2.0)
    assert limits(box, name).memory == 128 * MIB
    assert box.state(name).pid == pid
    assert box.runtime.observe().containers[name].defects == ()
    request = box.runtime.containers.record(name, "look at").decode()
    assert request.limits.io_weight == 200 and request.limits.memory == 128 * MIB
    box.runtime.stop_container(name)
    stead("update", "-m", "96m", name)
    box.runtime.start_container(name)
    assert limits(box, name).memory == 96 * MIB
    box.runtime.remove_container(name)


def test_updates_at_one_time_change_what_each_says(box: Engine) -> None:
    name = box.start("exec sleep 1000", source="")
    with ThreadPoolExecutor(3) as pool:
        for number in range(1, 11):
            asked = {"cpus": number / 10}, {"memory": number * MIB + 64 * MIB}, {"pids": 100 + number}
            calls = [{"name": name, "table": table} for table in asked]
            list(pool.map(lambda args: perform(box.runtime, "update", args), calls))
            found = box.runtime.containers.record(name, "look at").decode().limits
            said = [value for table in asked for value in table.values()]
            assert [found.cpus, found.memory, found.pids] == said
            assert limits(box, name).pids == 100 + number
    box.runtime.remove_container(name)


def test_what_cannot_be_changes_nothing(box: Engine, stead: Stead) -> None:
    name = box.start("exec sleep 1000", source="", limits=LimitsRequest(memory=64 * MIB))
    box.exec(name, "dd if=/dev/zero of=/dev/shm/big bs=1048576 count=30")
    stead("update", "-m", "8m", "--pids-limit", "20", name, code=1)
    assert "of memory now, more than" in stead.errors
    assert (limits(box, name).memory, limits(box, name).pids) == (64 * MIB, 0)
    stead("update", "-m", "256m", "--memory-swap", "100m", name, code=1)
    assert "cannot update container" in stead.errors
    stead("update", "--cpuset-cpus", "4000", name, code=1)
    assert limits(box, name).cpuset == ""
    assert box.runtime.containers.record(name, "look at").decode().limits == LimitsRequest(memory=64 * MIB)
    stead("update", name, code=1)
    stead("update", "--cpus", "1", "--cpu-quota", "5", name, code=1)
    stead("update", "--memory", "lots", name, code=1)
    stead("update", "-m", "1g", "nobody", code=1)
    box.runtime.remove_container(name)


def test_a_restart_policy_changes_for_the_run_that_goes_on(box: Engine, stead: Stead) -> None:
    name = box.start("exec sleep 1000", source="", restart=RestartRequest("no"))
    first = box.state(name).pid
    stead("update", "--restart", "on-failure:2", name)
    client.kill(box.live(name), "SIGKILL")
    until(lambda: box.state(name).phase == "running" and box.state(name).pid != first)
    request = box.runtime.containers.record(name, "look at").decode()
    assert (request.restart.policy, request.restart.max_retries) == ("on-failure", 2)
    box.runtime.remove_container(name)


def test_what_a_source_declares_is_changed_there(box: Engine, stead: Stead) -> None:
    name = box.start("exec sleep 1000")
    stead("update", "-m", "1g", name, code=1)
    assert "source t declares it, and would change it back" in stead.errors
    assert limits(box, name).memory == 0
    box.runtime.remove_container(name)


def test_only_what_does_not_run_and_nobody_declares_is_pruned(
    box: Engine, stead: Stead, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = box.create("true", source="")
    ended = box.start("echo x > /tmp/x; exit 1", source="", labels={"keep": "yes"})
    running = box.start("exec sleep 1000", source="")
    declared = box.create("true")
    until(lambda: (box.home(ended) / "exit.json").exists())
    first, second = box.id(made), box.id(ended)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    asked = stead("container", "prune")  # no is an answer, and no failure, as with docker
    assert "all stopped containers" in asked[0] and asked[-1].endswith("Total reclaimed space: 0B")
    assert set(box.runtime.observe().containers) == {made, ended, running, declared}
    assert stead("container", "prune", "-f", "--filter", "until=1h") == ["Total reclaimed space: 0B"]
    assert stead("container", "prune", "-f", "--filter", "label!=keep")[:2] == ["Deleted Containers:", first]
    last = stead("container", "prune", "-f")
    assert last == ["Deleted Containers:", second, "", "Total reclaimed space: 2B"]
    assert set(box.runtime.observe().containers) == {running, declared}
    for name in (running, declared):
        box.runtime.remove_container(name)
