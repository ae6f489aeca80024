"""The process that copies, when something kills it. Needs root."""

from __future__ import annotations

import os
import signal

import pytest

from runtime.cp.worker import Failed, Worker, host

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.mark.parametrize("asked", [False, True], ids=["before it is asked", "before it has read"])
def test_a_worker_that_is_killed_is_said_to_have_been(asked: bool) -> None:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with Worker(host, writer) as worker:
        assert worker.look("/etc", follow=True).directory
        if asked:
            os.kill(worker._pid, signal.SIGSTOP)
            os.waitid(os.P_PID, worker._pid, os.WSTOPPED)
            worker.begin("pack", path="/etc", follow=True, name="etc")
        os.kill(worker._pid, signal.SIGKILL)
        os.waitid(os.P_PID, worker._pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(Failed, match=r"\Athe process that copies was killed\Z"):
            if not asked:
                worker.begin("pack", path="/etc", follow=True, name="etc")
            worker.end()
    os.close(reader)
