"""What the machine is said to be while it changes. Needs root."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from runtime.observations import Phase
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


def test_what_is_seen_of_a_container_while_this_process_acts_on_it_is_marked(tmp_path: Path) -> None:
    """Between two steps of a start it looks as if its supervisor had died."""
    with engine(tmp_path) as box:
        name = box.create("exec sleep 1000", network_mode="none")
        preparation = box.runtime.containers._preparation
        make, begun, goes_on = preparation.make, threading.Event(), threading.Event()

        def make_slowly(*args: Any, **more: Any) -> Any:
            begun.set()
            assert goes_on.wait(10)
            return make(*args, **more)

        preparation.make = make_slowly  # type: ignore[method-assign]
        assert not box.runtime.observe().containers[name].busy
        starting = threading.Thread(target=box.runtime.start_container, args=(name,))
        starting.start()
        assert begun.wait(10)
        seen = box.runtime.observe().containers[name]
        assert seen.busy and seen.phase is Phase.LOST
        goes_on.set()
        starting.join()
        seen = box.runtime.observe().containers[name]
        assert not seen.busy and seen.phase is Phase.RUNNING
        now = time.monotonic()
        box.runtime.stop_container(name)
        assert box.runtime.containers.busy(now) == {name}, "it ended meanwhile"
        assert box.runtime.containers.busy(time.monotonic()) == set()
