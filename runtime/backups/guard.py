"""Effects: a process that starts containers again when the one that stopped them for a backup is killed."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from runtime.faults import Fault
from runtime.paths import Paths

_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); from runtime.backups.guard import main; main(sys.argv[2:])"
)


@contextmanager
def guarded(paths: Paths, names: Sequence[str]) -> Iterator[None]:
    """The containers `names` are started when this process is gone before the end of the block."""
    home = str(Path(__file__).parents[2])
    guard = subprocess.Popen(
        [sys.executable, "-I", "-c", _BOOT, home, str(paths.root), str(paths.run), *names],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
    assert guard.stdin is not None
    try:
        yield
    finally:
        try:
            os.write(guard.stdin.fileno(), b".")
        except BrokenPipeError:
            pass
        guard.stdin.close()
        guard.wait()


def main(words: list[str]) -> None:
    if os.read(0, 1):
        return  # all went well
    from runtime.local import LocalRuntime

    paths = Paths(Path(words[0]), Path(words[1]))
    with open(paths.lock, "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # an agent lives: it starts what is to run
        with LocalRuntime(paths) as runtime:
            for name in words[2:]:
                try:
                    runtime.start_container(name)
                except Fault:
                    continue
