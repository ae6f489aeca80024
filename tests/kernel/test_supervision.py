"""Containers under their shims, from request to outcome: restarts, stops, health, logs. Needs root."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import logs
from runtime.linux import pidfd
from runtime.observations import PROBE_STOPPED
from runtime.wishes import ProbeRequest, RestartRequest
from specs.values import ImageRef
from tests.kernel.engine_box import Engine, engine
from tests.kernel.images_box import Layout, directory, file, layer, symlink
from tests.kernel.shim_box import BUSYBOX, until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

SOON = {"interval": 0.05, "start_interval": 0.05, "timeout": 5.0, "retries": 2}


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("supervision")) as made:
        yield made


@pytest.fixture(autouse=True)
def _alone(box: Engine) -> Iterator[None]:
    """What a test that failed left is not another's."""
    yield
    for name in box.runtime.observe().containers:
        box.runtime.containers.remove(name, kill=True)


def gone(box: Engine, name: str) -> bool:
    return not pidfd.is_alive(box.state(name).shim_pid, box.state(name).shim_start)


def cut_power(box: Engine, name: str) -> None:
    """No shim, nothing under /run, no word of an end; and it is started, as after a boot."""
    state = box.state(name)
    os.kill(state.shim_pid, signal.SIGKILL)
    until(lambda: not pidfd.is_alive(state.shim_pid, state.shim_start))
    box.runtime.containers._preparation.clear(box.id(name))
    box.runtime.start_container(name)


# ---------------------------------------------------------------- restarts


def test_a_start_while_its_shim_still_ends_is_a_start(box: Engine) -> None:
    """The end is told before the last word is on disk: whoever heard of it may start it at once."""
    name = box.create("echo run")
    for count in range(1, 13):
        box.runtime.start_container(name)
        until(lambda: box.state(name).phase == "exited")
        box.runtime.start_container(name)
        until(lambda count=count: len(box.output(name).splitlines()) == 2 * count)  # type: ignore[misc]
        until(lambda: gone(box, name))
    box.runtime.remove_container(name)


@pytest.mark.parametrize(
    ("policy", "count", "code", "restarts"),
    [
        ("no", 0, 1, 0),
        ("on-failure", 0, 0, 0),
        ("on-failure", 2, 1, 2),
        ("always", 0, 0, None),
        ("always", 0, 1, None),
        ("unless-stopped", 0, 0, None),
    ],
)
def test_the_policy_decides_who_is_restarted(
    box: Engine, policy: str, count: int, code: int, restarts: int | None
) -> None:
    """None: for ever."""
    name = box.start(f"exit {code}", restart=RestartRequest(policy, count, initial=0.01, max=0.02))
    if restarts is None:
        until(lambda: box.state(name).restarts >= 4)
    else:
        state = box.result(name).state
        assert state is not None
        assert (state.phase, state.exit_code, state.restarts) == ("exited", code, restarts)
    box.runtime.remove_container(name)


def starts(box: Engine, name: str, count: int) -> list[float]:
    """When the program said its first word, in seconds."""
    until(lambda: box.output(name).count("begun") >= count)
    return [at / 1e9 for at, _, line in logs.read(box.home(name) / "log") if line == b"begun\n"][:count]


def test_the_first_restart_is_at_once_and_each_later_one_waits_twice_as_long(box: Engine) -> None:
    name = box.start("echo begun", restart=RestartRequest("always", initial=1.0, max=4.0))
    moments = starts(box, name, 6)
    pauses = [after - before for before, after in itertools.pairwise(moments)]
    for pause, least in zip(pauses, (0.0, 1.0, 2.0, 4.0, 4.0), strict=True):
        assert least <= pause
    assert pauses[0] < pauses[-1]
    box.runtime.remove_container(name)


def test_a_run_that_was_long_enough_makes_the_next_restart_immediate(box: Engine) -> None:
    restart = RestartRequest("always", initial=60.0, max=60.0, reset_after=0.1)
    name = box.start("echo begun; sleep 1", restart=restart)
    moments = starts(box, name, 4)
    assert moments[-1] - moments[0] < 30.0
    box.runtime.remove_container(name)


def test_a_stop_wins_over_a_restart_that_is_under_way(box: Engine) -> None:
    for _ in range(8):
        name = box.start("true", restart=RestartRequest("always", initial=0.0, max=0.0))
        until(lambda name=name: box.state(name).restarts >= 2)
        box.runtime.stop_container(name)
        assert box.runtime.observe().containers[name].phase == "stopped"
        assert box.runtime._cgroups.pids(f"stead.slice/{box.id(name)}") == []
        box.runtime.remove_container(name)


def test_the_count_of_restarts_outlives_a_stop_and_a_power_cut(box: Engine) -> None:
    name = box.start("sleep 1000", restart=RestartRequest("always", initial=0.01))
    for count in (1, 2):
        os.kill(box.state(name).pid, signal.SIGKILL)
        until(lambda count=count: box.state(name).restarts == count and box.state(name).phase == "running")
    box.runtime.stop_container(name)
    box.runtime.start_container(name)
    assert box.state(name).restarts == 2
    os.kill(box.state(name).pid, signal.SIGKILL)
    until(lambda: box.state(name).restarts == 3 and box.state(name).phase == "running")
    cut_power(box, name)
    assert (box.state(name).restarts, box.state(name).streak) == (3, 1)
    box.runtime.remove_container(name)


def test_a_power_cut_brings_no_crash_loop_back_that_was_over(box: Engine) -> None:
    name = box.start("sleep 1000", restart=RestartRequest("always", initial=0.01, reset_after=0.5))
    for count in (1, 2, 3):
        os.kill(box.state(name).pid, signal.SIGKILL)
        until(lambda count=count: box.state(name).restarts == count and box.state(name).phase == "running")
    until(lambda: box.state(name).streak == 0)
    counts = box.home(name) / "restarts.json"
    until(lambda: json.loads(counts.read_bytes())["streak"] == 0)
    cut_power(box, name)
    assert (box.state(name).restarts, box.state(name).streak) == (3, 0)
    box.runtime.remove_container(name)


def test_what_a_start_by_hand_began_anew_is_not_taken_back_by_a_power_cut(box: Engine) -> None:
    name = box.start("sleep 1000", restart=RestartRequest("on-failure", 2, initial=0.01, max=0.02))
    for _ in range(2):
        before = box.state(name).pid
        os.kill(before, signal.SIGKILL)
        until(lambda before=before: box.state(name).pid not in (0, before))
    box.runtime.stop_container(name)
    box.runtime.start_container(name)
    assert (box.state(name).restarts, box.state(name).attempts, box.state(name).streak) == (2, 0, 0)
    cut_power(box, name)
    assert (box.state(name).restarts, box.state(name).attempts, box.state(name).streak) == (2, 0, 0)
    box.runtime.remove_container(name)


def test_a_start_by_hand_ends_a_backoff_and_begins_anew(box: Engine) -> None:
    name = box.start(
        "test -e /tmp/well && exec sleep 1000; exit 1", restart=RestartRequest("always", initial=60.0)
    )
    until(lambda: box.state(name).phase == "backoff")
    (box.paths.rootfs(box.id(name)) / "tmp/well").touch()
    box.runtime.start_container(name)
    until(lambda: box.state(name).phase == "running")
    assert (box.state(name).restarts, box.state(name).streak, box.state(name).attempts) == (2, 0, 0)
    cut_power(box, name)
    assert (box.state(name).restarts, box.state(name).streak) == (2, 0)
    box.runtime.remove_container(name)


def test_the_tries_of_on_failure_are_counted_on_when_the_shim_is_killed(box: Engine) -> None:
    policy = RestartRequest("on-failure", 2, initial=0.01, max=0.02)
    name = box.start("sleep 1000", restart=policy)
    os.kill(box.state(name).pid, signal.SIGKILL)
    until(lambda: box.state(name).restarts == 1 and box.state(name).phase == "running")
    state = box.state(name)
    os.kill(state.shim_pid, signal.SIGKILL)
    until(lambda: not pidfd.is_alive(state.shim_pid, state.shim_start))
    box.runtime.start_container(name)
    for _ in range(2):
        before = box.state(name).pid
        os.kill(before, signal.SIGKILL)
        until(lambda before=before: gone(box, name) or box.state(name).pid not in (0, before))
    ended = box.result(name).state
    assert ended is not None and (ended.phase, ended.attempts, ended.restarts) == ("exited", 2, 2)
    box.runtime.start_container(name)  # by somebody: from the beginning
    assert box.state(name).attempts == 0
    box.runtime.remove_container(name)


def test_a_crash_loop_is_shown_as_such_until_a_run_does_well(box: Engine) -> None:
    policy = RestartRequest("always", initial=0.05, max=0.4, reset_after=2.5)
    script = "test -e /tmp/well && exec sleep 1000; echo boom; exit 3"
    name = box.start(script, restart=policy)
    until(lambda: box.runtime.observe().containers[name].crash_loop)
    until(lambda: box.runtime.observe().containers[name].phase == "backoff")
    seen = box.runtime.observe().containers[name]
    assert (seen.exit_code, seen.log_tail.splitlines()[-1]) == (3, "boom")
    shown = subprocess.run(
        box.stead("ps", "--format", "{{.State}} {{.Status}}"), capture_output=True, text=True, check=True
    ).stdout
    assert re.fullmatch(r"restarting Restarting \(3\) .* ago(, again in .*)? \(crash loop\)\n", shown)
    (box.paths.rootfs(box.id(name)) / "tmp/well").touch()
    until(lambda: box.state(name).phase == "running")
    assert box.runtime.observe().containers[name].crash_loop  # it runs, and has yet to do well
    until(lambda: not box.runtime.observe().containers[name].crash_loop)
    assert box.state(name).streak == 0
    box.runtime.remove_container(name)


def test_a_crash_loop_is_over_when_the_probe_has_said_so_for_long_enough(box: Engine) -> None:
    """Not before: a probe that fails then goes on with the streak."""
    probe = ProbeRequest(shell="test -e /tmp/up", start_period=60.0, **{**SOON, "retries": 1})
    policy = RestartRequest("always", initial=0.01, reset_after=3.0)
    name = box.start("rm -f /tmp/up; echo begun; exec sleep 1000", probe=probe, restart=policy)
    for count in (1, 2):
        until(lambda count=count: box.output(name).count("begun") == count)
        os.kill(box.state(name).pid, signal.SIGKILL)
    until(lambda: box.output(name).count("begun") == 3)
    up = box.paths.rootfs(box.id(name)) / "tmp/up"
    time.sleep(2.5)
    up.touch()
    time.sleep(1.5)
    assert (box.state(name).health, box.state(name).streak) == ("healthy", 2)
    up.unlink()
    until(lambda: box.output(name).count("begun") == 4)
    assert box.state(name).streak == 3
    up.touch()
    until(lambda: box.state(name).streak == 0)
    box.runtime.remove_container(name)


def test_the_last_output_of_what_ends_well_again_and_again_is_there(box: Engine) -> None:
    name = box.start("echo done", restart=RestartRequest("always", initial=0.05, max=0.4))
    until(lambda: box.runtime.observe().containers[name].crash_loop)
    until(lambda: box.runtime.observe().containers[name].phase == "backoff")
    seen = box.runtime.observe().containers[name]
    assert (seen.exit_code, seen.log_tail.splitlines()[-1]) == (0, "done")
    box.runtime.remove_container(name)


# ---------------------------------------------------------------- stop


def test_pid_1_without_a_handler_is_killed_after_the_grace_period(box: Engine) -> None:
    """The kernel drops signals to a namespace's init that it has no handler for: pid_namespaces(7)."""
    name = box.start("sleep", "1000", stop_grace_period=0.3)
    began = time.monotonic()
    box.runtime.stop_container(name)
    assert 0.3 <= time.monotonic() - began < 8.0
    assert box.runtime.observe().containers[name].exit_code == 137
    box.runtime.remove_container(name)


def test_a_program_that_handles_its_stop_signal_has_its_own_exit_code(box: Engine) -> None:
    for wanted, name_in_shell in (
        ("SIGTERM", "TERM"),
        ("SIGQUIT", "QUIT"),
        ("SIGRTMIN+3", "37"),
        ("SIGRTMAX-1", "63"),
    ):
        script = f"trap 'exit 9' {name_in_shell}; echo ready; while :; do sleep 0.02; done"
        name = box.start(script, stop_signal="" if wanted == "SIGTERM" else wanted, stop_grace_period=10.0)
        until(lambda name=name: "ready" in box.output(name))
        box.runtime.stop_container(name)
        assert box.runtime.observe().containers[name].exit_code == 9, wanted
        box.runtime.remove_container(name)


def test_a_program_that_is_killed_by_a_signal_has_128_plus_its_number(box: Engine) -> None:
    name = box.start("sleep 1000; true")
    cgroup, shell = f"stead.slice/{box.id(name)}", box.state(name).pid
    (child,) = until(lambda: set(box.runtime._cgroups.pids(cgroup)) - {shell})  # the shell begins before it
    os.kill(child, signal.SIGKILL)
    assert box.result(name).code == 0
    box.runtime.remove_container(name)
    assert box.run("kill -9 $$; exec env false").code == 1  # PID 1 cannot kill itself
    name = box.start("sleep 1000", pid_mode="host")
    os.kill(box.state(name).pid, signal.SIGUSR1)
    assert box.result(name).code == 128 + signal.SIGUSR1
    box.runtime.remove_container(name)


# ---------------------------------------------------------------- health


def test_a_probe_runs_as_the_container_does_and_its_last_results_are_kept(box: Engine) -> None:
    probe = ProbeRequest(shell="id -u; pwd; echo $WHO; head -c 5000 /dev/zero | tr '\\0' x", **SOON)
    name = box.start("sleep 1000", probe=probe, user="web", working_dir="/tmp", environment={"WHO": "me"})
    until(lambda: len(box.state(name).health_log) == 5)
    first = box.state(name).health_log[0].started_at
    until(lambda: box.state(name).health_log[0].started_at > first)
    state = box.state(name)
    assert (state.health, len(state.health_log)) == ("healthy", 5)
    for result in state.health_log:
        assert result.exit_code == 0
        assert len(result.output) == 4096
        assert result.output.startswith("1000\n/tmp\nme\nxxx")
        assert result.finished_at >= result.started_at > 0
    box.runtime.remove_container(name)


def test_failures_in_the_start_period_do_not_count_and_a_success_ends_it(box: Engine) -> None:
    probe = ProbeRequest(shell="test -e /tmp/up", start_period=60.0, on_failure="none", **SOON)
    name = box.start("sleep 1000", probe=probe)
    until(lambda: len(box.state(name).health_log) == 5)
    assert box.state(name).health == "starting"
    up = box.paths.rootfs(box.id(name)) / "tmp/up"
    up.touch()
    until(lambda: box.state(name).health == "healthy")
    up.unlink()
    until(lambda: box.state(name).health == "unhealthy")
    box.runtime.remove_container(name)


def test_a_late_probe_is_killed_with_all_that_it_started_wherever_that_went(box: Engine) -> None:
    daemon = "(setsid sh -c 'sleep 1000 & setsid sleep 1000 & exit' &); sleep 1000 & sleep 1000"
    probe = ProbeRequest(shell=daemon, timeout=2.0, interval=60.0, start_interval=0.05, on_failure="none")
    name = box.start("sleep 1000 & wait", probe=probe)
    until(lambda: len(box.runtime._cgroups.pids(f"stead.slice/{box.id(name)}")) >= 6)
    until(lambda: box.state(name).health_log)
    assert "no answer within 2 s" in box.state(name).health_log[0].output
    until(lambda: len(box.runtime._cgroups.pids(f"stead.slice/{box.id(name)}")) == 2)
    assert box.runtime.observe().containers[name].phase == "running"
    box.runtime.remove_container(name)


@pytest.mark.parametrize(
    ("on_failure", "phase"), [("restart", "running"), ("stop", "exited"), ("none", "running")]
)
def test_what_follows_a_failed_probe_is_as_asked_for(box: Engine, on_failure: str, phase: str) -> None:
    probe = ProbeRequest(shell="test ! -e /tmp/down", on_failure=on_failure, **SOON)
    name = box.start(
        "rm -f /tmp/down; trap 'exit 0' TERM; echo ready; while :; do sleep 0.02; done",
        probe=probe,
        restart=RestartRequest("always", initial=0.01),
        stop_grace_period=5.0,
    )
    until(lambda: box.state(name).health == "healthy" and "ready" in box.output(name))
    (box.paths.rootfs(box.id(name)) / "tmp/down").touch()
    if on_failure == "restart":
        until(lambda: box.state(name).restarts == 1 and box.state(name).health == "healthy")
    elif on_failure == "stop":
        until(lambda: gone(box, name))
    else:
        until(lambda: box.state(name).health == "unhealthy")
    seen = box.runtime.observe().containers[name]
    assert (seen.phase, seen.restarts) == (phase, 1 if on_failure == "restart" else 0)
    box.runtime.remove_container(name)


def test_a_try_that_a_probe_ends_and_that_was_the_last_is_told_so(box: Engine) -> None:
    """Its program may end with 0 for that; it has not completed."""
    probe = ProbeRequest(shell="test ! -e /tmp/down", **SOON)
    name = box.start(
        "trap 'exit 0' TERM; touch /tmp/down; while :; do sleep 0.02; done",
        probe=probe,
        restart=RestartRequest("on-failure", max_retries=1, initial=0.01),
        stop_grace_period=5.0,
    )
    until(lambda: gone(box, name))
    seen = box.runtime.observe().containers[name]
    assert (seen.phase, seen.restarts, seen.exit_code, seen.error) == ("exited", 1, 0, PROBE_STOPPED)
    box.runtime.remove_container(name)


def test_the_images_own_words_hold_unless_the_request_overrides_them(box: Engine, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    items = [directory("bin"), directory("tmp"), file("bin/busybox", BUSYBOX.read_bytes(), mode=0o755)]
    items += [symlink(f"bin/{name}", "busybox") for name in ("sh", "sleep", "env", "pwd")]
    config = {
        "Entrypoint": ["sh", "-c"],
        "Cmd": ["env; pwd; trap 'exit 4' INT; while :; do sleep 0.02; done"],
        "Env": ["FROM=image", "PATH=/bin"],
        "WorkingDir": "/tmp",
        "User": "12:34",
        "StopSignal": "SIGINT",
        "Healthcheck": {"Test": ["CMD-SHELL", "echo by $(env | grep FROM)"], "Interval": 50_000_000},
    }
    layout.image([layer(*items)], config=config)
    reference = ImageRef.parse("tests/words:1")
    box.runtime.import_image(tmp_path / "layout", reference)
    name = box.create(image=reference, stop_grace_period=10.0, command=None)
    box.runtime.start_container(name)
    until(lambda: box.state(name).health == "healthy")
    assert box.state(name).health_log[-1].output == "by FROM=image\n"
    assert {"FROM=image", "PATH=/bin", "/tmp"} <= set(box.output(name).splitlines())
    assert box.config(name)["process"]["user"]["uid"] == 12
    box.runtime.stop_container(name)
    assert box.runtime.observe().containers[name].exit_code == 4
    box.runtime.remove_container(name)
    name = box.create(
        image=reference,
        command=("pwd",),
        working_dir="/bin",
        probe=ProbeRequest(disabled=True),
        entrypoint=(),
    )
    box.runtime.start_container(name)
    assert box.result(name).text == "/bin\n"
    box.runtime.remove_container(name)


# ---------------------------------------------------------------- logs


def test_a_line_for_a_shell_is_given_to_the_images_shell(box: Engine, tmp_path: Path) -> None:
    """SHELL of a Dockerfile, as docker does it; there is no /bin/sh."""
    layout = Layout(tmp_path / "layout")
    items = [directory("bin"), file("bin/busybox", BUSYBOX.read_bytes(), mode=0o755)]
    config = {
        "Cmd": ["/bin/busybox", "sleep", "1000"],
        "Shell": ["/bin/busybox", "sh", "-ec"],
        "Healthcheck": {"Test": ["CMD-SHELL", "echo $-"], "Interval": 50_000_000},
    }
    layout.image([layer(*items)], config=config)
    reference = ImageRef.parse("tests/shell:1")
    box.runtime.import_image(tmp_path / "layout", reference)
    name = box.create(image=reference, command=None, readiness=ProbeRequest(shell="echo ready", **SOON))
    box.runtime.start_container(name)
    until(lambda: box.state(name).health == "healthy" and box.state(name).ready)
    assert "e" in box.state(name).health_log[-1].output
    box.runtime.remove_container(name)


def test_a_reader_that_does_not_read_never_holds_up_the_program(box: Engine) -> None:
    name = box.create("echo first; yes 0123456789abcdef | head -c 34000000; echo last")
    box.runtime.start_container(name)
    until(lambda: list(itertools.islice(logs.read(box.home(name) / "log"), 1)))
    reader = logs.read(box.home(name) / "log", follow=True)
    next(reader)  # and no further until the program has ended
    result = box.runtime.observe().containers[name]
    until(lambda: gone(box, name), timeout=30)
    assert result.name == name
    size = sum(path.stat().st_size for path in (box.home(name) / "log").iterdir())
    assert 20 << 20 < size < 32 << 20  # three files of 10 MiB, with their index
    *_, (_, _, last) = reader
    assert last == b"last\n"
    assert json.loads((box.home(name) / "supervise.json").read_text())["log_max_files"] == 3
    box.runtime.remove_container(name)


def test_output_is_shown_with_utc_times_of_nanoseconds_from_a_time_on(box: Engine) -> None:
    name = box.start("echo one; echo two >&2; sleep 0.3; echo three")
    box.result(name)

    def shown(*options: str) -> list[list[str]]:
        done = subprocess.run(box.stead("logs", *options, name), capture_output=True, text=True, check=True)
        return [done.stdout.splitlines(), done.stderr.splitlines()]

    assert shown() == [["one", "three"], ["two"]]
    assert shown("--tail", "1") == [["three"], []]
    lines, _ = shown("-t")
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (one|three)", line) for line in lines)
    assert shown("--since", lines[1].split()[0]) == [["three"], []]
    assert shown("--since", "0s") == [[], []]
    assert shown("-f", "--since", "1h") == [["one", "three"], ["two"]]
    box.runtime.remove_container(name)


OWNER = """
import sys
from pathlib import Path
from runtime.local import LocalRuntime
from runtime.paths import Paths
runtime = LocalRuntime(Paths(Path(sys.argv[1]), Path(sys.argv[2])), pool="10.214.0.0/16")
runtime.start_container(sys.argv[3])
print("started", flush=True)
sys.stdin.read()
"""


def test_what_a_killed_shim_had_not_taken_yet_is_in_the_log_all_the_same(box: Engine) -> None:
    script = "echo begun; read x < /tmp/go; for i in 1 2 3; do echo line $i; echo bad $i >&2; done; "
    name = box.start("test -p /tmp/go || mkfifo /tmp/go; " + script + "echo x > /tmp/said; sleep 1000")
    until(lambda: "begun" in box.output(name))
    state = box.state(name)
    os.kill(state.shim_pid, signal.SIGSTOP)
    root = box.paths.rootfs(box.id(name))
    (root / "tmp/go").write_text("now\n")
    until((root / "tmp/said").exists)
    os.kill(state.shim_pid, signal.SIGKILL)
    until(lambda: not pidfd.is_alive(state.shim_pid, state.shim_start))
    assert pidfd.is_alive(state.pid, state.pid_start)  # nobody told it
    box.runtime.remove_container(box.start("true"))  # others do not care
    box.runtime.start_container(name)
    until(lambda: box.output(name).count("begun") == 2)
    assert box.output(name) == "begun\nline 1\nline 2\nline 3\nbegun\n"
    assert box.output(name, 2).splitlines()[-3:] == ["bad 1", "bad 2", "bad 3"]
    box.runtime.remove_container(name)


def test_a_program_writes_on_when_the_process_that_started_it_is_killed(box: Engine) -> None:
    name = box.create("n=0; while :; do n=$((n + 1)); echo $n; sleep 0.01; done")
    arguments = [sys.executable, "-c", OWNER, str(box.paths.root), str(box.paths.run), name]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"started\n"
        owner.kill()
    count = len(box.output(name).splitlines())
    until(lambda: len(box.output(name).splitlines()) > count + 20)
    numbers = [int(line) for line in box.output(name).splitlines()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert box.state(name).restarts == 0
    box.runtime.remove_container(name)
