"""What people see of a container: its output, ports, processes, use, documents. Needs root."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli.main import main
from runtime.shim import client
from runtime.wishes import LimitsRequest, ProbeRequest, RestartRequest
from specs.values import ImageRef, PortBinding
from tests.kernel.engine_box import Engine, engine
from tests.kernel.images_box import Layout, directory, file, layer, symlink
from tests.kernel.shim_box import BUSYBOX, until

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


@pytest.mark.parametrize("text", ["nan", "inf", "1e400", "-inf", "9" * 400])
def test_a_number_that_is_no_time_is_said(stead: Stead, web: str, text: str) -> None:
    for option in ("--since", "--until"):
        stead("logs", f"{option}={text}", web, code=2)
        assert stead.errors.startswith(f"stead: cannot read time {text!r}: write ")
        stead("events", "--until", "0s", f"{option}={text}", code=2)


def test_a_time_that_was_printed_is_that_of_its_line(stead: Stead, web: str) -> None:
    out, last = (line.partition(" ") for line in stead("logs", "-t", web))
    errors = stead.errors.strip().partition(" ")
    assert stead("logs", "--until", out[0], web) == ["out"]
    assert stead("logs", "--until", last[0], web) == ["out", "last"]
    assert stead("logs", "--since", last[0], web) == ["last"]
    assert stead("logs", "--since", last[0].replace("Z", "+00:00"), "--until", last[0], web) == ["last"]
    assert not stead.errors
    stead("logs", "--since", errors[0], "--until", errors[0], web)
    assert stead.errors == "errors\n"


def test_a_negative_duration_lies_ahead_as_in_docker(stead: Stead, web: str) -> None:
    assert stead("logs", "--since=-10m", web) == []
    assert stead("logs", "--until=-10m", web) == ["out", "last"]
    assert stead("logs", "--until", "-10m", "--since", "+10m", web) == ["out", "last"]
    stead("logs", "--since=-10x", web, code=2)
    assert "write how long ago (24h)" in stead.errors


def test_the_last_words_of_a_run_and_the_first_of_the_next_are_two_lines(box: Engine, stead: Stead) -> None:
    name = box.start("echo line; printf boom; printf bang >&2", restart=RestartRequest("on-failure", 0))
    try:
        until(lambda: client.read_exit(box.home(name)))
        box.runtime.start_container(name)
        until(lambda: box.output(name) == "line\nboomline\nboom" and client.read_exit(box.home(name)))
        assert stead("logs", name) == ["line", "boom", "line", "boom"]
        assert stead.errors == "bang\nbang"
        times = [line.partition("Z ") for line in stead("logs", "-t", name)]
        assert [line for _, _, line in times] == ["line", "boom", "line", "boom"]
        assert stead("logs", "--since", times[2][0] + "Z", name) == ["line", "boom"]
        assert stead("logs", "-n", "5", name) == ["boom", "line", "boom"]
    finally:
        box.runtime.remove_container(name)


def test_more_lines_than_there_can_be_are_all(stead: Stead, web: str) -> None:
    assert stead("logs", "-n", "9" * 20, web) == ["out", "last"]


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
    box.runtime.remove_container(name)


def test_stats_once_are_of_memory_processor_and_processes(stead: Stead, box: Engine, web: str) -> None:
    busy = box.start("while :; do :; done")
    idle = box.create("true")
    rows = [json.loads(line) for line in stead("stats", "--no-stream", "--format", "json")]
    found = {row["Name"]: row for row in rows}
    assert idle not in found and {web, busy} <= found.keys()
    assert found[web]["MemUsage"].endswith(" / 64MiB") and found[web]["PIDs"] == "1"
    assert 0 < float(found[web]["MemPerc"].rstrip("%")) < 100
    shares = [float(found[name]["CPUPerc"].rstrip("%")) for name in (busy, web)]
    assert shares[0] > 1 > shares[1]  # however much else this machine has to do
    assert found[web]["ID"] == box.id(web)[:12]
    head, row = stead("stats", "--no-stream", web)
    assert re.split(r"\s{2,}", head) == [
        "CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS",
    ]  # fmt: skip
    assert row.split()[1] == web
    names = stead("stats", "-a", "--no-stream", "--format", "{{.Name}} {{.PIDs}}")
    assert f"{idle} 0" in names
    for name in (busy, idle):
        box.runtime.remove_container(name)


def test_stats_go_on_until_they_are_interrupted(box: Engine, web: str) -> None:
    words = box.stead("stats", "--format", "{{.Name}}", web)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as shown:
        assert shown.stdout is not None and shown.stderr is not None
        assert [shown.stdout.readline() for _ in range(2)] == [f"{web}\n"] * 2
        shown.send_signal(signal.SIGINT)
        assert shown.wait(10) == 130
        assert shown.stderr.read() == ""


# ---------------------------------------------------------------- ps


@pytest.fixture(scope="module")
def few(box: Engine, web: str) -> dict[str, str]:
    """One of each: running with a port, never started, failed, ended well."""
    names = {
        "web": web,
        "made": box.create("true"),
        "failed": box.start("exit 3"),
        "ended": box.start("true"),
    }
    until(lambda: all(box.home(names[name]).joinpath("exit.json").exists() for name in ("failed", "ended")))
    return names


def test_ps_has_the_columns_and_words_of_docker(stead: Stead, box: Engine, few: dict[str, str]) -> None:
    head, *rows = stead("ps", "-a")
    titles = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]
    assert re.split(r"\s{2,}", head) == titles
    starts = [*(head.index(title) for title in titles), None]
    cells = {row[starts[6] :]: [row[a:b].strip() for a, b in itertools.pairwise(starts)] for row in rows}
    web = cells[few["web"]]
    assert web[:3] == [box.id(few["web"])[:12], "tests/busybox:1", '"sh -c \'echo out; ec…"']
    assert web[3].endswith(" ago") and web[4].startswith("Up ") and web[5] == "127.0.0.1:18231->80/tcp"
    assert cells[few["made"]][4:6] == ["Created", ""]
    assert re.fullmatch(r"Exited \(3\) .* ago", cells[few["failed"]][4])
    assert re.fullmatch(r"Exited \(0\) .* ago", cells[few["ended"]][4])
    names = [row.rpartition(" ")[2] for row in stead("container", "ls")[1:]]
    assert names == [few["web"]]


def test_ps_chooses_by_what_is_asked_for(stead: Stead, box: Engine, few: dict[str, str]) -> None:
    def names(*words: str) -> list[str]:
        return stead("ps", "--format", "{{.Names}}", *words)

    newest = [few[name] for name in ("ended", "failed", "made", "web")]
    assert names("-a") == newest
    assert names("-n", "2") == newest[:2] and names("-l") == newest[:1]
    assert stead("ps", "-q", "--no-trunc") == [box.id(few["web"])]
    assert names("-f", "status=exited", "-f", "exited=3") == [few["failed"]]
    assert names("-f", "status=created", "-f", "status=running") == [few["made"], few["web"]]
    assert names("-a", "-f", "label=tier=front", "-f", "label=owner") == [few["web"]]
    assert names("-a", "-f", "label=tier=front", "-f", "label=other") == []
    assert names("-a", "-f", f"before={few['failed']}") == newest[2:]
    assert names("-a", "-f", f"since={few['made']}") == newest[:2]
    assert names("-a", "-f", "ancestor=tests/busybox:1") == newest
    assert names("-a", "-f", "ancestor=busybox") == []
    assert names("-f", "publish=18231") == names("-f", "publish=80/tcp") == [few["web"]]
    assert names("-f", "publish=81-90") == []
    assert names("-a", "-f", "network=none") == newest[:3]
    assert names("-a", "-f", f"name={few['web']}$") == [few["web"]]
    assert names("-a", "-f", f"id={box.id(few['made'])[:6]}") == [few["made"]]
    assert names("-a", "-f", "health=healthy") == []
    for wrong in ("status=up", "exited=x", "color=red", "name"):
        stead("ps", "-f", wrong, code=2)
    stead("ps", "-a", "-f", "before=nobody", code=1)


def test_ps_tells_what_is_asked_for_by_a_template_and_as_json(stead: Stead, few: dict[str, str]) -> None:
    line = "{{.Names}}|{{.State}}|{{.Phase}}|{{.Labels}}|{{.Source}}|{{.Networks}}|{{.LocalVolumes}}"
    assert stead("ps", "--format", line) == [f"{few['web']}|running|running|owner=me,tier=front|t||0"]
    (text,) = stead("ps", "--format", "json")
    row = json.loads(text)
    assert row["Names"] == few["web"] and row["Status"].startswith("Up ") and row["Size"] == ""
    (size,) = stead("ps", "--size", "--format", "{{.Size}}")
    assert re.fullmatch(r"\S+B \(virtual \S+B\)", size)


# ---------------------------------------------------------------- inspect


def test_inspect_has_dockers_document_and_ours_beside(stead: Stead, box: Engine, few: dict[str, str]) -> None:
    (found,) = json.loads("\n".join(stead("container", "inspect", "-s", few["web"])))
    state, host, config = found["State"], found["HostConfig"], found["Config"]
    assert (state["Status"], state["Running"], state["Paused"], state["Dead"]) == (
        "running",
        True,
        False,
        False,
    )
    assert state["Pid"] == box.state(few["web"]).pid and state["StartedAt"] > found["Created"]
    assert found["Path"] == "sh" and found["Args"][0] == "-c" and found["Name"] == f"/{few['web']}"
    assert host["Memory"] == 64 * 1024 * 1024 and host["RestartPolicy"]["Name"] == "no"
    assert host["PortBindings"] == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18231"}]}
    assert found["NetworkSettings"]["Ports"] == host["PortBindings"]
    assert config["Labels"] == {"tier": "front", "owner": "me"} and "PATH" in " ".join(config["Env"])
    assert found["SizeRw"] == 0 < found["SizeRootFs"]
    assert found["id"] == found["Id"] and found["phase"] == "running" and found["wanted"] == "running"


def test_inspect_of_what_ended_has_its_exit_code_and_times(stead: Stead, few: dict[str, str]) -> None:
    form = "{{.State.Status}} {{.State.ExitCode}} {{.State.Pid}} {{.Config.Labels.none}}"
    assert stead("inspect", "-f", form, few["failed"]) == ["exited 3 0 <no value>"]
    never = "{{.State.Status}} {{.State.StartedAt}}"
    assert stead("inspect", "--type", "container", "-f", never, few["made"]) == [
        "created 0001-01-01T00:00:00Z"
    ]


def test_inspect_tells_how_health_was_when_it_ended_and_what_the_image_says_of_it(
    stead: Stead, box: Engine, tmp_path: Path
) -> None:
    check = {"Test": ["CMD-SHELL", "false"], "Interval": 60_000_000, "Timeout": 2 * 10**9, "Retries": 1}
    made = Layout(tmp_path / "layout")
    items = [directory("bin"), file("bin/busybox", BUSYBOX.read_bytes(), mode=0o755)]
    made.image([layer(*items, symlink("bin/sh", "busybox"))], config={"Healthcheck": check})
    reference = ImageRef.parse("tests/checked:1")
    box.runtime.import_image(tmp_path / "layout", reference)
    probe = ProbeRequest(retries=2, on_failure="stop", given=("retries", "on_failure"))
    command = ("/bin/busybox", "sleep", "1000")
    name = box.create(image=reference, command=command, probe=probe, stop_grace_period=0.1)
    box.runtime.start_container(name)
    until(lambda: box.state(name).phase == "exited")
    (found,) = json.loads("\n".join(stead("inspect", name)))
    health = found["State"]["Health"]
    assert (health["Status"], health["FailingStreak"]) == ("unhealthy", 2)
    said = found["Config"]["Healthcheck"]
    assert {key: said[key] for key in check} == {**check, "Retries": 2}
    box.runtime.remove_container(name)


def test_inspect_finds_things_of_any_kind_and_says_which_are_not_there(
    stead: Stead, few: dict[str, str]
) -> None:
    found = json.loads("\n".join(stead("inspect", few["web"], "tests/busybox:1", "nothing", code=1)))
    assert [item.get("Name") or item["RepoTags"] for item in found] == [f"/{few['web']}", ["tests/busybox:1"]]
    assert "there is no such object: nothing" in stead.errors
    assert json.loads("\n".join(stead("inspect", "image", "tests/busybox:1")))["Id"] == found[1]["Id"]
