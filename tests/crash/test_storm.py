"""A storm without an agent: programs are killed in random order, probes fail and recover, shims heal them.

STEAD_STORM is how many containers there are (100), STEAD_STORM_SECONDS how long it blows (4).
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from agent.journal import read_actions
from runtime.shim import client
from tests.crash.agents import Agent
from tests.crash.box import Box, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]

COUNT = int(os.environ.get("STEAD_STORM", "100"))
SECONDS = float(os.environ.get("STEAD_STORM_SECONDS", "4"))
#: a slow machine may take its time
pytestmark.append(pytest.mark.timeout(300 + 3 * SECONDS))
#: every so many-th container has a probe
PROBED = 5
#: seconds: of restart_backoff.max, and of the probes' interval
LONGEST, INTERVAL = 1.0, 0.5

PLAIN = f"""image = "busy:1"
command = ["sleep", "100000"]
stop_grace_period = "100ms"
networks = ["calm"]
restart_backoff = {{ initial = "20ms", max = "{LONGEST:g}s", reset_after = "2s" }}
"""


class Storm:
    """Which containers there are, what was done to them, and what their shims say."""

    def __init__(self, box: Box) -> None:
        self.box, self.random = box, random.Random(20)
        self.kills: Counter[str] = Counter()
        self.sick: set[str] = set()
        self.names = [f"c{number}" for number in range(COUNT)]
        self.probed = self.names[::PROBED]
        self.wards = box.base / "ward"
        self.wards.mkdir()

    def specs(self) -> str:
        text = "[network.calm]\ninternal = true\n[volume.ward]\nprune = true\n"
        for name in self.names:
            text += f"[container.{name}]\n{PLAIN}"
            if name in self.probed:
                text += f'volumes = ["ward:/ward"]\nhealthcheck = {{ test = "test ! -e /ward/{name}", '
                text += f'interval = "{INTERVAL:g}s", timeout = "20s", retries = 1 }}\n'
        return text

    def begin(self) -> None:
        (self.box.specs / "storm.toml").write_text(self.specs())
        self.box.well("apply", str(self.box.specs))
        self.ids = {name.removeprefix("default/"): row["id"] for name, row in self.box.ps().items()}
        (ward,) = (self.box.paths.root / "volumes").glob("*/ward")
        self.ward = next((path for path in (ward / "data", ward / "_data") if path.is_dir()), ward)
        self.first = self.look()

    def look(self) -> dict[str, client.State]:
        found = {}
        for name, id in self.ids.items():
            state = client.read_state(self.box.paths.live(id))
            assert state is not None and client.is_alive(state), f"the shim of {name} is gone"
            found[name] = state
        return found

    def blow(self) -> None:
        """One thing goes wrong, or well again."""
        name = self.random.choice(self.names)
        if name in self.probed:
            file = Path(self.ward, name)
            if name in self.sick:
                file.unlink()
                self.sick.remove(name)
            elif name not in self.kills:
                file.touch()
                self.sick.add(name)
            return
        state = client.read_state(self.box.paths.live(self.ids[name]))
        assert state is not None
        if state.phase == "running" and state.pid and state.restarts == self.kills[name]:
            os.kill(state.pid, signal.SIGKILL)
            self.kills[name] += 1

    def cure(self) -> None:
        for name in self.sick:
            Path(self.ward, name).unlink()
        self.ill = set(self.sick)
        self.sick.clear()

    def well(self) -> bool:
        return all(
            state.phase == "running"
            and (state.restarts == self.kills[name] if name not in self.probed else state.health == "healthy")
            for name, state in self.look().items()
        )


def test_a_storm_passes_and_everything_runs_as_if_there_had_been_none(box: Box, agent: Agent) -> None:
    storm = Storm(box)
    storm.begin()
    until(storm.well, "all of them run")
    met: set[str] = set()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        storm.blow()
        met |= storm.sick
        time.sleep(0.002)  # what blows
    until(lambda: all(_was_ill(storm, name) for name in storm.sick), "each that is ill is found to be")
    storm.cure()
    lasted = until(storm.well, "all of them run again", deadline=20 * LONGEST + 40 * INTERVAL)
    kills = sum(storm.kills.values())
    print(f"{kills} kills, {len(met)} ill of {COUNT} containers; all well {lasted:.2f} s after the last")
    assert kills >= COUNT / 2 and met

    after = storm.look()
    for name, state in after.items():
        assert state.restarts == sum(state.restart_reasons.values()), name
        if name in storm.probed:
            assert set(state.restart_reasons) <= {"unhealthy"}, (name, state.restart_reasons)
        else:
            wanted = {"signal": storm.kills[name]} if storm.kills[name] else {}
            assert state.restart_reasons == wanted, name
        if not state.restarts:
            assert state.pid == storm.first[name].pid, f"{name} was left alone"
        assert state.exit_code == (None if not state.restarts else 137), name

    done = steps(box)
    agent.start()
    until(agent.converged, "the agent converges")
    assert steps(box) == done, "it found nothing to do"
    assert {name: state.pid for name, state in storm.look().items()} == {
        name: state.pid for name, state in after.items()
    }
    restarts = sum(state.restarts for state in after.values())
    assert agent.metric("stead_container_restarts_total") == restarts
    agent.end()
    box.settled()


def steps(box: Box) -> list[str]:
    """All that was ever done, but for looks at the store of images."""
    found = read_actions(box.paths.journal, limit=100_000)
    return [f"{entry.id} {entry.verb} {entry.name}" for entry in found if entry.kind != "store"]


def _was_ill(storm: Storm, name: str) -> bool:
    state = client.read_state(storm.box.paths.live(storm.ids[name]))
    return state is not None and state.restart_reasons.get("unhealthy", 0) > 0
