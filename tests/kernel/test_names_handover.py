"""A newer release's name server takes the place of the one that runs, and no question is lost."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from runtime.linux import pidfd
from runtime.net.dns import wire
from runtime.net.dns.documents import State
from tests.kernel.names_box import (
    GATEWAY,
    Names,
    Upstream,
    addresses,
    asked,
    asked_by_tcp,
    looked_up,
    question,
    resolving,
    saying,
    served,
    until,
)
from tests.kernel.net_box import MARKS, ROOT, on_own_host

pytestmark = MARKS

OLDER = 1_000_000_000  # seconds since the epoch


def start_older(names: Names, *, age: int = 0) -> State:
    """A server of another installation, whose code was written long ago; more so with `age`."""
    other = names.paths.root.parent / f"release-{age}"
    for package in ("runtime", "specs"):
        shutil.copytree(ROOT / package, other / package, ignore=shutil.ignore_patterns("__pycache__"))
    for directory, _, files in os.walk(other):
        for name in files:
            os.utime(Path(directory, name), (OLDER - age, OLDER - age))
    code = (
        "import sys; from pathlib import Path; from runtime.paths import Paths;"
        "from runtime.net.dns.service import NameService;"
        f"assert NameService(Paths(Path(sys.argv[1]), Path(sys.argv[2]))).ensure([{GATEWAY!r}]) == {{}}"
    )
    words = [sys.executable, "-c", code, str(names.paths.root), str(names.paths.run)]
    subprocess.run(words, cwd=other, check=True, env={**os.environ, "PYTHONPATH": str(other)})
    state = names.service.state()
    assert state is not None
    return state


@contextlib.contextmanager
def asking(name: str) -> Iterator[list[str]]:
    """One question after the other while the body runs; yields what went wrong."""
    wrong: list[str] = []
    done = threading.Event()

    def ask() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("10.66.0.9", 0))
            sock.connect((GATEWAY, 53))
            sock.settimeout(10.0)
            number = 0
            while not done.is_set():
                number = (number + 1) % 65536
                try:
                    sock.send(question(name, id=number))
                    answer = sock.recv(512)
                except OSError as error:
                    wrong.append(repr(error))
                    continue
                if answer[:2] != number.to_bytes(2, "big") or addresses(answer) != ["10.66.0.2"]:
                    wrong.append(answer.hex())

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield wrong
    finally:
        done.set()
        for thread in threads:
            thread.join()


@on_own_host
def test_a_newer_server_takes_over_and_no_question_is_lost() -> None:
    with served() as names:
        names.container("shop/web", 2)
        old = start_older(names)
        assert names.service.defects([GATEWAY], old) == (), "an upgrade plans nothing"
        with asking("web") as wrong:
            names.service.renew()
            new = names.service.state()
            assert new is not None and names.start() == new
            assert new.pid != old.pid and new.release > old.release
            until(lambda: not pidfd.is_alive(old.pid, old.start))
        assert wrong == []
        assert names.service.defects([GATEWAY], names.service.state()) == ()
        assert asked_by_tcp(question("web"))[0][:2] and names.start() == new


@on_own_host
def test_an_older_release_leaves_a_newer_server_alone() -> None:
    with served() as names:
        names.container("shop/web", 2)
        new = names.start()
        assert start_older(names) == new


@on_own_host
def test_questions_that_the_older_one_has_passed_on_are_answered() -> None:
    asked_for, go_on = threading.Event(), threading.Event()

    def late(data: bytes, tcp: bool) -> bytes:
        asked_for.set()
        assert go_on.wait(20)
        return saying(5)(data, tcp)

    with resolving("nameserver 127.0.0.1\n"), served() as names:
        Upstream(late)
        names.container("shop/web", 2)
        old = start_older(names)
        answers: list[bytes | None] = []
        asker = threading.Thread(target=lambda: answers.append(asked(question("example.org"))))
        with socket.create_connection((GATEWAY, 53), 20, ("10.66.0.9", 0)) as stream:
            asker.start()
            assert asked_for.wait(20)
            names.start()
            assert looked_up("web") == ["10.66.0.2"]
            go_on.set()
            asker.join()
            assert answers[0] is not None and addresses(answers[0]) == ["192.0.2.5"]
            stream.sendall(len(question("web")).to_bytes(2, "big") + question("web"))
            assert len(stream.recv(512)) > wire.HEADER
        until(lambda: not pidfd.is_alive(old.pid, old.start))


@on_own_host
def test_an_older_server_that_is_stuck_is_ended() -> None:
    with served() as names:
        names.container("shop/web", 2)
        old = start_older(names)
        os.kill(old.pid, signal.SIGSTOP)
        new = names.start()
        assert new.pid != old.pid and looked_up("web") == ["10.66.0.2"]
        until(lambda: not pidfd.is_alive(old.pid, old.start))
