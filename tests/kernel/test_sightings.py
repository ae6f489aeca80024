"""What is remembered of shims from look to look is never older than the look. Needs root."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from runtime import sightings
from runtime.shim import client
from tests.kernel.engine_box import engine
from tests.kernel.shim_box import until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def test_a_record_is_read_again_when_its_shim_wrote_another(tmp_path: Path) -> None:
    with engine(tmp_path) as box:
        name = box.start("exec sleep 1000", network_mode="none")
        live, states = str(box.live(name)), sightings.States()
        until(lambda: states.read(live) is states.read(live))  # it is old enough to be remembered
        before = states.read(live)
        assert before is not None and before == client.read_state(live)
        for _ in range(3):
            box.runtime.stop_container(name)
            box.runtime.start_container(name)
            assert states.read(live) == client.read_state(live)
        states.forget_but(set())
        box.runtime.remove_container(name)
        assert states.read(live) is None


def test_a_shim_that_ended_is_known_to_have_at_the_next_look(tmp_path: Path) -> None:
    with engine(tmp_path) as box:
        name = box.start("exec sleep 1000", network_mode="none")
        state, lives = box.state(name), sightings.Lives()
        assert lives.is_alive(state) and lives.is_alive(state)
        os.kill(state.shim_pid, signal.SIGKILL)
        until(lambda: not client.is_alive(state))
        lives.refresh()
        assert not lives.is_alive(state)
        assert not lives.is_alive(client.State(shim_pid=os.getpid(), shim_start=1)), (
            "another process of this pid"
        )
        lives.forget_but(set())


def test_the_look_itself_sees_what_happens(tmp_path: Path) -> None:
    with engine(tmp_path) as box:
        name = box.start("exec sleep 1000", network_mode="none")
        look = lambda: box.runtime.observe().containers[name].phase  # noqa: E731
        assert look() == look() == "running"
        os.kill(box.state(name).shim_pid, signal.SIGKILL)
        until(lambda: look() == "lost")
        box.runtime.start_container(name)
        assert look() == "running"
        box.runtime.stop_container(name)
        assert look() == "stopped"
