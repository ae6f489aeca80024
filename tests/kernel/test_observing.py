"""What the machine is said to be while it changes. Needs root."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.kernel.engine_box import engine
from tests.kernel.shim_box import until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def test_a_program_that_has_just_ended_is_not_in_another_namespace(tmp_path: Path) -> None:
    """Its shim has not told of it yet: the process is there, and its namespaces are not any more."""
    with engine(tmp_path) as box:
        name = box.start("exec sleep 1000", network_mode="none")
        state = box.state(name)
        os.kill(state.shim_pid, signal.SIGSTOP)
        try:
            os.kill(state.pid, signal.SIGKILL)
            until(lambda: not Path(f"/proc/{state.pid}/ns/net").exists())
            assert box.runtime.observe().containers[name].defects == ()
        finally:
            os.kill(state.shim_pid, signal.SIGCONT)
