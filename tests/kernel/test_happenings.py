"""What happened is told by who did it, with its own time, whether an agent lives or not. Needs root."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli.main import main
from runtime import events
from runtime.shim import chronicle, client
from runtime.wishes import LimitsRequest, NetworkRequest, ProbeRequest, RestartRequest, VolumeRequest
from specs.values import ImageRef
from tests.kernel.engine_box import IMAGE, Engine, engine
from tests.kernel.shim_box import until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("events")) as made:
        yield made


def actions(box: Engine, name: str) -> list[str]:
    return [item.action for item in events.read(box.paths.root) if item.name == name]


def said(box: Engine, name: str, action: str) -> list[events.Happened]:
    return [item for item in events.read(box.paths.root) if (item.name, item.action) == (name, action)]


def test_a_life_is_told_from_its_beginning_to_its_end(box: Engine) -> None:
    began = time.time_ns()
    name = box.start("trap 'exit 4' TERM; echo up; while :; do sleep 0.05; done", labels={"tier": "front"})
    id = box.id(name)
    until(lambda: "up" in box.output(name))
    box.exec(name, "true")
    box.runtime.pause_container(name)
    box.runtime.unpause_container(name)
    box.runtime.containers.stop(name, timeout=10.0)
    box.runtime.remove_container(name)
    told = [item for item in events.read(box.paths.root) if item.id == id]
    assert [item.action for item in told] == [
        "create", "start", "exec_create: sh -c true", "exec_start: sh -c true", "exec_die", "pause",
        "unpause", "kill", "die", "stop", "destroy",
    ]  # fmt: skip
    times = [item.at for item in told]
    assert times == sorted(times) and began < times[0] and times[-1] < time.time_ns()
    by = {item.action: item.attributes for item in told}
    assert by["create"] == {"tier": "front", "image": str(IMAGE)}
    assert by["kill"] == {"signal": "15"} and by["die"]["exitCode"] == "4"
    assert (
        by["exec_die"]["exitCode"] == "0"
        and by["exec_die"]["execID"] == by["exec_start: sh -c true"]["execID"]
    )


def test_what_a_shim_does_by_itself_is_told_as_well(box: Engine) -> None:
    probe = ProbeRequest(shell="test ! -e /tmp/ill", interval=0.1, timeout=2.0, retries=1, on_failure="none")
    name = box.start("exec sleep 1000", restart=RestartRequest("always"), probe=probe)
    until(lambda: "health_status: healthy" in actions(box, name))
    box.exec(name, "touch /tmp/ill")
    until(lambda: "health_status: unhealthy" in actions(box, name))
    client.kill(box.live(name), "SIGKILL")
    until(lambda: actions(box, name).count("start") == 2)
    assert said(box, name, "die")[0].attributes["exitCode"] == "137"
    box.runtime.remove_container(name)


def test_a_program_that_the_kernel_kills_for_memory_has_an_event_of_its_own(box: Engine) -> None:
    limits = LimitsRequest(memory=16 << 20, memory_swap=16 << 20)
    name = box.start("exec tail /dev/zero", limits=limits)
    until(lambda: "die" in actions(box, name))
    assert actions(box, name)[-2:] == ["oom", "die"]
    assert said(box, name, "die")[0].attributes["exitCode"] == "137"
    box.runtime.remove_container(name)


def test_a_renamed_container_has_its_name_of_that_time(
    box: Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    began = time.time()
    box.create("exec sleep 1000", name="first", source="")
    box.runtime.start_container("first")
    box.runtime.containers.rename("first", "second")
    box.runtime.stop_container("second")
    box.runtime.remove_container("second")
    form = ("--format", "{{.Action}} {{.Actor.Attributes.name}}", "-f", "type=container")
    shown = stead(box, capfd, "--since", str(began), "--until", str(time.time()), *form)
    assert shown[:3] == ["create first", "start first", "rename second"]
    assert {line.split()[-1] for line in shown[3:]} == {"second"} and shown[-1] == "destroy second"


def test_images_volumes_and_networks_have_events(box: Engine) -> None:
    image = box.runtime.images.get(str(IMAGE))
    assert image is not None
    other = ImageRef.parse("tests/other:2")
    box.runtime.images.tag(image.id, other)
    box.runtime.remove_image("tests/other:2")
    assert actions(box, "tests/other:2") == ["tag", "untag"]
    assert "import" in actions(box, "tests/busybox:1")
    box.runtime.create_volume(VolumeRequest("t/data", "t", "f"))
    box.runtime.create_volume(VolumeRequest("t/data", "t", "f"))
    box.runtime.remove_volume("t/data")
    box.runtime.remove_volume("t/data")
    assert actions(box, "t/data") == ["create", "destroy"]
    box.runtime.create_network(NetworkRequest("t/net", "t", "f"))
    box.runtime.remove_network("t/net")
    assert actions(box, "t/net") == ["create", "destroy"]


def stead(box: Engine, capfd: pytest.CaptureFixture[str], *words: str, code: int = 0) -> list[str]:
    capfd.readouterr()
    found = main(["--root", str(box.paths.root), "--run", str(box.paths.run), "events", *words])
    shown = capfd.readouterr()
    assert found == code, shown
    return shown.out.splitlines()


def test_events_are_chosen_and_shown_as_docker_shows_them(
    box: Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    began = time.time()
    name = box.start("exit 3", labels={"tier": "back"})
    id = box.id(name)
    until(lambda: "die" in actions(box, name))
    box.runtime.remove_container(name)
    span = ("--since", str(began), "--until", str(time.time()))
    lines = stead(box, capfd, *span, "-f", f"container={name}", "-f", "event=die")
    assert len(lines) == 1
    at, rest = lines[0].split(" ", 1)
    assert rest.startswith(f"container die {id} (") and rest.endswith(")")
    assert f"exitCode=3, image={IMAGE}, name={name}, tier=back" in rest
    assert at[10] == "T" and len(at) == len("2026-01-02T03:04:05.000000006+01:00")
    found = [
        json.loads(line) for line in stead(box, capfd, *span, "--format", "json", "-f", "label=tier=back")
    ]
    assert [item["Action"] for item in found] == ["create", "start", "die", "destroy"]
    assert found[0]["from"] == str(IMAGE) and found[0]["Actor"]["ID"] == id == found[0]["id"]
    assert found[0]["timeNano"] // 1_000_000_000 == found[0]["time"]
    form = ("--format", "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}")
    chosen = stead(
        box, capfd, *span, *form, "-f", "event=start", "-f", "event=die", "-f", "image=tests/busybox"
    )
    assert chosen == [f"container start {name}", f"container die {name}"]
    assert stead(box, capfd, *span, "-f", "type=volume") == []
    for wrong in ("type=pod", "colour=red", "type"):
        stead(box, capfd, "-f", wrong, code=2)


def test_who_follows_hears_at_once_and_across_files(box: Engine) -> None:
    """Lines that were there before are not shown; those that come when a file is full are."""
    heard: list[str] = []
    words = box.stead("events", "--format", "{{.Action}} {{.Actor.ID}}", "-f", "type=agent")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as shown:
        assert shown.stdout is not None
        reader = threading.Thread(target=lambda: heard.extend(line.strip() for line in shown.stdout or ()))
        reader.start()
        try:
            until(lambda: (chronicle.tell(str(box.paths.events), "agent", "ready", "0", "n"), heard)[1])
            began = time.monotonic()
            chronicle.tell(str(box.paths.events), "agent", "mark", "1", "n")
            until(lambda: "mark 1" in heard)
            assert time.monotonic() - began < 4.0, "unheard, it would be read after five seconds"
        finally:
            shown.terminate()
            reader.join()


def test_the_files_have_a_limit_and_no_line_is_lost_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chronicle, "FULL", 20_000)
    directory = tmp_path / "events"
    directory.mkdir()
    follower, seen = events.follow(tmp_path, replay=False, left=lambda: 0.0), []
    reader = events._Reader(tmp_path)

    def write(first: int) -> None:
        for number in range(first, first + 100):
            chronicle.tell(str(directory), "agent", "step", str(number), "n")

    for turn in range(20):
        writers = [threading.Thread(target=write, args=(turn * 400 + n * 100,)) for n in range(4)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        seen += [int(item.id) for item in reader.rest()]
    assert sorted(seen) == list(range(8000))
    assert list(follower) == []
    reader.close()
    sizes = [file.stat().st_size for file in directory.iterdir()]
    assert len(sizes) <= chronicle.KEEP + 1 and max(sizes) < 25_000
    left = [int(item.id) for item in events.read(tmp_path)]
    assert 0 < len(left) < 8000 and set(left) <= set(range(8000))


def test_what_is_written_to_a_file_that_was_turned_meanwhile_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "events"
    directory.mkdir()
    reader = events._Reader(tmp_path)
    chronicle.tell(str(directory), "agent", "step", "1", "n")
    late = os.open(directory / chronicle.NOW, os.O_WRONLY | os.O_APPEND)
    monkeypatch.setattr(chronicle, "FULL", 10)
    chronicle.tell(str(directory), "agent", "step", "2", "n")
    monkeypatch.undo()
    chronicle.tell(str(directory), "agent", "step", "4", "n")
    assert [item.id for item in reader.rest()] == ["1", "2", "4"]
    os.write(late, b'{"t":1,"type":"agent","action":"step","id":"3","name":"n","a":{}}\n')
    os.close(late)
    assert [item.id for item in reader.rest()] == ["3"]
    reader.close()


def test_half_a_line_and_other_rubbish_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    file = tmp_path / "events" / chronicle.NOW
    file.write_bytes(b'{"t":1}\n[]\n\xff\n{"half')
    chronicle.tell(str(tmp_path / "events"), "agent", "lost", "1", "n")  # behind the half of one
    chronicle.tell(str(tmp_path / "events"), "agent", "found", "2", "n", some="", more=3)
    (found,) = events.read(tmp_path)
    assert (found.action, found.id, dict(found.attributes)) == ("found", "2", {"more": "3"})


def test_nobody_is_told_where_nobody_wants_to_know(tmp_path: Path) -> None:
    chronicle.tell("", "agent", "step", "1", "n")
    chronicle.tell(str(tmp_path / "nowhere"), "agent", "step", "1", "n")
    os.symlink("/etc/passwd", tmp_path / chronicle.NOW)
    before = Path("/etc/passwd").read_bytes()
    chronicle.tell(str(tmp_path), "agent", "step", "1", "n")
    assert Path("/etc/passwd").read_bytes() == before and os.listdir(tmp_path) == [chronicle.NOW]
