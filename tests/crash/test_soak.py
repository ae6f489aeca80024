"""kill -9 of programs, shims, the zygote and the agent, at random and for a while, beside thirty containers.

How long: STEAD_SOAK seconds (600 for a real soak); less than a minute where that is not set. While it lasts
no container has its program twice and a published port leads to its own service only; at the end all run,
nothing is left that no record accounts for, and every line that a program had written before it was killed is
in its log.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path

import pytest

from runtime.database import connect
from runtime.net import addresses, nft, rules
from runtime.net.records import Lease, read_leases
from runtime.shim import client
from tests.crash.agents import Agent
from tests.crash.bomb import children
from tests.crash.box import Box, until
from tests.e2e.conftest import Node

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
    pytest.mark.timeout(900),
]

SECONDS = float(os.environ.get("STEAD_SOAK", "25"))
SEED = int(os.environ.get("STEAD_SOAK_SEED", "11"))
LOGGERS, SLEEPERS, REPLICAS = 8, 20, 2
#: s between two kills
PAUSE = 0.15

#: says a number, and writes down that it was said
LOGGER = """
[volume.said{number}]
[container.log{number}]
image = "busy:1"
command = ["sh", "-c", '''
n=$$(cat /said/* 2>/dev/null | busybox wc -l); exec 3>>/said/$$(busybox date +%s%N)
while :; do n=$$((n+1)); echo "line $$n" && echo "$$n" >&3 || exit 1; usleep 5000; done
''']
volumes = ["said{number}:/said"]
stop_grace_period = "100ms"
"""
SLEEPER = """
[container.c{number}]
image = "busy:1"
command = ["sleep", "1{number:05}"]
stop_grace_period = "100ms"
"""
WEB = """
[container.web]
image = "busy:1"
command = ["httpd", "-f", "-p", "80", "-h", "/www"]
replicas = {replicas}
ports = ["{port}:80"]
healthcheck = {{ tcp = ":80", interval = "1s", start_interval = "100ms" }}
stop_grace_period = "100ms"
"""


class Soak:
    """Kills, and what must hold between two of them."""

    def __init__(self, box: Box, agent: Agent, port: int, chosen: random.Random) -> None:
        self.box, self.agent, self.port, self.chosen = box, agent, port, chosen
        self.killed: Counter[str] = Counter()
        self.looked_at = self.looks = 0
        self.due = 0.0  # when a dead agent is started again

    def state(self) -> dict[str, client.State]:
        found = {}
        for place in (self.box.paths.run / "containers").iterdir():
            state = client.read_state(place)
            if state is not None and client.is_alive(state):
                found[place.name] = state
        return found

    def strike(self) -> None:
        """One kill -9."""
        what = self.chosen.choices(("program", "shim", "zygote", "agent"), (10, 4, 1, 1))[0]
        if what in ("program", "shim"):
            states = list(self.state().values())
            if not states:
                return
            victim = self.chosen.choice(states)
            pid = victim.pid if what == "program" else victim.shim_pid
            if pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.killed[what] += 1
        elif self.agent.process is not None:
            if what == "agent":
                self.agent.kill()
                self.due = time.monotonic() + self.chosen.uniform(0.0, 4.0)
            else:
                for pid in self.zygotes():
                    os.kill(pid, signal.SIGKILL)
            self.killed[what] += 1
        if self.agent.process is None and time.monotonic() >= self.due:
            self.agent.start()

    def zygotes(self) -> list[int]:
        found = []
        for pid in children(self.agent.pid):
            with suppress(OSError):
                if b"zygote" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def check(self) -> None:
        """No program runs twice, and the port leads to nobody but the two that declare it."""
        running = self.box.inventory.programs().values()
        programs = Counter(words for _, words in running if words.startswith(b"sleep\x001"))
        self.looked_at += len(programs)  # those that wait for their next start are not there
        self.looks += 1
        assert not [word for word, count in programs.items() if count > 1], programs
        backends = self.backends()
        owners = {lease.name for lease in self.leases() if lease.address in backends}
        assert owners <= {"default/web-1", "default/web-2", "default/web-1~old", "default/web-2~old"}, owners

    def backends(self) -> set[str]:
        table = addresses.table_name(str(self.box.paths.root.resolve()))
        document = nft.listed(["list", "table", rules.FAMILY, table])
        held = rules.read_listing(document or {}).contents
        return {
            element[-2]
            for name in ("published", "spread")
            for element in getattr(held, name)
            if str(self.port) in element
        }

    def leases(self) -> list[Lease]:
        with closing(connect(self.box.paths.database, readonly=True)) as database:
            return read_leases(database)


def said_lines(box: Box, number: int) -> set[int]:
    """What a logger wrote down as said."""
    place = box.paths.volumes / "default" / f"said{number}" / "_data"
    return {int(word) for file in place.iterdir() for word in file.read_text().split()}


def told_lines(box: Box, number: int) -> set[int]:
    """What its log has."""
    lines = box.well("logs", f"log{number}").splitlines()
    return {int(line.split()[1]) for line in lines if line[:5] == "line "}


def lost_lines(box: Box, said: Mapping[int, set[int]]) -> dict[int, list[int]]:
    return {number: sorted(lines - told_lines(box, number)) for number, lines in said.items()}


def test_kills_at_random_break_no_promise(box: Box, agent: Agent) -> None:
    port, chosen = Node.free_port(), random.Random(SEED)
    text = "".join(LOGGER.format(number=number) for number in range(LOGGERS))
    text += "".join(SLEEPER.format(number=number) for number in range(SLEEPERS))
    (box.specs / "shop.toml").write_text(text + WEB.format(replicas=REPLICAS, port=port))
    agent.start()
    until(agent.converged, "the agent converges", 60)
    soak = Soak(box, agent, port, chosen)
    end, looked = time.monotonic() + SECONDS, 0.0
    while time.monotonic() < end:
        soak.strike()
        if time.monotonic() - looked > 1.0:
            soak.check()
            looked = time.monotonic()
        time.sleep(PAUSE)  # between two kills
    if agent.process is None:
        agent.start()
    print(f"killed: {dict(soak.killed)}")
    assert soak.looked_at > soak.looks * SLEEPERS / 4, "or little is looked at"
    until(lambda: agent.converged() and all_run(box), "all run again", 120)
    soak.check()
    answer = subprocess.run(
        ["curl", "-sS", "--max-time", "5", f"http://127.0.0.1:{port}/"], capture_output=True, text=True
    )
    assert answer.stdout == "well\n", answer.stderr
    until(lambda: box.stead("plan", str(box.specs))[0] == 0, "nothing is left to do")
    box.settled()
    said = {number: said_lines(box, number) for number in range(LOGGERS)}
    print(f"said: { {number: max(lines) for number, lines in said.items()} }")
    end = time.monotonic() + 10.0
    while any((lost := lost_lines(box, said)).values()) and time.monotonic() < end:
        time.sleep(0.1)  # they speak still: what was said a moment ago may be in the pipe yet
    assert not any(lost.values()), lost


def all_run(box: Box) -> bool:
    rows = box.ps().values()
    well = [row for row in rows if row["phase"] == "running" and row["health"] in ("none", "healthy")]
    return len(well) == len(rows) == LOGGERS + SLEEPERS + REPLICAS
