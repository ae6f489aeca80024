"""Effects: repositories of a directory, served by git's own daemon on a loopback port."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.ports import free_port

DEADLINE = 30.0


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """The URL below which every repository of `directory` is found."""
    port = free_port()
    words = ["git", "daemon", f"--base-path={directory}", "--export-all", "--listen=127.0.0.1"]
    daemon = subprocess.Popen(
        [*words, f"--port={port}", "--reuseaddr", str(directory)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait(port, daemon)
        yield f"git://127.0.0.1:{port}"
    finally:
        daemon.terminate()
        daemon.wait(DEADLINE)


def _wait(port: int, daemon: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + DEADLINE
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 0.2):
                return
        except OSError:
            assert time.monotonic() < end and daemon.poll() is None, "git daemon does not listen"
            time.sleep(0.01)  # between two looks
