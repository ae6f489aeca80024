"""Probes of startup, liveness and readiness under a real shim, and what follows from them. Needs root."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from runtime.linux import namespaces
from runtime.net.dns import documents
from runtime.shim import client, init, launch, probes
from runtime.shim.loop import Loop
from runtime.wishes import LimitsRequest, ProbeRequest, RestartRequest
from tests.kernel.certificates import Authority
from tests.kernel.engine_box import Engine, engine
from tests.kernel.shim_box import until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

SOON = {"interval": 0.05, "start_interval": 0.05, "timeout": 5.0, "retries": 1}
AT_ONCE = RestartRequest("always", initial=0.01)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("probes")) as made:
        yield made


def inside(box: Engine, name: str, path: str) -> Path:
    return box.paths.rootfs(box.id(name)) / path


def standing(box: Engine, name: str) -> tuple[bool, bool]:
    """What the name server makes of the container: has it names, and before others."""
    return documents.standing((box.live(name) / documents.STATE).read_bytes())


class Bare:
    """Of a launcher what a probe that does not come to its exec asks of it."""

    @staticmethod
    def pids() -> list[int]:
        return []


def forking(failures: int, begun: list[int]) -> Callable[[int], launch.Child]:
    """Programs of which the first so many report as one does whose AppArmor profile was taken away."""

    def fork(writer: int) -> launch.Child:
        begun.append(len(begun))
        reader, report = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            if len(begun) > failures:
                os.write(writer, b"asked")
                os._exit(0)
            stage = init.Stage()
            stage.name = "identity"
            error = OSError(errno.ENOENT, "no profile is loaded that is called stead-default")
            init.report(report, stage, error)
        os.close(report)
        os.set_blocking(reader, False)
        return launch.Child(pid, reader)

    return fork


@pytest.mark.parametrize(
    ("failures", "starts", "result"),
    [
        (0, 1, (0, "asked")),
        (2, 3, (0, "asked")),
        (99, probes.STARTS, (125, "identity: no profile is loaded that is called stead-default")),
    ],
)
def test_a_profile_taken_away_before_the_exec_is_not_the_programs_failure(
    failures: int, starts: int, result: tuple[int, str]
) -> None:
    loop, begun, results = Loop(), list[int](), list[tuple[int, str]]()

    def done(code: int, output: str) -> None:
        results.append((code, output))

    probes.Program(loop, cast(launch.Launcher, Bare()), 20.0, done, forking(failures, begun))
    loop.run()
    loop.close()
    assert results == [result]
    assert len(begun) == starts


# ---------------------------------------------------------------- three kinds


def test_the_others_wait_until_the_startup_probe_has_passed(box: Engine) -> None:
    name = box.start(
        "sleep 1000",
        startup=ProbeRequest(shell="test -e /tmp/up", start_period=60.0, **SOON),
        probe=ProbeRequest(shell="echo lives", **SOON),
        readiness=ProbeRequest(shell="echo ready", **SOON),
    )
    until(lambda: len(box.state(name).startup_log) == 5)
    state = box.state(name)
    assert (state.health, state.ready) == ("starting", False)
    assert state.health_log == state.readiness_log == ()
    assert standing(box, name) == (False, False)
    inside(box, name, "tmp/up").touch()
    until(lambda: box.state(name).health == "healthy" and box.state(name).ready)
    asked = box.state(name).startup_log
    assert asked[-1].exit_code == 0
    until(lambda: len(box.state(name).health_log) == len(box.state(name).readiness_log) == 5)
    assert box.state(name).startup_log == asked
    assert box.state(name).health_log[0].output == "lives\n"
    seen = box.runtime.observe().containers[name]
    assert (seen.health, seen.ready) == ("healthy", True)
    assert standing(box, name) == (True, True)
    box.runtime.remove_container(name)


def test_a_startup_probe_that_fails_restarts_whatever_liveness_says(box: Engine) -> None:
    name = box.start(
        "sleep 1000",
        startup=ProbeRequest(shell="false", **SOON),
        probe=ProbeRequest(shell="true", on_failure="none", **SOON),
        restart=AT_ONCE,
    )
    until(lambda: box.state(name).restarts >= 2)
    state = box.state(name)  # of one moment: it goes on being restarted
    assert dict(state.restart_reasons) == {"unhealthy": state.restarts}
    assert state.health_log == ()
    box.runtime.remove_container(name)


def test_with_a_startup_probe_alone_health_is_what_that_said(box: Engine) -> None:
    name = box.start("sleep 1000", startup=ProbeRequest(shell="true", **SOON))
    until(lambda: box.state(name).health == "healthy")
    box.runtime.remove_container(name)
    name = box.start("sleep 1000", startup=ProbeRequest(shell="false", **SOON))
    until(lambda: box.state(name).health == "unhealthy")  # its policy is no: it stays
    assert box.state(name).restarts == 0
    box.runtime.remove_container(name)


def test_a_startup_probe_that_is_changed_holds_from_the_next_run_on(box: Engine) -> None:
    """Also while liveness has not said yet, or says no more, that it is well."""
    name = box.start(
        "sleep 1000",
        startup=ProbeRequest(shell="true", **SOON),
        probe=ProbeRequest(shell="false", on_failure="none", **SOON),
        restart=AT_ONCE,
    )
    until(lambda: box.state(name).health == "unhealthy")
    request = box.runtime.containers.record(name, "look at").decode()
    box.runtime.adjust_container(replace(request, startup=ProbeRequest(shell="false", **SOON)))
    adjusted, asked = time.time(), box.state(name).startup_log
    until(lambda: box.state(name).health_log[0].started_at > adjusted)
    assert (box.state(name).health, box.state(name).restarts) == ("unhealthy", 0)
    assert box.state(name).startup_log == asked
    os.kill(box.state(name).pid, 9)
    until(lambda: box.state(name).restart_reasons.get("unhealthy"))
    box.runtime.remove_container(name)


def test_readiness_goes_back_and_forth_and_never_restarts(box: Engine) -> None:
    name = box.start("sleep 1000", readiness=ProbeRequest(shell="test -e /tmp/open", **SOON), restart=AT_ONCE)
    assert box.state(name).ready is False
    before = box.state(name).pid
    for _ in range(2):
        inside(box, name, "tmp/open").touch()
        until(lambda: box.state(name).ready)
        assert standing(box, name) == (True, True)
        assert box.runtime.observe().containers[name].ready
        inside(box, name, "tmp/open").unlink()
        until(lambda: not box.state(name).ready)
        assert standing(box, name) == (False, False)
        assert not box.runtime.observe().containers[name].ready
    state = box.state(name)
    assert (state.pid, state.restarts, state.health) == (before, 0, "none")
    box.runtime.remove_container(name)


def test_a_new_run_is_not_ready_before_its_own_probe_has_said_so(box: Engine) -> None:
    name = box.start(
        "rm -f /tmp/open; echo begun; sleep 1000",
        readiness=ProbeRequest(shell="test -e /tmp/open", **SOON),
        restart=AT_ONCE,
    )
    until(lambda: "begun" in box.output(name))
    inside(box, name, "tmp/open").touch()
    until(lambda: box.state(name).ready)
    os.kill(box.state(name).pid, 9)
    until(lambda: box.state(name).restarts == 1)
    until(lambda: box.state(name).phase == "running")
    until(lambda: not box.state(name).ready)
    box.runtime.remove_container(name)


# ---------------------------------------------------------------- what acts, and how fast


def test_who_would_never_see_the_stop_signal_is_not_given_time_for_it(box: Engine) -> None:
    """The first process of a pid namespace has no handler for SIGTERM: the kernel drops it."""
    name = box.start(
        "rm -f /tmp/down; echo begun; exec sleep 1000",
        probe=ProbeRequest(shell="test ! -e /tmp/down", **SOON),
        restart=AT_ONCE,
        stop_grace_period=60.0,
    )
    until(lambda: box.state(name).health == "healthy" and "begun" in box.output(name))
    began = time.monotonic()
    inside(box, name, "tmp/down").touch()
    until(lambda: box.state(name).restarts == 1 and box.state(name).phase == "running")
    assert time.monotonic() - began < 30.0
    client.stop(box.live(name), timeout=0.0)
    box.runtime.remove_container(name)


def test_a_full_pids_limit_does_not_keep_a_probe_out(box: Engine) -> None:
    name = box.start(
        "sleep 1000 & sleep 1000 & wait",
        probe=ProbeRequest(exec=("pwd",), on_failure="none", **SOON),
        limits=LimitsRequest(pids=3),
    )
    until(lambda: box.state(name).health == "healthy")
    assert box.state(name).health_log[-1].output == "/\n"
    box.runtime.remove_container(name)


def test_a_command_that_is_not_there_is_a_failure_that_says_so(box: Engine) -> None:
    name = box.start("sleep 1000", probe=ProbeRequest(exec=("/bin/none",), on_failure="none", **SOON))
    until(lambda: box.state(name).health == "unhealthy")
    result = box.state(name).health_log[-1]
    assert result.exit_code == 127
    assert "/bin/none" in result.output
    box.runtime.remove_container(name)


# ---------------------------------------------------------------- http


class Server:
    """Answers every request with the same bytes, in a container's network."""

    def __init__(self, netns: Path, answer: bytes, port: int, context: ssl.SSLContext | None = None) -> None:
        with namespaces.in_netns(netns):
            self._socket = socket.create_server(("127.0.0.1", port))
        self._answer, self._context = answer, context
        self.requests: list[bytes] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return
            with peer, contextlib.suppress(OSError):
                peer.settimeout(10)
                line = self._context.wrap_socket(peer, server_side=True) if self._context else peer
                self.requests.append(line.recv(65536))
                line.sendall(self._answer)
                if self._answer.endswith((b"\n\n", b"\n\r\n")):
                    line.recv(1)  # as one that keeps the connection: whoever has the head has all
                line.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.mark.parametrize(
    ("answer", "expect", "health"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: /else\r\n\r\n", "", "healthy"),
        (b"HTTP/1.1 302 Found\r\nLocation: /else\r\n\r\n", "200-299", "unhealthy"),
        (b"HTTP/1.1 401 No\r\n\r\n", "200-299,401", "healthy"),
        (b"HTTP/1.1 503 Busy\r\n\r\n", "", "unhealthy"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000, "", "healthy"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "", "healthy"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Busy\r\n\r\n", "100-399", "unhealthy"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "101", "healthy"),
        (b"HTTP/1.1 200 OK\nX: 1\n\n", "", "healthy"),
        (b"HTTP/1.0 200 OK\n\n", "", "healthy"),
        (
            b"HTTP/1.1 103 Hints\nLink: "
            + b"x" * 3000
            + b"\n\nHTTP/1.1 200 OK\r\nX: "
            + b"x" * 3000
            + b"\n\r\n",
            "",
            "healthy",
        ),
        (b"HTTP/1.1 200 OK\r\nX: 1,\r\n 2\r\n\r\n", "", "healthy"),
        (b"SSH-2.0-x\r\n\r\n", "", "unhealthy"),
        (b"", "", "unhealthy"),
    ],
)
def test_the_status_decides_and_no_redirect_is_followed(
    box: Engine, answer: bytes, expect: str, health: str
) -> None:
    probe = ProbeRequest(
        http="http://:8080/up", method="HEAD", headers=(("X-A", "1"),), expect_status=expect,
        on_failure="none", **SOON,
    )  # fmt: skip
    name = box.start("sleep 1000", probe=probe)
    with Server(box.paths.netns(box.id(name)), answer, 8080) as server:
        until(lambda: box.state(name).health == health and server.requests)
        assert server.requests[-1].startswith(b"HEAD /up HTTP/1.1\r\n")
        assert b"\r\nX-A: 1\r\n" in server.requests[-1]
        said = box.state(name).health_log[-1].output
        assert len(said) <= 4096 and (answer or said == "the connection was closed without an answer")
    box.runtime.remove_container(name)


@pytest.mark.parametrize(("verify", "health"), [(False, "healthy"), (True, "unhealthy")])
def test_a_certificate_is_looked_at_on_request_only(
    box: Engine, tmp_path: Path, verify: bool, health: str
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*Authority(tmp_path).sign("probe", "127.0.0.1"))
    probe = ProbeRequest(http="https://:8443/", tls_verify=verify, on_failure="none", **SOON)
    name = box.start("sleep 1000", probe=probe)
    with Server(box.paths.netns(box.id(name)), b"HTTP/1.1 200 OK\r\n\r\n", 8443, context):
        until(lambda: box.state(name).health == health)
        assert ("certificate" in box.state(name).health_log[-1].output) == verify
    box.runtime.remove_container(name)
