"""The process that holds outputs beside shims: when it ends. Needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime.shim import holder
from tests.kernel.shim_box import until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def pids(run: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(run).encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            pass
    return found


def test_it_ends_at_once_with_its_run_directory_also_while_a_start_is_awaited(tmp_path: Path) -> None:
    """Who removes Stead from a machine removes the cgroup that it is in, too."""
    run = tmp_path / "run"
    run.mkdir()
    subprocess.run([sys.executable, "-I", "-S", "-OO", str(holder.__file__), str(run)], check=True)
    assert len(pids(run)) == 1, "its maker's start is to come"
    shutil.rmtree(run)
    begin = time.monotonic()
    until(lambda: not pids(run))
    assert time.monotonic() - begin < holder.IDLE / 2
