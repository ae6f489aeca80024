"""Processes of ours in a container whose programs trace them and never let go. Needs root."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.wishes import ProbeRequest
from tests.kernel.engine_box import PYTHON, Engine, engine, with_python
from tests.kernel.shim_box import until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

#: It seizes what runs `sleep 77` (PTRACE_SEIZE), and waits for nothing.
TRACER = """
import ctypes, os, time
seize = ctypes.CDLL(None).ptrace
seize.argtypes = [ctypes.c_long] * 4
while True:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = open(f"/proc/{pid}/cmdline", "rb").read()
        except OSError:
            continue
        if words == b"sleep\\x0077\\x00" and not seize(0x4206, int(pid), 0, 0):
            print("seized", pid, flush=True)
    time.sleep(0.01)
"""


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("tracers")) as made:
        yield made


def ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_probe_that_is_traced_ends_by_its_timeout_and_holds_up_nothing(box: Engine) -> None:
    probe = ProbeRequest(shell="exec sleep 77", interval=0.05, timeout=0.5, retries=1, on_failure="none")
    name = box.start(PYTHON, "-c", TRACER, mounts=with_python(), probe=probe)
    until(lambda: "seized" in box.output(name))
    until(lambda: len(box.state(name).health_log) >= 2, 15)
    assert box.state(name).health == "unhealthy"
    box.runtime.remove_container(name)


def test_a_dead_session_that_is_traced_keeps_nobody_busy(box: Engine) -> None:
    name = box.start(PYTHON, "-c", TRACER, mounts=with_python())
    session = threading.Thread(target=lambda: box.exec(name, "sleep", "77"), daemon=True)
    session.start()
    number = until(lambda: box.output(name)).split()[1]
    box.exec(name, "kill", "-9", number)
    shim = box.state(name).shim_pid
    time.sleep(0.2)
    before = ticks(shim)
    time.sleep(2.0)
    assert ticks(shim) - before < os.sysconf("SC_CLK_TCK")  # half of the time
    box.runtime.remove_container(name)
    session.join(10)
