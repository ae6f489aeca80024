"""Containers that people make: docker's verbs against a real agent, and without one. Needs root."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest

from agent import calls
from runtime.faults import Fault
from runtime.local import LocalRuntime
from runtime.shim import client
from tests.kernel.hand_box import BUSYBOX, Hand, hand, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hand]:
    with hand(tmp_path_factory.mktemp("hand")) as made:
        yield made


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hand]:
    with hand(tmp_path_factory.mktemp("alone"), agent=False) as made:
        yield made


def test_an_agent_leaves_alone_what_is_about_to_be_started(box: Hand) -> None:
    """It looks lost for a moment, and one with --rm that is lost is removed."""
    for _ in range(30):
        said = box.run("run", "--rm", BUSYBOX, "sh", "-c", "exit 7")
        assert said.code == 7, said
    assert "has ended, and was to be removed then" not in box.do("history", "--limit", "1000")


def test_run_keeps_both_outputs_apart_and_gives_the_exit_code(box: Hand) -> None:
    said = box.run("run", "--rm", BUSYBOX, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (said.code, said.out, said.errors) == (7, "out\n", "err\n")
    assert box.names() == set()


def test_what_cannot_run_is_told_by_its_code_and_with_rm_is_gone(box: Hand) -> None:
    for code, words in (
        (127, (BUSYBOX, "not-there")),
        (126, (BUSYBOX, "/etc/passwd")),
        (125, ("-m", "much", BUSYBOX, "true")),
        (125, ("--no-such-option", BUSYBOX, "true")),
        (125, ("--pull", "never", "not/there:1", "true")),
        (125, ("--network", "not-there", BUSYBOX, "true")),
    ):
        assert box.run("run", "--rm", *words).code == code, words
    assert box.names() == set()


def test_input_reaches_the_program_up_to_its_end(box: Hand) -> None:
    said = box.run(
        "run", "--rm", "-i", "--network", "none", BUSYBOX, "sh", "-c", "cat; echo over", stdin="a\nb\n"
    )
    assert (said.code, said.out) == (0, "a\nb\nover\n")


def test_a_container_has_an_id_a_name_and_a_state_until_it_is_removed(box: Hand) -> None:
    id = box.do("run", "-d", "--name", "web", BUSYBOX, "sleep", "1000")
    assert re.fullmatch(r"[0-9a-f]{32}", id)
    assert (box.phase("web"), box.row("web")["source"]) == ("running", "")
    assert "the name is taken" in box.do("run", "-d", "--name", "web", BUSYBOX, "true", code=125)
    assert "is running" in box.do("rm", "web", code=1)
    assert box.do("stop", "-t", "0", id[:6]) == id[:6]
    assert (box.phase("web"), box.row("web")["exit_code"]) == ("stopped", 137)
    assert box.do("start", "web") == "web" and box.phase("web") == "running"
    assert box.do("restart", "-t", "0", "web") == "web" and box.phase("web") == "running"
    assert box.do("rm", "-f", "web") == "web"
    assert box.phase("web") == "gone" and not box.home(id).exists()
    assert box.run("rm", "web").code == 1
    said = box.run("rm", "-f", "web")
    assert (said.code, said.out) == (0, "") and "there is no container web" in said.errors
    box.do("create", "--name", "web", BUSYBOX, "true")
    box.do("rm", "web")


def test_a_signal_reaches_the_program_and_its_restart_policy_decides(box: Hand) -> None:
    script = "trap 'echo hup' HUP; trap 'exit 5' USR1; echo begun; while true; do sleep 0.05; done"
    box.do("run", "-d", "--name", "sig", "--restart", "on-failure", BUSYBOX, "sh", "-c", script)
    until(lambda: "begun" in box.do("logs", "sig"))
    box.do("kill", "-s", "HUP", "sig")
    until(lambda: "hup" in box.do("logs", "sig"))
    box.do("kill", "-s", "USR1", "sig")
    until(lambda: box.row("sig")["restarts"] == 1)
    until(lambda: box.phase("sig") == "running")
    box.do("kill", "sig")  # as docker: it stays ended
    assert (box.phase("sig"), box.row("sig")["exit_code"]) == ("stopped", 137)
    assert "not running" in box.do("kill", "sig", code=1)
    assert "is no signal" in box.do("kill", "-s", "FLY", "sig", code=1)
    box.do("rm", "sig")


def test_wait_tells_of_one_that_was_removed_while_another_one_was_waited_for(box: Hand) -> None:
    for name in ("first", "gone"):
        box.do("run", "-d", "--name", name, BUSYBOX, "sleep", "1000")
    waiting = box.popen("wait", "first", "gone", stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def waits() -> bool:
        with suppress(OSError):  # descriptors come and go
            own = Path(f"/proc/{waiting.pid}/fd")
            return any(os.readlink(fd).startswith("socket:") for fd in own.iterdir())
        return False

    until(waits)
    box.do("rm", "-f", "gone")
    box.do("kill", "first")
    said, errors = waiting.communicate(timeout=30)
    assert (said, waiting.returncode) == (b"137\n", 1)
    assert b"there is no container of this name" in errors
    box.do("rm", "first")


def test_wait_tells_codes_before_and_after_the_end_and_over_another_agent(box: Hand) -> None:
    box.do("run", "-d", "--name", "slow", BUSYBOX, "sh", "-c", "exit 3")
    assert box.do("wait", "slow") == "3"
    box.do("rm", "slow")
    box.do(
        "run",
        "-d",
        "--name",
        "slow",
        "-v",
        "gate:/g",
        BUSYBOX,
        "sh",
        "-c",
        "until [ -e /g/go ]; do sleep 0.05; done; exit 4",
    )
    waiting = box.popen("wait", "slow", stdout=subprocess.PIPE)
    box.end_agent(signal.SIGKILL)
    box.start_agent()
    assert waiting.poll() is None
    box.do("exec", "slow", "touch", "/g/go")
    assert waiting.communicate(timeout=30)[0] == b"4\n"
    assert box.do("wait", "slow") == "4"
    box.do("rm", "slow")
    box.do("volume", "rm", "gate")


@pytest.mark.parametrize(("verb", "phase"), [("stop", "stopped"), ("restart", "running")])
def test_a_stop_goes_on_where_the_agent_ends_meanwhile(box: Hand, verb: str, phase: str) -> None:
    box.do("run", "-d", "--network", "none", "--name", "slow", BUSYBOX, "sleep", "1000")  # deaf to SIGTERM
    stop = box.popen(verb, "-t", "5", "slow", stdout=subprocess.PIPE)
    until(lambda: box.phase("slow") == "stopping")
    box.end_agent()
    assert stop.communicate(timeout=30)[0] == b"slow\n" and stop.returncode == 0
    assert box.phase("slow") == phase
    box.start_agent()
    box.do("rm", "-f", "slow")


@pytest.mark.parametrize("words", [("kill",), ("stop", "-t", "0"), ("rm", "-f")])
def test_a_stop_with_patience_keeps_nobody_who_has_none(box: Hand, words: tuple[str, ...]) -> None:
    box.do("run", "-d", "--network", "none", "--name", "slow", BUSYBOX, "sleep", "1000")  # deaf to SIGTERM
    stop = box.popen("stop", "-t", "1000", "slow", stdout=subprocess.PIPE)
    until(lambda: box.phase("slow") == "stopping")
    box.do(*words, "slow")
    assert stop.communicate(timeout=30)[0] == b"slow\n"
    box.do("rm", "-f", "slow")


def test_several_are_stopped_side_by_side_and_one_that_is_not_there_keeps_none(box: Hand) -> None:
    names = [f"one{number}" for number in range(4)]
    for name in names:
        box.do("run", "-d", "--network", "none", "--name", name, BUSYBOX, "sleep", "1000")
    begin = time.monotonic()
    said = box.run("stop", "-t", "5", *names, "not-there")
    assert said.code == 1 and said.out.split() == names and "not-there" in said.errors
    assert time.monotonic() - begin < 15  # one after the other it would be twenty
    assert box.do("rm", *names).split() == names


def test_a_name_is_made_up_and_a_beginning_of_ids_must_fit_one(box: Hand) -> None:
    ids = [box.do("create", BUSYBOX, "true") for _ in range(2)]
    names = box.names()
    assert len(names) == 2 and all(re.fullmatch(r"[a-z]+_[a-z]+", name) for name in names)
    common = ids[0][:1] if ids[0][0] == ids[1][0] else ""
    assert ("fit" if common else "no container of this name") in box.do("rm", common, code=1)
    assert box.do("rm", *(id[:12] for id in ids)).split() == [id[:12] for id in ids]


def test_one_that_is_renamed_goes_on_and_is_found_by_its_new_name(box: Hand) -> None:
    id = box.do("run", "-d", "--name", "old", "-v", "/anonymous", BUSYBOX, "sleep", "1000")
    box.do("run", "-d", "--name", "peer", "--network", "container:old", BUSYBOX, "sleep", "1000")
    pid = box.row("old")["pid"]
    box.do("rename", "old", "new")
    assert (box.row("new")["pid"], box.phase("old")) == (pid, "gone")
    assert "no name" in box.do("rename", "new", "a/b", code=1)
    assert "taken" in box.do("rename", "new", "peer", code=1)
    assert "already" in box.do("rename", "new", "new", code=1)
    box.do("run", "-d", "--name", "asks", BUSYBOX, "sleep", "1000")
    until(lambda: box.run("exec", "asks", "busybox", "nslookup", "new").code == 0)
    assert box.run("exec", "asks", "busybox", "nslookup", "old").code != 0
    box.do("rm", "-f", "asks")
    box.do("restart", "-t", "0", "new", "peer")  # the other still has its network
    assert json.loads(box.do("inspect", "container", "peer"))["request"]["network_mode"] == "container:new"
    assert len(box.do("volume", "ls", "-q").split()) == 1
    box.do("rm", "-f", "-v", "peer", "new")
    assert box.do("volume", "ls", "-q") == ""
    assert not box.home(id).exists()


class _Meanwhile:
    """The runtime as an operation finds it that has looked its name up, and before it acts on that."""

    def __init__(self, runtime: LocalRuntime, act: Callable[[], None]) -> None:
        self._runtime, self._act = runtime, [act]

    def __getattr__(self, name: str) -> Any:
        if name in ("containers", "start_container", "pause_container") and self._act:
            self._act.pop()()
        return getattr(self._runtime, name)


@pytest.mark.parametrize("op", ["discard", "remove", "stop", "kill", "start", "restart", "pause", "update"])
def test_what_is_renamed_meanwhile_is_what_was_meant_and_not_who_took_its_name(alone: Hand, op: str) -> None:
    words = ("--network", "none", BUSYBOX, "sleep", "1000")
    alone.do("run", "-d", "--name", "meant", *words)
    if op in ("remove", "start"):
        alone.do("stop", "-t", "0", "meant")
    with LocalRuntime(alone.paths) as runtime:

        def rename() -> None:
            runtime.containers.rename("meant", "moved")
            alone.do("run", "-d", "--name", "meant", *words)

        args = {"name": "meant", "timeout": 0, "table": {"restart": "always"}}
        calls.perform(cast(LocalRuntime, _Meanwhile(runtime, rename)), op, args)
        found = json.loads(alone.do("inspect", "meant"))[0]
        assert found["State"]["Status"] == "running" and found["State"]["StartedAt"][:4] != "0001"
        assert found["HostConfig"]["RestartPolicy"]["Name"] == "no"
    wanted = {"discard": "gone", "remove": "gone", "stop": "stopped", "kill": "stopped", "pause": "paused"}
    assert alone.phase("moved") == wanted.get(op, "running")
    alone.do("rm", "-f", "meant", "moved")


def test_of_two_names_at_once_one_is_given(alone: Hand) -> None:
    alone.do("create", "--name", "first", "--network", "none", BUSYBOX, "true")
    with LocalRuntime(alone.paths) as runtime:
        act = lambda: runtime.containers.rename("first", "second")  # noqa: E731
        with pytest.raises(Fault, match="it is called that already"):
            calls.perform(
                cast(LocalRuntime, _Meanwhile(runtime, act)), "rename", {"name": "first", "new": "second"}
            )
    assert alone.phase("second") == "created"
    alone.do("rm", "second")


def test_volumes_are_made_when_they_are_named_and_anonymous_ones_go_with_their_container(box: Hand) -> None:
    script = "echo 1 >/d/f; echo 2 >/own/f"
    box.do("run", "--rm", "-v", "data:/d", "-v", "/own", BUSYBOX, "sh", "-c", script)
    assert box.do("volume", "ls", "-q") == "data"
    box.do("create", "--name", "keeper", "-v", "data:/d", "-v", "/own", BUSYBOX, "true")
    said = box.do(
        "run", "--rm", "--volumes-from", "keeper:ro", BUSYBOX, "sh", "-c", "cat /d/f; touch /own/f || echo no"
    )
    assert said.split() == ["1", "no"]
    box.do("rm", "-v", "keeper")
    assert box.do("volume", "ls", "-q") == "data"
    box.do("volume", "rm", "data")


def test_a_volume_that_a_mount_makes_has_its_labels_and_one_that_is_there_keeps_its_own(box: Hand) -> None:
    for label in ("tier=back", "tier=front"):
        mount = f"type=volume,src=labelled,dst=/d,volume-label={label}"
        box.do("run", "--rm", "--network", "none", "--mount", mount, BUSYBOX, "true")
    assert box.do("volume", "inspect", "-f", "{{json .Labels}}", "labelled") == '{"tier":"back"}'
    box.do("volume", "rm", "labelled")


def test_the_image_is_shown_as_it_was_written_until_that_means_another_one(box: Hand) -> None:
    id = box.do("image", "inspect", "-f", "{{.Id}}", BUSYBOX).removeprefix("sha256:")
    box.do("image", "tag", BUSYBOX, "docker.io/library/shown:latest")
    forms = ("shown", "shown:latest", "docker.io/library/shown", id[:12], f"sha256:{id}")
    for number, written in enumerate(forms):
        box.do("create", "--name", f"shown{number}", "--network", "none", written, "true")
        assert box.do("inspect", "-f", "{{.Config.Image}} {{.Image}}", f"shown{number}") == (
            f"{written} sha256:{id}"
        )
    column = ("ps", "-a", "-f", "name=shown", "--format", "{{.Image}}")
    assert box.do(*column).split() == [id[:12], id[:12], "docker.io/library/shown", "shown:latest", "shown"]
    events = box.do(
        "events", "--since", "1h", "--until", "0s", "-f", "event=create", "-f", "image=shown:latest"
    )
    assert events.count("image=shown,") == 1 and len(events.splitlines()) == 3
    box.do("image", "rm", "shown")
    assert box.do(*column).split() == [id[:12]] * 5
    assert box.do("inspect", "-f", "{{.Config.Image}}", "shown0") == "shown"
    box.do("rm", *(f"shown{number}" for number in range(5)))


def test_the_environment_that_is_shown_is_what_was_said_and_not_what_each_program_has(box: Hand) -> None:
    words = ("--network", "none", "-e", "B=2", "-e", "A=1", BUSYBOX, "sleep", "1000")
    box.do("create", "--name", "said", *words)
    before = box.do("inspect", "-f", "{{json .Config.Env}}", "said")
    box.do("start", "said")
    assert box.do("inspect", "-f", "{{json .Config.Env}}", "said") == before
    assert before.startswith('["A=1","B=2","PATH=') and "HOME" not in before and "HOSTNAME" not in before
    assert "HOSTNAME=said" in box.do("exec", "said", "env")
    box.do("rm", "-f", "said")


def test_with_rm_it_goes_when_it_ends_whoever_waits(box: Hand) -> None:
    box.do("run", "-d", "--rm", "--name", "brief", BUSYBOX, "sleep", "0.2")
    until(lambda: box.phase("brief") == "gone")
    box.do("run", "-d", "--rm", "--name", "brief", BUSYBOX, "sleep", "1000")
    box.do("stop", "-t", "0", "brief")
    assert box.phase("brief") == "gone"


def test_a_restart_with_rm_is_not_the_end_of_it(box: Hand) -> None:
    """Who waits for it, to remove it, has seen the end of one run."""
    client = box.popen(
        "run",
        "--rm",
        "--name",
        "again",
        BUSYBOX,
        "sh",
        "-c",
        "echo begun; exec sleep 1000",
        stdout=subprocess.PIPE,
    )
    assert client.stdout is not None and client.stdout.readline() == b"begun\n"
    box.do("restart", "-t", "0", "again")
    client.communicate(timeout=30)
    assert client.returncode == 137 and box.phase("again") == "running"
    box.do("stop", "-t", "0", "again")
    until(lambda: box.phase("again") == "gone")


def test_a_client_that_is_killed_ends_nobody(box: Hand) -> None:
    client = box.popen(
        "run", "--name", "lives", BUSYBOX, "sh", "-c", "echo begun; exec sleep 1000", stdout=subprocess.PIPE
    )
    assert client.stdout is not None and client.stdout.readline() == b"begun\n"
    client.kill()
    client.communicate()
    assert box.phase("lives") == "running"
    client = box.popen("attach", "lives")
    until(lambda: b"attach" in Path(f"/proc/{client.pid}/cmdline").read_bytes())
    client.send_signal(signal.SIGHUP)
    client.wait(30)
    assert box.phase("lives") == "running"
    box.do("rm", "-f", "lives")


def test_signals_are_passed_on_unless_it_is_said(box: Hand) -> None:
    script = "trap 'echo caught; exit 9' TERM; echo begun; while true; do sleep 0.05; done"
    client = box.popen(
        "run", "--rm", "--name", "proxied", BUSYBOX, "sh", "-c", script, stdout=subprocess.PIPE
    )
    assert client.stdout is not None and client.stdout.readline() == b"begun\n"
    client.send_signal(signal.SIGTERM)
    assert client.communicate(timeout=30)[0] == b"caught\n" and client.returncode == 9
    assert box.phase("proxied") == "gone"


def test_start_may_attach_and_shows_only_what_comes(box: Hand) -> None:
    box.do("create", "--name", "twice", "-i", BUSYBOX, "sh", "-c", "read a; echo got $a; exit 6")
    for word in ("one", "two"):
        said = box.run("start", "-a", "-i", "twice", stdin=f"{word}\n")
        assert (said.code, said.out) == (6, f"got {word}\n")
    box.do("rm", "twice")


def test_exec_leaves_a_program_to_itself_and_takes_files_of_variables(
    box: Hand, tmp_path_factory: pytest.TempPathFactory
) -> None:
    box.do("run", "-d", "--name", "host", BUSYBOX, "sleep", "1000")
    file = tmp_path_factory.mktemp("env") / "f"
    file.write_text("# no\nA=1\nB=2\n")
    assert box.do("exec", "--env-file", str(file), "-e", "B=3", "host", "sh", "-c", "echo $A $B") == "1 3"
    assert box.do("exec", "-d", "host", "sh", "-c", "echo done >/tmp-done; exec sleep 999") == ""
    until(lambda: box.run("exec", "host", "cat", "/tmp-done").out == "done\n")
    caps = box.do("exec", "--privileged", "host", "grep", "CapEff", "/proc/self/status")
    assert caps != box.do("exec", "host", "grep", "CapEff", "/proc/self/status")
    assert box.run("exec", "host", "not-there").code == 127
    box.do("rm", "-f", "host")


def test_neither_an_agent_nor_down_touches_what_no_source_declares(box: Hand) -> None:
    box.do("run", "-d", "--name", "mine", "--network", "none", BUSYBOX, "sleep", "1000")
    pid = box.row("mine")["pid"]
    box.end_agent()
    empty = box.specs.parent / "empty"
    empty.mkdir()
    box.do("apply", str(empty))
    box.do("down", str(empty))
    box.start_agent()
    until(lambda: "converged" in box.run("status").out)
    assert box.row("mine")["pid"] == pid
    until(lambda: "unmanaged: mine" in box.run("status").out)
    box.do("rm", "-f", "mine")


def test_what_lost_its_supervisor_comes_back_by_its_restart_policy(box: Hand) -> None:
    """As after the end of the machine, but for the time: what was stopped by hand was so since it began."""
    for policy in ("no", "on-failure", "unless-stopped", "always"):
        words = ("--network", "none", "--restart", policy, BUSYBOX, "sleep", "1000")
        box.do("run", "-d", "--name", f"ran-{policy}", *words)
        if policy == "always":
            box.do("run", "-d", "--name", "stopped-always", *words)
            box.do("stop", "-t", "0", "stopped-always")
    box.end_agent()
    for policy in ("no", "on-failure", "unless-stopped", "always"):
        state = client.read_state(box.paths.live(box.row(f"ran-{policy}")["id"]))
        assert state is not None
        os.kill(state.shim_pid, signal.SIGKILL)
        with suppress(ProcessLookupError):  # it may have ended with its shim
            os.kill(state.pid, signal.SIGKILL)
    box.start_agent()
    for policy in ("on-failure", "unless-stopped", "always"):
        until(lambda: box.phase(f"ran-{policy}") == "running")  # noqa: B023
    assert box.phase("ran-no") != "running" and box.phase("stopped-always") == "stopped"
    box.do("rm", "-f", *(name for name in box.names()))


# ---------------------------------------------------------------- what a source declares


def write(box: Hand, name: str = "web", **environment: str) -> None:
    values = ", ".join(f'{key} = "{value}"' for key, value in environment.items())
    text = f"""
project = "shop"
[container.{name}]
image = "{BUSYBOX}"
command = ["sleep", "1000"]
network_mode = "none"
stop_grace_period = "100ms"
environment = {{ {values} }}
"""
    new = box.specs.parent / "new.toml"
    new.write_text(text)
    new.rename(box.specs / "web.toml")


def test_what_a_person_stopped_stays_stopped_until_he_starts_it(box: Hand) -> None:
    write(box, A="1")
    until(lambda: box.phase("shop/web") == "running")
    first = box.row("shop/web")["id"]
    box.do("stop", "--reason", "moving the data", "web")
    assert box.phase("shop/web") == "stopped"
    until(lambda: "moving the data; `stead start shop/web` hands it back [held]" in box.run("status").out)
    assert box.run("status").code == 0
    assert "moving the data" in box.do("explain", "web")
    assert box.row("shop/web")["stopped_by_hand"]["reason"] == "moving the data"
    box.end_agent(signal.SIGKILL)
    box.start_agent()
    until(lambda: "[held]" in box.run("status").out)
    assert box.phase("shop/web") == "stopped"
    write(box, A="2")
    until(lambda: box.row("shop/web").get("id", first) != first)
    until(lambda: "converged" in box.run("status").out)
    assert box.phase("shop/web") == "created"
    box.do("start", "web")
    assert box.phase("shop/web") == "running"
    until(lambda: "[held]" not in box.run("status").out)
    assert box.row("shop/web")["stopped_by_hand"] is None


def test_a_managed_one_that_is_killed_is_healed_and_not_removed_without_force(box: Hand) -> None:
    before = box.row("shop/web").get("id")
    write(box, A="killed")
    until(lambda: box.row("shop/web").get("id") not in (None, before) and box.phase("shop/web") == "running")
    box.do("kill", "web")
    until(lambda: box.row("shop/web")["restarts"] >= 1)
    until(lambda: box.phase("shop/web") == "running")
    assert "source shop declares it" in box.do("rm", "web", code=1)
    assert "source shop declares it" in box.do("rename", "web", "other", code=1)
    first = box.row("shop/web")["id"]
    box.do("rm", "-f", "web")
    until(lambda: box.row("shop/web").get("id", first) != first)
    write(box, "other", A="1")
    until(lambda: box.phase("shop/web") == "gone")


# ---------------------------------------------------------------- without an agent


def test_without_an_agent_the_command_does_it_itself(alone: Hand) -> None:
    said = alone.run("run", "--rm", BUSYBOX, "sh", "-c", "echo out; exit 3")
    assert (said.code, said.out) == (3, "out\n"), said
    alone.do("run", "-d", "--name", "web", BUSYBOX, "sleep", "1000")
    assert alone.phase("web") == "running"
    alone.do("stop", "-t", "0", "web")
    alone.do("rm", "web")
    assert alone.names() == set()


def test_two_commands_at_once_wait_for_each_other(alone: Hand) -> None:
    both = [
        alone.popen("run", "--rm", "--network", "none", BUSYBOX, "echo", str(number), stdout=subprocess.PIPE)
        for number in range(2)
    ]
    assert [client.communicate(timeout=60)[0] for client in both] == [b"0\n", b"1\n"]
    assert [client.returncode for client in both] == [0, 0]
