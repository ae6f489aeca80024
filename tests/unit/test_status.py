"""What `stead status` makes of what the agent's socket says, or does not say."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent.cli import status
from agent.cli.main import Problem
from agent.http.server import status_document
from agent.view import BlockedView, JobView, View
from runtime.observations import Observed, ObservedContainer, Phase
from runtime.paths import Paths


@contextmanager
def answering(paths: Paths, answer: bytes, *, hold: bool = False) -> Iterator[list[bytes]]:
    """One connection is answered; `hold`: and not closed. Yields what was asked."""
    paths.run.mkdir()
    asked: list[bytes] = []
    done = threading.Event()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(paths.agent_socket))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                asked.append(connection.recv(4096))
                connection.sendall(answer)
                if hold:
                    done.wait(10)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield asked
        finally:
            done.set()
            thread.join()


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path / "root", tmp_path / "run")


def test_a_document_is_read_to_the_end_of_the_connection(paths: Paths) -> None:
    body = b'{"a": "' + b"x" * 100_000 + b'"}'
    with answering(paths, b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + body) as asked:
        assert status.ask(paths, "/v1/status") == {"a": "x" * 100_000}
    assert asked[0].startswith(b"GET /v1/status HTTP/1.0\r\n")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "it answered nothing"),
        (b"HTTP/1.1 500 Internal Server Error\r\n\r\nInternal Server Error", "it answered HTTP/1.1 500 Int"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"state": "conv', "it answered HTTP/1.1 200 OK"),
        (b"\xff\xfe", "it answered"),
    ],
    ids=["nothing", "failure", "torn", "bytes"],
)
def test_what_is_no_document_is_a_problem(paths: Paths, answer: bytes, said: str) -> None:
    with answering(paths, answer):
        with pytest.raises(Problem, match=said):
            status.ask(paths, "/v1/status")


def test_an_agent_that_says_nothing_is_not_waited_for_without_end(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "TIMEOUT", 0.1)
    with answering(paths, b"", hold=True):
        with pytest.raises(Problem, match="said nothing for"):
            status.ask(paths, "/v1/status")


def test_no_agent_is_a_problem_that_says_what_to_do(paths: Paths) -> None:
    with pytest.raises(Problem, match=r"no agent runs on .*systemctl start stead"):
        status.ask(paths, "/v1/status")
    paths.run.mkdir()
    with pytest.raises(Problem, match="no agent runs"):
        status.ask(paths, "/v1/status")


def test_walls_that_are_down_are_told() -> None:
    found = {
        "state": "converged",
        "version": "1",
        "started_at": 0.0,
        "at": 0.0,
        "sources": [],
        "in_flight": [],
        "blocked": [],
        "error": "",
        "loosened": {"shop/web": ["privileged", "pid host"]},
        "apparmor": "the kernel has no AppArmor",
    }
    lines = status.text(found, 1.0).splitlines()
    assert "loosened: container shop/web: privileged, pid host" in lines
    assert "apparmor: no profile on this machine: the kernel has no AppArmor" in lines
    found |= {"loosened": {}, "apparmor": ""}
    assert "loosened" not in status.text(found, 1.0)
    assert "apparmor" not in status.text(found, 1.0)


def test_an_end_that_nothing_follows_is_told_with_its_cause() -> None:
    """A container that was found good and is not started again by its policy would only be missed."""
    exited = ObservedContainer(
        "1",
        "s/hog",
        "s",
        "",
        "",
        "",
        "busy:1",
        "",
        Phase.EXITED,
        exit_code=137,
        oom_killed=True,
        finished_at=40.0,
    )
    containers = [
        exited,
        replace(exited, name="s/unstarted", exit_code=None, oom_killed=False, error="no such program"),
        replace(exited, name="s/well", exit_code=0, oom_killed=False),
        replace(exited, name="s/stopped", phase=Phase.STOPPED),
        replace(exited, name="s/job"),
        replace(exited, name="s/told", oom_killed=False),
        replace(exited, name="hand", source=""),
    ]
    why = "s/told exited with code 137; there is no good version to go back to"
    view = View(
        observed=Observed(containers={item.name: item for item in containers}),
        jobs=(JobView("s/job", "s", "@daily", "idle"),),
        blocked=(BlockedView("container", "s/told", "s", "rollout-failed", why, None, 1),),
    )
    lines = status.text(status_document(view), 100.0).splitlines()
    assert [line for line in lines if line.startswith("ended")] == [
        "ended: container s/hog exited with code 137, killed because it used too much memory, 1m ago",
        "ended: container s/unstarted: no such program, 1m ago",
    ]


def test_restarts_by_probes_are_told_apart_from_ends() -> None:
    """By its exit code it would look as if the program had ended by itself, and well."""
    sick = ObservedContainer("1", "s/sick", "s", "", "", "", "busy:1", "", Phase.RUNNING, exit_code=0)
    reasons = (("success", 1), ("unhealthy", 6))
    sick = replace(sick, restarts=7, restart_reasons=reasons, crash_loop=True, log_tail="one\ntwo")
    shown = status.text(status_document(View(observed=Observed(containers={"s/sick": sick}))), 100.0)
    line = next(line for line in shown.splitlines() if line.startswith("crash loop"))
    assert line == (
        "crash loop: container s/sick: exit code 0,"
        " 7 restarts (6 by its probes: stead inspect s/sick has what they said),"
        " just started; its last output: two"
    )
