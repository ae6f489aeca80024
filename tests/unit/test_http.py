"""The agent's HTTP on real sockets: who may ask what where."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.http import server
from agent.settings import Settings, parse
from agent.view import View
from runtime.faults import Fault
from runtime.paths import Paths


class Agent:
    view = View(version="1.2.3", state="converged")
    scrapes = 0

    def scraped(self) -> None:
        self.scrapes += 1


class Served:
    """`serve` in a thread of its own."""

    def __init__(self, base: Path) -> None:
        self.agent, self.paths = Agent(), Paths(base / "root", base / "run")
        self.paths.make()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        settings = parse(f'[listen]\nmetrics = "127.0.0.1:{self.port}"\n')
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(settings,))
        self._thread.start()
        deadline = time.monotonic() + 15
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
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            if unix:
                connection.sock = socket.socket(socket.AF_UNIX)
                connection.sock.connect(str(self.paths.agent_socket))
            connection.request("GET", path)
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


def test_root_alone_reaches_the_unix_socket(served: Served) -> None:
    assert stat.S_IMODE(os.stat(served.paths.agent_socket).st_mode) == 0o600
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


def test_an_address_in_use_is_said(served: Served, tmp_path: Path) -> None:
    settings = parse(f'[listen]\nmetrics = "127.0.0.1:{served.port}"\n')
    paths = Paths(tmp_path / "other" / "root", tmp_path / "other" / "run")
    paths.make()
    with pytest.raises(Fault, match=f"cannot listen on 127.0.0.1:{served.port}"):
        asyncio.run(server.serve(served.agent, paths, settings))
    assert not paths.agent_socket.exists()
