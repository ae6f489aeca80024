"""RUN as a container: what it sees, what stays of it in the layer, and that nothing else does. Real
kernel."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.build.executor import Cancelled
from runtime.build.failure import StepFailed
from runtime.build.mounting import Relay
from runtime.build.request import BuildEvent, SecretSource, SshSource
from runtime.faults import Fault
from runtime.wishes import LimitsRequest
from tests.kernel.build_box import BuildBox, build_box
from tests.kernel.shim_box import until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[BuildBox]:
    with build_box(tmp_path) as made:
        yield made


# ---------------------------------------------------------------- what stays


def test_a_layer_has_what_the_program_changed_and_nothing_that_was_lent_to_it(box: BuildBox) -> None:
    built = box.build(
        "RUN ls /proc/self /sys /dev >/dev/null && cat /etc/hosts /etc/resolv.conf && touch /tmp/x"
    )
    assert box.top(built.result.image_id) == ["tmp", "tmp/x"]


def test_a_program_that_changes_nothing_makes_an_empty_layer(box: BuildBox) -> None:
    assert box.top(box.build("RUN true").result.image_id) == []


def test_mount_points_that_an_image_lacks_are_not_in_its_layers(box: BuildBox) -> None:
    box.write({"busybox": Path("/usr/bin/busybox").read_bytes()})
    built = box.build(
        "FROM scratch\nCOPY --chmod=755 busybox /busybox\n"
        'RUN --mount=type=tmpfs,target=/deep/er/place ["/busybox", "touch", "/deep/er/place/gone"]'
    )
    assert box.top(built.result.image_id) == []
    with box.view(built.result.image_id) as root:
        assert sorted(os.listdir(root)) == ["busybox"]


def test_a_directory_keeps_its_time_though_something_was_mounted_in_it(box: BuildBox) -> None:
    built = box.build("RUN touch -d @1000000000 /etc\nRUN touch /etc/new && touch -d @1000000000 /etc")
    with box.view(built.result.image_id) as root:
        assert (root / "etc").stat().st_mtime == 1000000000
    assert box.top(built.result.image_id) == ["etc", "etc/new"]


def test_what_a_program_leaves_running_is_ended_with_it(box: BuildBox) -> None:
    began = time.monotonic()
    box.build("RUN (setsid sleep 1000 &) ; (sleep 1000 &) ; echo done")
    assert time.monotonic() - began < 20
    assert box.builds and box.leftovers() == []


# ---------------------------------------------------------------- what it sees


def test_a_program_runs_as_the_user_in_the_directory_with_the_environment(box: BuildBox) -> None:
    built = box.build(
        "ENV A=1 HOME=/nowhere\nARG B=2\nWORKDIR /w\nUSER web:extra\n"
        'RUN echo "$(id -u) $(id -g) $PWD $A $B $HOME" && env | grep -c HOSTNAME || true'
    )
    assert built.output == ["1000 2000 /w 1 2 /nowhere", "0"]


def test_home_is_that_of_the_user_in_the_image(box: BuildBox) -> None:
    assert box.build("USER web\nRUN echo $HOME").output == ["/home/web"]


def test_a_program_is_confined_as_a_container_is(box: BuildBox) -> None:
    built = box.build("RUN grep -E 'CapEff|Seccomp:' /proc/self/status; cat /proc/self/cgroup | head -1")
    text = "\n".join(built.output)
    assert "CapEff:\t00000000a80425fb" in text
    assert "Seccomp:\t2" in text
    assert "/build-" not in text  # a cgroup namespace of its own


def test_a_program_has_no_network_but_itself_with_none(box: BuildBox) -> None:
    built = box.build("RUN --network=none cat /proc/net/dev", network="default")
    assert [line.split(":")[0].strip() for line in built.output if ":" in line] == ["lo"]


def test_a_program_has_an_address_behind_a_bridge_by_default(box: BuildBox) -> None:
    built = box.build("RUN cat /proc/net/dev && grep buildkitsandbox /etc/hosts", network="default")
    assert any(line.strip().startswith("eth0:") for line in built.output)
    assert built.output[-1].startswith("10.215.")


def test_a_program_sees_the_hosts_links_with_host(box: BuildBox) -> None:
    built = box.build("RUN cat /proc/net/dev", network="host")
    ours = {line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]}
    assert "lo" in ours
    assert {line.split(":")[0].strip() for line in built.output[2:]} >= {"lo"}
    assert not any(line.strip().startswith("eth0:") for line in built.output) or "eth0" in ours


def test_hosts_that_are_given_are_known(box: BuildBox) -> None:
    built = box.build("RUN grep db$ /etc/hosts", extra_hosts=(("db", "192.0.2.7"),))
    assert built.output == ["192.0.2.7\tdb"]


def test_limits_hold_for_every_step(box: BuildBox) -> None:
    with pytest.raises(StepFailed) as failed:
        box.build("RUN sleep 5 & sleep 5 & sleep 5 & sleep 5 & wait", limits=LimitsRequest(pids=3))
    assert failed.value.exit_code != 0
    assert any("fork" in line for line in failed.value.tail)


# ---------------------------------------------------------------- what it says


def test_output_comes_line_by_line_with_the_number_of_the_step(box: BuildBox) -> None:
    box.build("RUN echo one; echo two >&2; printf three\nRUN echo four")
    lines = [(event.vertex, event.text) for event in box.events if event.kind == "output"]
    first, second = lines[0][0], lines[-1][0]
    assert lines == [(first, "one"), (first, "two"), (first, "three"), (second, "four")]
    assert first < second


def test_a_step_that_fails_says_its_program_its_code_and_its_last_lines(box: BuildBox) -> None:
    with pytest.raises(StepFailed) as failed:
        box.build("RUN true\nRUN echo some; echo words; exit 3")
    assert failed.value.code == "build-failed"
    assert failed.value.exit_code == 3
    assert [line.split(" ", 1)[1] for line in failed.value.tail] == ["some", "words"]
    assert str(failed.value).startswith(
        "cannot build Dockerfile: Dockerfile:3:1: RUN echo some; echo words; exit 3:"
    )
    assert str(failed.value).endswith("did not complete successfully: exit code: 3")


def test_what_was_done_before_a_step_that_fails_is_remembered(box: BuildBox) -> None:
    with pytest.raises(StepFailed):
        box.build("RUN echo a > /a\nRUN false")
    assert box.build("RUN echo a > /a\nRUN true").cached == [True, False]


def test_a_program_that_is_not_there_is_127(box: BuildBox) -> None:
    with pytest.raises(StepFailed) as failed:
        box.build('RUN ["/no/such"]')
    assert failed.value.exit_code == 127
    assert "no such file" in str(failed.value)


def test_a_user_that_the_image_has_not_is_named(box: BuildBox) -> None:
    with pytest.raises(StepFailed, match="has no such user"):
        box.build("USER nobody-here\nRUN true")


def test_insecure_steps_are_refused(box: BuildBox) -> None:
    with pytest.raises(StepFailed, match="insecure is not allowed"):
        box.build("RUN --security=insecure true")


# ---------------------------------------------------------------- mounts


def test_a_secret_is_seen_and_nowhere_kept(box: BuildBox) -> None:
    word = "correct-horse-battery"
    built = box.build(
        "RUN --mount=type=secret,id=key,uid=1000,mode=0400 stat -c '%u %a' /run/secrets/key"
        " && test \"$(cat /run/secrets/key)\" = $(printf 'correct-horse'; printf -- '-battery')",
        secrets=(SecretSource("key", value=word.encode()),),
    )
    assert built.output == ["1000 400"]
    assert box.top(built.result.image_id) == []
    for path in box.paths.root.rglob("*"):
        if stat.S_ISREG(path.lstat().st_mode):
            assert word.encode() not in path.read_bytes(), path


def test_a_secret_comes_from_a_file_or_a_variable(box: BuildBox, monkeypatch: pytest.MonkeyPatch) -> None:
    box.write({"key": "of a file"})
    monkeypatch.setenv("TOKEN", "of a variable")
    built = box.build(
        "RUN --mount=type=secret,id=a,target=/a --mount=type=secret,id=b,env=B echo $(cat /a), $B",
        secrets=(SecretSource("a", path=str(box.context / "key")), SecretSource("b", env="TOKEN")),
    )
    assert built.output == ["of a file, of a variable"]


def test_a_secret_that_is_not_given_is_left_out_unless_it_is_required(box: BuildBox) -> None:
    assert box.build("RUN --mount=type=secret,id=key ls /run/secrets || echo none").output[-1] == "none"
    with pytest.raises(StepFailed, match="secret key was not given"):
        box.build("RUN --mount=type=secret,id=key,required true")


def test_another_secret_is_no_other_step(box: BuildBox) -> None:
    text = "RUN --mount=type=secret,id=key cat /run/secrets/key"
    box.build(text, secrets=(SecretSource("key", value=b"1"),))
    assert box.build(text, secrets=(SecretSource("key", value=b"2"),)).cached == [True]


def test_a_cache_outlives_the_build_and_is_in_no_layer(box: BuildBox) -> None:
    text = "RUN --mount=type=cache,target=/c echo {} >> /c/log; cat /c/log"
    box.build(text.format("one"))
    built = box.build(text.format("two"))
    assert built.output == ["one", "two"]
    assert box.top(built.result.image_id) == []


def test_a_cache_has_the_owner_and_mode_that_are_asked_for(box: BuildBox) -> None:
    built = box.build(
        "USER web\nRUN --mount=type=cache,target=/c,uid=1000,mode=0700 touch /c/x; stat -c '%u %a' /c"
    )
    assert built.output == ["1000 700"]


def test_a_locked_cache_is_for_one_step_at_a_time(box: BuildBox) -> None:
    step = "RUN --mount=type=cache,id=l,target=/c,sharing=locked mkdir /c/busy && sleep 0.3 && rmdir /c/busy"
    text = f"FROM tests/busybox:1 AS a\n{step}\nFROM tests/busybox:1 AS b\n{step} && true\n"
    box.build(text + "FROM scratch\nCOPY --from=a /etc/passwd /a\nCOPY --from=b /etc/passwd /b\n")


def test_a_part_of_a_cache_alone_is_refused(box: BuildBox) -> None:
    """A program could have put a link to anywhere in its place."""
    with pytest.raises(StepFailed, match="needs from="):
        box.build("RUN --mount=type=cache,target=/c,source=part true")


def test_a_cache_begins_with_what_a_stage_has(box: BuildBox) -> None:
    text = (
        "FROM tests/busybox:1 AS first\nRUN mkdir /d && echo start > /d/f\nFROM tests/busybox:1\n"
        "RUN --mount=type=cache,target=/c,from=first,source=/d cat /c/f; echo {} > /c/f\n"
    )
    assert box.build(text.format("one")).output[-1] == "start"
    assert box.build(text.format("two")).output[-1] == "one"


def test_a_bind_of_a_stage_is_what_the_stage_made(box: BuildBox) -> None:
    built = box.build(
        "FROM tests/busybox:1 AS other\nRUN mkdir /d && echo deep > /d/f\n"
        "FROM tests/busybox:1\n"
        "RUN --mount=type=bind,from=other,source=/d,target=/m cat /m/f; touch /m/x || true\n"
        "RUN --mount=type=bind,from=other,source=/d/f,target=/g,rw echo over > /g; cat /g\n"
    )
    assert built.output[0] == "deep"
    assert "Read-only" in built.output[1]
    assert built.output[2] == "over"


def test_a_bind_of_the_context_leaves_out_what_is_ignored(box: BuildBox) -> None:
    box.write({"a": "a", "b": "b", "sub/c": "c", ".dockerignore": "b\n"})
    built = box.build("RUN --mount=target=/m cd /m && ls -R . | tr '\\n' ' '")
    assert built.output == [".: a sub  ./sub: c "]


def test_a_bind_of_another_file_is_another_step(box: BuildBox) -> None:
    text = "RUN --mount=source=a,target=/m cat /m"
    box.write({"a": "1"})
    assert box.build(text).output == ["1"]
    assert box.build(text).cached == [True]
    box.write({"a": "2"})
    assert box.build(text).output == ["2"]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[str]:
    """A socket that answers whoever says something."""
    path = str(tmp_path / "agent")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def answer() -> None:
            while True:
                try:
                    end, _ = listener.accept()
                except OSError:
                    return
                with end:
                    if said := end.recv(100):
                        end.sendall(b"you said " + said)

        thread = threading.Thread(target=answer)
        thread.start()
        yield path
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_an_agents_socket_is_there_for_the_user_that_is_asked_for(box: BuildBox, agent: str) -> None:
    built = box.build(
        "RUN --mount=type=ssh,uid=1000 stat -c '%u %a %F' $SSH_AUTH_SOCK",
        ssh=(SshSource("default", agent),),
    )
    assert built.output == ["1000 600 socket"]
    assert box.top(built.result.image_id) == []
    with pytest.raises(StepFailed, match="ssh agent default was not given"):
        box.build("RUN --mount=type=ssh,required true")


def test_what_is_said_to_an_agent_gets_there_and_back(agent: str, tmp_path: Path) -> None:
    relay = Relay(tmp_path / "relay", agent)
    try:
        for word in (b"one", b"two"):
            with socket.socket(socket.AF_UNIX) as end:
                end.connect(str(relay.path))
                end.sendall(word)
                assert end.recv(100) == b"you said " + word
                assert end.recv(100) == b""
    finally:
        relay.close()


# ---------------------------------------------------------------- ends


def test_a_build_that_is_cancelled_leaves_nothing_and_keeps_what_was_done(box: BuildBox) -> None:
    cancelled = threading.Event()
    threading.Thread(
        target=lambda: (
            until(lambda: any(event.text == "here" for event in box.events)),
            cancelled.set(),
        )
    ).start()
    with pytest.raises(Cancelled):
        box.build("RUN echo a > /a\nRUN echo here; sleep 1000", cancelled, network="default")
    assert box.builds and box.leftovers() == []
    assert box.build("RUN echo a > /a", network="default").cached == [True]


def test_a_build_goes_on_while_the_agent_sweeps_and_collects(box: BuildBox) -> None:
    """What a live build has is not taken for a leftover: its directory, its network, its layers."""
    swept: list[tuple[str, ...]] = []

    def sweep() -> None:
        until(lambda: any(event.text == "here" for event in box.events))
        assert box.runtime.observe().leftovers == ()
        swept.append(box.runtime.sweep())
        box.runtime.images.collector.collect()

    thread = threading.Thread(target=sweep)
    thread.start()
    built = box.build(
        "RUN echo a > /a\nRUN echo here; sleep 2; grep -c eth0 /proc/net/dev\nRUN cat /a", network="default"
    )
    thread.join()
    assert swept == [()]
    assert built.output[-2:] == ["1", "a"]


def test_a_step_whose_runner_is_killed_fails_and_leaves_nothing(box: BuildBox) -> None:
    def kill() -> None:
        until(lambda: any(event.text == "here" for event in box.events))
        (worker,) = (pid for pid in children(os.getpid()) if b"worker.py" in command(pid))
        for runner in children(worker):
            os.kill(runner, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(StepFailed, match="its runner was killed") as failed:
        box.build("RUN echo here; sleep 1000")
    thread.join()
    assert failed.value.code == "kernel-error"  # it passes by itself: worth another try
    assert box.builds and box.leftovers() == []


def children(pid: int) -> list[int]:
    found = [
        Path(f"/proc/{pid}/task/{task}/children").read_text() for task in os.listdir(f"/proc/{pid}/task")
    ]
    return [int(word) for text in found for word in text.split()]


def command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_stages_that_do_not_need_each_other_go_on_side_by_side(box: BuildBox) -> None:
    """Each waits for what the other says: one after the other, they would wait for ever."""
    wait = (
        "for i in $(sleep 0; echo 1 2 3 4 5 6 7 8 9); do test -e /c/{} && break; sleep 1; done; test -e /c/{}"
    )
    box.build(
        "FROM tests/busybox:1 AS a\nRUN --mount=type=cache,id=m,target=/c touch /c/a; "
        + wait.format("b", "b")
        + "\n"
        "FROM tests/busybox:1 AS b\nRUN --mount=type=cache,id=m,target=/c touch /c/b; "
        + wait.format("a", "a")
        + "\n"
        "FROM scratch\nCOPY --from=a /etc/passwd /a\nCOPY --from=b /etc/passwd /b\n"
    )


def test_a_stage_that_fails_ends_the_others(box: BuildBox) -> None:
    began = time.monotonic()
    with pytest.raises(StepFailed, match="exit code: 7"):
        box.build(
            "FROM tests/busybox:1 AS a\nRUN sleep 1000\nFROM tests/busybox:1 AS b\nRUN sleep 0.2; exit 7\n"
            "FROM scratch\nCOPY --from=a /etc/passwd /a\nCOPY --from=b /etc/passwd /b\n"
        )
    assert time.monotonic() - began < 30
    assert {event.text for event in box.events if event.kind == "error"} == {
        'process "/bin/sh -c sleep 0.2; exit 7" did not complete successfully: exit code: 7',
        "cancelled",
    }


def test_the_stage_that_failed_first_is_told_and_not_what_followed_of_it(box: BuildBox) -> None:
    cancelled = threading.Event()

    def told(event: BuildEvent) -> None:
        if event.text == "tick" and cancelled.is_set():
            raise OSError(errno.EIO, "a consequence")

    with pytest.raises(StepFailed, match="exit code: 7"):
        text = (
            "FROM tests/busybox:1 AS a\nRUN while :; do echo tick; done\n"
            "FROM tests/busybox:1 AS b\nRUN exit 7\n"
            "FROM scratch\nCOPY --from=a /etc/passwd /a\nCOPY --from=b /etc/passwd /b\n"
        )
        box.runtime.builder.build(box.request(text), told, cancelled)


def test_a_network_that_is_none_is_refused(box: BuildBox) -> None:
    with pytest.raises(Fault, match="none of default, none, host"):
        box.build("RUN true", network="mine")
