"""The shim with real containers: busybox in a directory, no agent. Needs root."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import logs
from runtime.linux import pidfd
from runtime.shim import client, forking
from tests.kernel.shim_box import MEBIBYTE, Box, box, spawn, until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

#: A program that ends by its stop signal, as PID 1 must arrange for itself.
OBEDIENT = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done"
DEAF = "trap '' TERM; while :; do sleep 1; done"


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path) as made:
        yield made


def obedient(container: Box, **supervise: Any) -> client.State:
    """OBEDIENT, once it is: before its trap it ignores the signal, as PID 1 does."""
    state = container.spawn(OBEDIENT, **supervise)
    until(lambda: b"ready" in container.output())
    return state


# ---------------------------------------------------------------- start and end


def test_a_program_runs_and_its_exit_code_and_output_are_kept(container: Box) -> None:
    container.spawn("echo out; echo err >&2; exit 7")
    ended = container.ended()
    assert (ended.phase, ended.exit_code, ended.pid, ended.oom_killed) == ("exited", 7, 0, False)
    assert ended.started_at > 0
    assert ended.finished_at >= ended.started_at
    lines = [(stream, line) for _, stream, line in logs.read(container.bundle / "log")]
    assert sorted(lines) == [(1, b"out\n"), (2, b"err\n")]


def test_a_shim_ends_with_its_container(container: Box) -> None:
    state = container.spawn("true")
    container.ended()
    until(lambda: not client.is_alive(state))


def test_the_state_tells_what_runs(container: Box) -> None:
    state = container.spawn("sleep 1000")
    assert (state.phase, state.health, state.exit_code) == ("running", "none", None)
    assert client.is_alive(state)
    assert pidfd.is_alive(state.pid, state.pid_start)
    assert client.ping(container.live) == state
    assert Path(f"/proc/{state.shim_pid}/comm").read_text() == "stead-shim\n"
    assert state.pid in container.host.pids(container.cgroup)
    assert state.shim_pid not in container.host.pids(container.cgroup)
    assert state.shim_pid in container.host.pids("stead.slice/shims")


def test_a_killed_program_has_128_plus_the_signal(container: Box) -> None:
    state = container.spawn("sleep 1000")
    os.kill(state.pid, signal.SIGKILL)
    assert container.ended().exit_code == 137
    assert container.ended().oom_killed is False


@pytest.mark.parametrize(("program", "code"), [("/bin/missing", 127), ("/etc", 126), ("/etc/text", 126)])
def test_a_program_that_cannot_be_run_is_told_apart(container: Box, program: str, code: int) -> None:
    (container.rootfs / "etc/text").write_text("no program")
    container.config["process"]["args"] = [program]
    with pytest.raises(client.ShimError) as caught:
        container.spawn()
    assert caught.value.exit_code == code
    ended = container.ended()
    assert (ended.phase, ended.exit_code, ended.error) == ("exited", code, caught.value.message)


def test_a_missing_network_namespace_is_named(container: Box) -> None:
    container.config["linux"]["namespaces"].append({"type": "network", "path": "/nonexistent/netns"})
    with pytest.raises(client.ShimError, match="network namespace is gone") as caught:
        container.spawn("true")
    assert caught.value.exit_code == 125


def test_a_bundle_that_cannot_be_read_is_an_answer(container: Box) -> None:
    with pytest.raises(client.ShimError, match=r"supervise\.json"):
        spawn(container.zygote, container.bundle, container.live)


def test_an_oom_kill_is_told_apart(container: Box) -> None:
    from runtime.linux.cgroups import Limits

    container.host.apply(container.cgroup, Limits(memory=16 * MEBIBYTE))
    container.spawn("x=0123456789abcdef; while :; do x=$x$x$x$x; done")
    ended = container.ended()
    assert (ended.exit_code, ended.oom_killed) == (137, True)


def test_many_containers_start_at_once_from_one_zygote(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def run(made: Box) -> None:
        try:
            made.spawn("sleep 1000")
        except BaseException as error:
            errors.append(error)

    boxes = [Box(tmp_path) for _ in range(8)]
    zygote = forking.Zygote(tmp_path)
    try:
        for made in boxes:
            made.zygote = zygote
            made.make()
        threads = [threading.Thread(target=run, args=(made,)) for made in boxes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert len({made.state().pid for made in boxes}) == 8
    finally:
        for made in boxes:
            made.clean()


def test_shims_outlive_their_zygote_and_a_new_one_is_started(container: Box) -> None:
    state = container.spawn("sleep 1000")
    process = container.zygote._process
    assert process is not None
    process.kill()
    process.wait()
    assert client.ping(container.live).pid == state.pid
    client.stop(container.live, timeout=0)
    assert container.spawn("sleep 1000").phase == "running"


def test_a_zygote_ends_with_its_client(container: Box) -> None:
    container.spawn("true")
    process = container.zygote._process
    assert process is not None
    container.zygote.close()
    assert process.returncode == 0


# ---------------------------------------------------------------- stop


def test_a_stop_signals_and_waits(container: Box) -> None:
    state = obedient(container, restart={"policy": "always"})
    client.stop(container.live)
    ended = container.ended()
    assert (ended.phase, ended.exit_code) == ("stopped", 3)
    assert not client.is_alive(state)


def test_a_program_that_ignores_its_stop_signal_is_killed_after_the_timeout(container: Box) -> None:
    container.spawn(DEAF, stop_timeout=0.2)
    client.stop(container.live)
    assert (container.ended().phase, container.ended().exit_code) == ("stopped", 137)


def test_the_stop_signal_is_the_containers_own(container: Box) -> None:
    program = "trap 'exit 5' USR1; echo ready; while :; do sleep 0.05; done"
    container.spawn(program, stop_signal="SIGUSR1")
    until(lambda: b"ready" in container.output())
    client.stop(container.live)
    assert container.ended().exit_code == 5


def test_a_repeated_stop_is_harmless_and_may_shorten_the_first(container: Box) -> None:
    container.spawn(DEAF, stop_timeout=60.0)
    first = threading.Thread(target=client.stop, args=(container.live,))
    first.start()
    until(lambda: container.state().phase == "stopping")
    client.stop(container.live, timeout=0.1)
    first.join()
    client.stop(container.live)
    assert container.ended().phase == "stopped"


def test_a_stop_during_backoff_ends_at_once(container: Box) -> None:
    container.spawn("exit 1", restart={"policy": "always", "initial": 60.0})
    until(lambda: container.state().phase == "backoff")
    assert container.state().next_start_at > time.time() + 30
    client.stop(container.live)
    ended = container.ended()
    assert (ended.phase, ended.exit_code, ended.next_start_at) == ("stopped", 1, 0)


def test_a_whole_container_in_the_hosts_pid_namespace_is_killed(container: Box) -> None:
    container.with_host_pids()
    container.spawn(
        "trap 'exit 0' TERM; setsid sleep 1000 & setsid sleep 1000 & while :; do sleep 0.05; done"
    )
    until(lambda: len(container.host.pids(container.cgroup)) >= 3)
    client.stop(container.live)
    assert container.ended().exit_code == 0
    assert container.host.pids(container.cgroup) == []


def test_orphans_of_a_container_in_the_hosts_pid_namespace_are_reaped(container: Box) -> None:
    container.with_host_pids()
    state = container.spawn("(sleep 0.05 & echo $!; exit 0); sleep 1000")
    orphan = int(until(container.output))
    assert until(lambda: pidfd.start_time(orphan) == 0)
    assert client.ping(container.live).pid == state.pid


def test_a_signal_reaches_the_program(container: Box) -> None:
    container.spawn("trap 'echo hup' HUP; echo ready; while :; do sleep 0.02; done")
    until(lambda: b"ready" in container.output())
    client.kill(container.live, "HUP")
    until(lambda: b"hup" in container.output())
    with pytest.raises(client.ShimError, match="unknown"):
        client.kill(container.live, "SIGNONE")


def test_sigterm_to_the_shim_ends_the_container_without_an_exit_record(container: Box) -> None:
    state = obedient(container, restart={"policy": "always"})
    os.kill(state.shim_pid, signal.SIGTERM)
    until(lambda: not client.is_alive(state))
    assert container.state().phase == "lost"
    assert client.read_exit(container.bundle) is None


# ---------------------------------------------------------------- restart


def test_a_killed_program_runs_again_within_100_ms(container: Box) -> None:
    first = container.spawn(
        "sleep 1000", restart={"policy": "always"}, restarts=4, restart_reasons={"oom": 4}
    )
    container.zygote.close()  # as when the agent is stopped
    took = []
    for count in range(3):
        before = client.ping(container.live)
        began = time.monotonic()
        os.kill(before.pid, signal.SIGKILL)
        until(
            lambda before=before: (
                container.state().pid not in (0, before.pid) and container.state().phase == "running"
            )
        )
        took.append(time.monotonic() - began - (0.1 * 2 ** (count - 1) if count else 0))
    assert min(took) < 0.1
    state = container.state()
    assert (state.restarts, state.exit_code, state.shim_pid) == (7, 137, first.shim_pid)
    assert state.restart_reasons == {"oom": 4, "signal": 3}


def test_restarts_are_spaced_ever_further(container: Box) -> None:
    container.spawn("exit 1", restart={"policy": "on-failure", "max_retries": 4, "initial": 0.05})
    ended = container.ended()
    assert (ended.restarts, ended.phase, ended.exit_code) == (4, "exited", 1)
    assert ended.finished_at - ended.started_at < 5


def test_a_start_that_fails_later_backs_off_and_recovers(container: Box) -> None:
    state = container.spawn("sleep 1000", restart={"policy": "always", "initial": 0.05})
    (container.rootfs / "bin").rename(container.rootfs / "gone")
    os.kill(state.pid, signal.SIGKILL)
    until(lambda: container.state().phase == "backoff" and container.state().error)
    assert container.state().exit_code == 127
    (container.rootfs / "gone").rename(container.rootfs / "bin")
    client.start_now(container.live)
    assert until(lambda: container.state().phase == "running")
    assert container.state().error == ""


def test_policies_change_while_it_runs(container: Box) -> None:
    state = container.spawn("sleep 1000", restart={"policy": "no"})
    client.adjust(container.live, {"restart": {"policy": "always"}})
    os.kill(state.pid, signal.SIGKILL)
    until(lambda: container.state().restarts == 1)
    with pytest.raises(client.ShimError, match="sometimes"):
        client.adjust(container.live, {"restart": {"policy": "sometimes"}})
    until(lambda: client.ping(container.live).phase == "running")


def test_what_a_killed_shim_left_is_killed_by_stop_and_by_the_next_start(container: Box) -> None:
    state = container.spawn("sleep 1000")
    os.kill(state.shim_pid, signal.SIGKILL)
    until(lambda: not client.is_alive(state))
    again = container.spawn("sleep 1000")
    assert container.host.pids(container.cgroup) == [again.pid]
    os.kill(again.shim_pid, signal.SIGKILL)
    until(lambda: not client.is_alive(again))
    client.stop(container.live)
    assert container.host.pids(container.cgroup) == []


def test_a_second_shim_of_one_container_takes_over(container: Box) -> None:
    first = obedient(container, restart={"policy": "always"})
    second = container.spawn("sleep 1000")
    assert not client.is_alive(first)
    assert container.host.pids(container.cgroup) == [second.pid]


def test_changes_are_announced(container: Box) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as events:
        events.bind(container.supervise["events_socket"])
        events.settimeout(30)
        container.spawn("exit 4")
        phases = []
        while "exited" not in phases:
            event = json.loads(events.recv(65536))
            assert event["v"] == 1
            assert event["id"] == container.id
            phases.append(event["phase"])
    assert phases == ["starting", "running", "exited"]


# ---------------------------------------------------------------- probes

SOON = {"interval": 0.05, "timeout": 2.0, "retries": 2, "start_interval": 0.05}


def test_an_exec_probe_tells_health(container: Box) -> None:
    container.spawn(
        "sleep 1000", probe={**SOON, "shell": "echo looks good; test -e /tmp/ok", "on_failure": "none"}
    )
    until(lambda: container.state().health == "unhealthy")
    assert container.state().health_log[-1].exit_code == 1
    assert container.state().health_log[-1].output == "looks good\n"
    (container.rootfs / "tmp/ok").touch()
    until(lambda: container.state().health == "healthy")
    assert len(container.state().health_log) <= 5


def test_an_unhealthy_container_is_restarted_with_backoff(container: Box) -> None:
    container.spawn(
        "trap 'exit 0' TERM; while :; do sleep 0.02; done",
        probe={**SOON, "exec": ["/bin/sh", "-c", "exit 1"], "retries": 1},
        restart={"policy": "always", "initial": 0.3},
    )
    until(lambda: container.state().restarts >= 2)
    until(lambda: container.state().phase == "backoff")


def test_an_unhealthy_container_is_stopped_where_that_is_asked_for(container: Box) -> None:
    container.spawn(
        OBEDIENT,
        probe={**SOON, "shell": "false", "retries": 1, "on_failure": "stop"},
        restart={"policy": "always"},
    )
    ended = container.ended()
    assert ended.phase == "exited"
    assert "probe" in ended.error


def test_a_probe_that_takes_too_long_is_killed_with_all_it_started(container: Box) -> None:
    probe = {**SOON, "timeout": 0.2, "interval": 60.0, "shell": "sleep 1000 & sleep 1000"}
    container.spawn("sleep 1000", probe=probe)
    until(lambda: container.state().health_log)
    result = container.state().health_log[0]
    assert result.exit_code == -1
    assert "no answer within 0.2 s" in result.output
    until(lambda: len(container.host.pids(container.cgroup)) == 1)


def test_http_and_tcp_probes_reach_into_the_network_namespace(container: Box) -> None:
    container.with_network()
    (container.rootfs / "tmp/page").write_text("hello")
    probe = {**SOON, "http": "http://:8080/page", "on_failure": "none"}
    container.spawn("httpd -f -p 127.0.0.1:8080 -h /tmp", probe=probe)
    until(lambda: container.state().health == "healthy")
    assert container.state().health_log[-1].output.startswith("HTTP/1.1 200 OK")
    client.adjust(
        container.live, {"probe": {**SOON, "http": "http://127.0.0.1:8080/none", "on_failure": "none"}}
    )
    until(lambda: container.state().health == "unhealthy")
    assert "404" in container.state().health_log[-1].output
    client.adjust(container.live, {"probe": {**SOON, "tcp": ":8080"}})
    until(lambda: container.state().health == "healthy")
    client.adjust(container.live, {"probe": {**SOON, "tcp": ":8081", "on_failure": "none"}})
    until(lambda: container.state().health == "unhealthy")
    assert container.state().health_log[-1].output == "connection refused"
    client.adjust(container.live, {"probe": None})
    until(lambda: container.state().health == "none")


def test_an_https_probe_takes_any_certificate(container: Box, tmp_path: Path) -> None:
    import ssl
    import subprocess

    pem = tmp_path / "pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-days", "1"]
    subprocess.run([*command, "-keyout", tmp_path / "key", "-out", pem], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, tmp_path / "key")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            plain, _ = listener.accept()
            with context.wrap_socket(plain, server_side=True) as connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

        server = threading.Thread(target=answer)
        server.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        container.spawn("sleep 1000", probe={**SOON, "interval": 60.0, "http": url})
        until(lambda: container.state().health_log)
        server.join()
    assert container.state().health_log[0].output == "HTTP/1.1 204 No Content\r\n\r\n"
    assert container.state().health == "healthy"


# ---------------------------------------------------------------- exec, attach, terminals


def test_exec_joins_the_container(container: Box) -> None:
    state = container.spawn("sleep 1000")
    reader, writer = os.pipe()
    with open(os.devnull, "r+b") as null:
        process = container.process("/bin/sh", "-c", "echo $$ $1; cat /proc/1/comm; exit 9", "sh", "word")
        with client.exec_process(container.live, process, stdio=(null.fileno(), writer, writer)) as session:
            os.close(writer)
            assert session.wait(30) == 9
    text = os.read(reader, 4096).decode()
    os.close(reader)
    assert text.split("\n")[0].split()[1] == "word"
    assert text.split("\n")[1] in ("sleep", "sh")
    assert client.ping(container.live).pid == state.pid


def test_exec_of_a_missing_program_fails_with_127(container: Box) -> None:
    container.spawn("sleep 1000")
    with pytest.raises(client.ShimError) as caught:
        client.exec_process(container.live, container.process("/bin/none"))
    assert caught.value.exit_code == 127


def test_exec_sessions_get_signals_and_end_with_the_container(container: Box) -> None:
    container.spawn("sleep 1000")
    null = os.open(os.devnull, os.O_RDWR)
    try:
        with (
            client.exec_process(
                container.live, container.process("/bin/sleep", "1000"), stdio=(null,) * 3
            ) as first,
            client.exec_process(
                container.live, container.process("/bin/sleep", "1000"), stdio=(null,) * 3
            ) as second,
        ):
            first.signal("KILL")
            assert first.wait(30) == 137
            client.stop(container.live, timeout=0)
            assert second.wait(30) == 137
    finally:
        os.close(null)


def test_exec_with_a_terminal_can_be_resized_and_typed_into(container: Box) -> None:
    container.spawn("sleep 1000")
    with client.exec_process(container.live, container.process("/bin/sh"), tty=True) as session:
        session.resize(33, 44)
        os.write(session.master, b"stty size; exit 6\n")
        text = b""
        while b"33 44" not in text:
            text += os.read(session.master, 4096)
        assert session.wait(30) == 6


def test_exec_into_a_container_that_does_not_run_is_refused(container: Box) -> None:
    container.spawn("exit 1", restart={"policy": "always", "initial": 60.0})
    until(lambda: container.state().phase == "backoff")
    with pytest.raises(client.ShimError, match="not running"):
        client.exec_process(container.live, container.process("/bin/true"))


def test_attach_writes_to_standard_input_and_closes_it(container: Box) -> None:
    container.spawn("cat; echo done", stdin_open=True)
    with client.attach(container.live, close_stdin=True) as attachment:
        os.write(attachment.stdin, b"hello\n")
        until(lambda: container.output() == b"hello\n")
        attachment.close_stdin()
        assert attachment.wait(30) == 0
    assert container.output() == b"hello\ndone\n"


def test_attach_to_a_terminal(container: Box) -> None:
    container.with_terminal()
    container.spawn("read line; stty size; echo got $line")
    with client.attach(container.live) as attachment:
        assert attachment.tty
        attachment.resize(20, 30)
        os.write(attachment.stdin, b"word\n")
        assert attachment.wait(30) == 0
    assert b"20 30\r\ngot word\r\n" in container.output()


def test_an_unknown_request_is_refused_and_the_shim_lives_on(container: Box) -> None:
    state = container.spawn("sleep 1000")
    with client._Connection(container.live) as connection:
        connection._socket.send(b"nonsense")
        assert connection.receive(30)["ok"] is False
        with pytest.raises(client.ShimError, match="unknown to this shim"):
            connection.ask({"op": "fly"})
    assert client.ping(container.live) == state


def test_a_shim_holds_no_more_descriptors_after_many_runs_and_sessions(container: Box) -> None:
    probe = {"interval": 0.05, "start_interval": 0.05, "timeout": 1.0, "shell": "true"}
    state = container.spawn(
        "sleep 1000", restart={"policy": "always", "max": 0.0}, probe=probe, stdin_open=True
    )

    def descriptors() -> int:
        until(lambda: client.ping(container.live).health == "healthy")
        return len(os.listdir(f"/proc/{state.shim_pid}/fd"))

    null = os.open(os.devnull, os.O_RDWR)
    few = descriptors()
    for _ in range(10):
        before = client.ping(container.live)
        with client.exec_process(
            container.live, container.process("/bin/true"), stdio=(null,) * 3
        ) as session:
            assert session.wait(30) == 0
        with client.exec_process(container.live, container.process("/bin/true"), tty=True) as session:
            assert session.wait(30) == 0
        client.attach(container.live).close()
        os.kill(before.pid, signal.SIGKILL)
        until(lambda before=before: _runs_again(client.ping(container.live), before))
    os.close(null)
    until(lambda: descriptors() <= few + 2)  # a probe may be under way


def _runs_again(now: client.State, before: client.State) -> bool:
    return now.restarts > before.restarts and now.phase == "running"


def test_much_output_is_kept_within_its_limits(container: Box) -> None:
    container.spawn("yes 0123456789abcdef | head -c 20000000; echo end >&2", log_max_files=2)
    ended = container.ended()
    assert (ended.exit_code, ended.log_dropped) == (0, 0)
    text = container.output()
    assert MEBIBYTE < len(text) <= 2 * MEBIBYTE
    assert next(iter(logs.read(container.bundle / "log", tail=1, streams=(2,))))[2] == b"end\n"
