"""The agent's HTTP on real sockets: who may ask what where."""

from __future__ import annotations

import argparse
import asyncio
import grp
import http.client
import json
import logging
import os
import resource
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.cli import calling, status
from agent.cli.main import Problem
from agent.http import bounds, server
from agent.settings import Settings, parse
from agent.view import View
from runtime.faults import Fault
from runtime.paths import Paths
from tests.ports import free_port


class Agent:
    view = View(version="1.2.3", state="converged")
    scrapes = 0

    def scraped(self) -> None:
        self.scrapes += 1

    def call(self, op: str, args: Mapping[str, Any]) -> Any:
        if op == "refuse":
            raise Fault("container-exists", op, **args)
        return {"op": op, **args}


class Served:
    """`serve` in a thread of its own."""

    def __init__(self, base: Path, listen: str = "") -> None:
        self.agent, self.paths = Agent(), Paths(base / "root", base / "run")
        self.paths.make()
        self.port = free_port()
        settings = parse(f'[listen]\nmetrics = "127.0.0.1:{self.port}"\n{listen}\n')
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(settings,))
        self._thread.start()
        deadline = time.monotonic() + 30
        while not self._answers():
            assert time.monotonic() < deadline
            time.sleep(0.01)  # between two looks

    def _run(self, settings: Settings) -> None:
        self._task = self._loop.create_task(server.serve(self.agent, self.paths, settings))
        with pytest.raises(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.close()

    def _answers(self) -> bool:
        try:
            return self.get("/metrics")[0] == 200
        except OSError:
            return False

    def get(self, path: str, *, unix: bool = False) -> tuple[int, bytes]:
        return self._request("GET", path, None, unix)

    def post(self, path: str, body: bytes, *, unix: bool = False) -> tuple[int, bytes]:
        return self._request("POST", path, body, unix)

    def _request(self, method: str, path: str, body: bytes | None, unix: bool) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            if unix:
                connection.sock = socket.socket(socket.AF_UNIX)
                connection.sock.connect(str(self.paths.agent_socket))
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(15)
        assert not self._thread.is_alive()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path)
    yield served
    served.close()
    assert not served.paths.agent_socket.exists()


def test_roots_group_reaches_the_unix_socket_and_nobody_else_its_directory(served: Served) -> None:
    found = os.stat(served.paths.agent_socket)
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, 0)
    assert stat.S_IMODE(os.stat(served.paths.run).st_mode) == 0o700
    code, text = served.get("/v1/status", unix=True)
    assert code == 200 and json.loads(text)["state"] == "converged"


def test_tcp_has_nothing_but_metrics(served: Served) -> None:
    before = served.agent.scrapes
    code, text = served.get("/metrics")
    assert code == 200 and b'stead_build_info{version="1.2.3"} 1.0' in text
    assert served.agent.scrapes == before + 1
    assert served.get("/metrics", unix=True)[0] == 200
    assert served.get("/v1/status")[0] == 404
    assert served.get("/")[0] == 404


def test_a_call_brings_back_what_it_returns_or_the_same_fault(served: Served) -> None:
    assert calling.call(served.paths, "stop", name="shop/web") == {"op": "stop", "name": "shop/web"}
    with pytest.raises(Fault) as caught:
        calling.call(served.paths, "refuse", subject="web", cause="the name is taken", hint="choose")
    assert str(caught.value) == "cannot refuse web: the name is taken (choose)"
    assert caught.value.code == "container-exists"


def test_what_is_no_text_or_too_long_is_said_as_that(served: Served) -> None:
    with pytest.raises(Problem, match=r"cannot create: .* no UTF-8: b'.xff'"):
        calling.call(served.paths, "create", table={"command": ["echo", "a\udcff"]})
    with pytest.raises(Problem, match="cannot create: the agent cannot read request: more than"):
        calling.call(served.paths, "create", table={"command": ["x" * server.MOST]})


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"op": 1}',
        b'{"op": "x", "args": []}',
        b"[" * 100_000,
        b'{"op": "stop", "args": {"name": "\\ud800"}}',
        b"\xff",
    ],
    ids=["half", "list", "number", "arguments", "deep", "surrogate", "bytes"],
)
def test_what_is_no_call_is_refused(served: Served, body: bytes) -> None:
    assert served.post("/v1/call", body, unix=True)[0] == 400


def test_nothing_is_called_over_tcp(served: Served) -> None:
    assert served.post("/v1/call", b'{"op": "stop", "args": {}}')[0] == 404


def test_who_comes_while_no_descriptor_is_left_is_answered_later_and_it_is_said_once(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as asker, caplog.at_level(logging.WARNING):
        asker.settimeout(15)
        lowest = os.dup(asker.fileno())
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            asker.connect(str(served.paths.agent_socket))
            asker.sendall(b"GET /v1/status HTTP/1.0\r\n\r\n")
            until = time.monotonic() + 2.5  # three attempts
            while time.monotonic() < until:
                time.sleep(0.1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert asker.recv(4096).startswith(b"HTTP/1.1 200")
    said = [record.getMessage() for record in caplog.records]
    assert said == ["cannot accept connections: too many open files; trying again every second"]


def test_who_asks_nothing_does_not_keep_others_from_the_metrics(served: Served) -> None:
    idle = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(bounds.MOST + 16)]
    try:
        assert served.get("/metrics")[0] == 200
        ended = 0
        for connection in idle:
            connection.setblocking(False)
            try:
                ended += connection.recv(1) == b""
            except ConnectionResetError:
                ended += 1
            except BlockingIOError:
                pass
        assert len(idle) - ended < bounds.MOST
    finally:
        for connection in idle:
            connection.close()


@pytest.mark.parametrize("said", [b"", b"GET /metrics HTTP/1.1\r\n"])
def test_a_stranger_who_never_ends_a_request_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, served: Served, said: bytes
) -> None:
    monkeypatch.setattr(bounds, "PATIENCE", 0.2)
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        connection.sendall(said)
        try:
            while connection.recv(4096):
                pass
        except ConnectionResetError:
            pass


def test_who_is_on_the_unix_socket_has_time(monkeypatch: pytest.MonkeyPatch, served: Served) -> None:
    monkeypatch.setattr(bounds, "PATIENCE", 0.01)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(served.paths.agent_socket))
        connection.settimeout(0.5)
        connection.sendall(b"GET /metrics HTTP/1.1\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.sendall(b"Host: x\r\n\r\n")
        connection.settimeout(20)
        assert connection.recv(12) == b"HTTP/1.1 200"


def test_a_group_of_the_settings_may_use_the_socket_and_see_nothing_else(tmp_path: Path) -> None:
    served = Served(tmp_path, 'group = "daemon"')
    try:
        found, gid = os.stat(served.paths.agent_socket), grp.getgrnam("daemon").gr_gid
        assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, gid)
        served.paths.make()  # as every command does
        within = os.stat(served.paths.run)
        assert (stat.S_IMODE(within.st_mode), within.st_gid) == (0o710, gid)
        assert stat.S_IMODE(os.stat(served.paths.run / "containers").st_mode) == 0o700
    finally:
        served.close()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_member_of_the_group_is_told_the_status_and_nobody_else() -> None:
    with tempfile.TemporaryDirectory() as base:  # pytest's own is closed to others
        os.chmod(base, 0o755)
        served = Served(Path(base), 'group = "daemon"')
        try:
            assert _status_as(served.paths, grp.getgrnam("daemon").gr_gid) == 0
            assert _status_as(served.paths, 65534) == 13
        finally:
            served.close()


def _status_as(paths: Paths, gid: int) -> int:
    """The exit code of `stead status` for a person without root's powers; 13: it is not for him."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 99
    try:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(65534, 65534, 65534)
        code = status.run(argparse.Namespace(json=True), paths)
    except Problem as problem:
        code = 13 if str(problem) == "this needs root, or the group that listen.group names" else 98
    finally:
        os._exit(code)


def test_a_group_that_is_not_there_is_said(served: Served, tmp_path: Path) -> None:
    paths = Paths(tmp_path / "other" / "root", tmp_path / "other" / "run")
    paths.make()
    settings = parse('[listen]\nmetrics = ""\ngroup = "nobody-has-this"\n')
    with pytest.raises(Fault, match="cannot listen for nobody-has-this: there is no such group"):
        asyncio.run(server.serve(served.agent, paths, settings))


def test_an_address_in_use_is_said(served: Served, tmp_path: Path) -> None:
    settings = parse(f'[listen]\nmetrics = "127.0.0.1:{served.port}"\n')
    paths = Paths(tmp_path / "other" / "root", tmp_path / "other" / "run")
    paths.make()
    with pytest.raises(Fault, match=f"cannot listen on 127.0.0.1:{served.port}"):
        asyncio.run(server.serve(served.agent, paths, settings))
    assert not paths.agent_socket.exists()
