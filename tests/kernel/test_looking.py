"""What people see of a container: its output, ports, processes, use, documents. Needs root."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest

from agent.cli.main import main
from runtime.wishes import LimitsRequest
from specs.values import PortBinding
from tests.kernel.engine_box import Engine, engine
from tests.kernel.shim_box import until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("looking")) as made:
        yield made


class Stead:
    """The command line in this process."""

    def __init__(self, box: Engine, capfd: pytest.CaptureFixture[str]) -> None:
        self._box, self._capfd = box, capfd
        self.errors = ""

    def __call__(self, *words: str, code: int = 0) -> list[str]:
        self._capfd.readouterr()
        roots = ("--root", str(self._box.paths.root), "--run", str(self._box.paths.run))
        found = main([*roots, *words])
        said = self._capfd.readouterr()
        self.errors = said.err
        assert found == code, said
        return said.out.splitlines()


@pytest.fixture
def stead(box: Engine, capfd: pytest.CaptureFixture[str]) -> Stead:
    return Stead(box, capfd)


@pytest.fixture(scope="module")
def web(box: Engine) -> str:
    """A container that runs, publishes a port, has a limit and two labels."""
    name = box.start(
        "echo out; echo errors >&2; sleep 0.2; echo last; exec sleep 1000",
        network_mode="bridge",
        ports=(PortBinding("127.0.0.1", 18231, 80, "tcp"),),
        labels={"tier": "front", "owner": "me"},
        limits=LimitsRequest(memory=64 * 1024 * 1024),
    )
    until(lambda: "last" in box.output(name))
    return name


def test_output_is_shown_on_the_stream_that_it_was_written_to(stead: Stead, web: str) -> None:
    assert stead("logs", web) == ["out", "last"]
    assert stead.errors == "errors\n"
    assert stead("container", "logs", "-n", "1", web) == ["last"]
    assert stead("logs", "--tail", "all", "--details", web) == [" out", " last"]
    (line,) = stead("logs", "-t", "--tail=1", web)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z last", line)
    assert stead("logs", "--until", "1h", web) == []
    assert stead("logs", "--since", "1h", "--until", "2100-01-01T00:00:00Z", web) == ["out", "last"]
    stead("logs", "--tail", "some", web, code=2)


def test_a_follower_of_output_ends_with_the_time_that_it_was_given(
    box: Engine, stead: Stead, web: str
) -> None:
    assert stead("logs", "-f", "--until", "0s", web) == ["out", "last"]


def test_published_ports_are_told_as_docker_tells_them(stead: Stead, web: str, box: Engine) -> None:
    assert stead("port", web) == ["80/tcp -> 127.0.0.1:18231"]
    assert stead("port", web, "80") == ["127.0.0.1:18231"]
    assert stead("container", "port", web, "80/udp", code=1) == []
    assert f"no public port '80/udp' published for {web}" in stead.errors
    stead("port", web, "http", code=2)


def test_top_shows_the_processes_of_one_container_by_the_machines_numbers(
    stead: Stead, web: str, box: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = str(box.state(web).pid)
    head, row = stead("top", web)
    assert head.split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert row.split()[:2] == ["root", pid] and row.endswith("sleep 1000")
    assert stead("top", web, "-o", "pid,comm") == ["PID       COMMAND", f"{pid.ljust(10)}sleep"]
    stead("top", web, "-o", "comm", code=1)
    monkeypatch.setenv("PATH", "/nowhere")
    own = stead("top", web)
    assert own[0].split() == head.split()
    assert own[1].split()[:3] == row.split()[:3] and own[1].endswith("sleep 1000")
    stead("top", web, "-o", "pid", code=1)


def test_what_does_not_run_has_no_processes(stead: Stead, box: Engine) -> None:
    name = box.create("true")
    stead("top", name, code=1)
    assert "it is not running" in stead.errors


def test_stats_once_are_of_memory_processor_and_processes(stead: Stead, box: Engine, web: str) -> None:
    busy = box.start("while :; do :; done")
    idle = box.create("true")
    rows = [json.loads(line) for line in stead("stats", "--no-stream", "--format", "json")]
    found = {row["Name"]: row for row in rows}
    assert idle not in found and {web, busy} <= found.keys()
    assert found[web]["MemUsage"].endswith(" / 64MiB") and found[web]["PIDs"] == "1"
    assert 0 < float(found[web]["MemPerc"].rstrip("%")) < 100
    assert float(found[busy]["CPUPerc"].rstrip("%")) > 20 > float(found[web]["CPUPerc"].rstrip("%"))
    assert found[web]["ID"] == box.id(web)[:12]
    head, row = stead("stats", "--no-stream", web)
    assert re.split(r"\s{2,}", head) == [
        "CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS",
    ]  # fmt: skip
    assert row.split()[1] == web
    names = stead("stats", "-a", "--no-stream", "--format", "{{.Name}} {{.PIDs}}")
    assert f"{idle} 0" in names
    box.runtime.remove_container(busy)


def test_stats_go_on_until_they_are_interrupted(box: Engine, web: str) -> None:
    words = box.stead("stats", "--format", "{{.Name}}", web)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as shown:
        assert shown.stdout is not None and shown.stderr is not None
        assert [shown.stdout.readline() for _ in range(2)] == [f"{web}\n"] * 2
        shown.send_signal(signal.SIGINT)
        assert shown.wait(10) == 130
        assert shown.stderr.read() == ""
