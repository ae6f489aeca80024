"""What a probe has started is killed, and nothing else."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from runtime.shim import launch, probes
from runtime.shim.loop import Loop

#: Its children fork and end, again and again: of each there is one process, which lives for a moment.
COMETS = """
import ctypes, os, sys, time
ctypes.CDLL(None).prctl(36, 1)
end = time.monotonic() + 20
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        while time.monotonic() < end:
            if os.fork():
                os._exit(0)
        os._exit(0)
print("begun", flush=True)
while True:
    os.wait()
"""


def everyone() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def test_what_forks_without_end_is_killed_as_a_whole() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", COMETS], start_new_session=True, stdout=subprocess.PIPE
    ) as probe:
        assert probe.stdout is not None and probe.stdout.readline() == b"begun\n"
        assert probes.kill_tree(everyone, probe.pid)
        assert probe.wait(10) == -9
        assert select.select([probe.stdout], [], [], 5)[0]  # which each of them has open
        assert probe.stdout.read() == b""


def test_what_could_not_be_killed_in_time_is_pursued() -> None:
    class Launcher:
        pids = staticmethod(everyone)

    loop = Loop()
    with subprocess.Popen(
        [sys.executable, "-c", COMETS], start_new_session=True, stdout=subprocess.PIPE
    ) as probe:
        assert probe.stdout is not None and probe.stdout.readline() == b"begun\n"
        fd = os.pidfd_open(probe.pid)
        probes._pursue(loop, cast("launch.Launcher", Launcher()), probe.pid, fd)
        while probe.poll() is None:  # it has more tries
            loop.step(0.1)
        assert probe.returncode == -9
        assert select.select([probe.stdout], [], [], 5)[0]
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.close(fd)


def test_whose_first_thread_has_ended_is_killed() -> None:
    ending = (
        "import ctypes, os, threading, time\n"
        "if os.fork() == 0:\n"
        "    threading.Thread(target=time.sleep, args=(20,)).start()\n"
        "    print('begun', flush=True)\n"
        "    ctypes.CDLL(None).pthread_exit(None)\n"
        "time.sleep(20)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", ending], start_new_session=True, stdout=subprocess.PIPE
    ) as probe:
        assert probe.stdout is not None and probe.stdout.readline() == b"begun\n"
        assert probes.kill_tree(everyone, probe.pid)
        assert select.select([probe.stdout], [], [], 5)[0]


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
        yield process
        process.kill()


def test_a_number_that_was_recycled_after_it_was_looked_at_is_not_signalled(
    stranger: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    belongs, looks = probes._belongs, iter([True])

    def first_of_the_tree(pid: int, root: int, known: set[int]) -> bool:
        return next(looks, False) or belongs(pid, root, known)

    monkeypatch.setattr(probes, "_belongs", first_of_the_tree)
    script = ["sh", "-c", "sleep 60 & wait"]
    with subprocess.Popen(script, start_new_session=True) as probe:
        probes.kill_tree(lambda: [stranger.pid], probe.pid)
        assert probe.wait(10) == -9
    assert b" T " not in Path(f"/proc/{stranger.pid}/stat").read_bytes()  # it was not stopped
    assert stranger.poll() is None
