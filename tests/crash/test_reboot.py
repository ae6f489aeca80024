"""A power cut: all processes, mounts, links and the run directory are gone at once, and so is the source.

What should run runs again, in the order of dependencies, from what is on the disk. tests/vm has a machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.linux import mounts
from runtime.net import addresses, links
from runtime.net.dns.service import NameService
from runtime.shim import client
from tests.crash.agents import Agent
from tests.crash.box import Box, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]

SLEEPER = 'image = "busy:1"\ncommand = ["sleep", "10000"]\nstop_grace_period = "100ms"\n'
SHOP = f"""
[container.init]
image = "busy:1"
command = ["sh", "-c", "echo once >> /data/log"]
restart = "no"
volumes = ["data:/data"]

[container.adb]
{SLEEPER}depends_on = {{ mid = "healthy" }}

[container.mid]
{SLEEPER}depends_on = {{ zdb = {{ restart = true }} }}
healthcheck = {{ test = "exit 0", interval = "300ms" }}

[container.zdb]
{SLEEPER}depends_on = {{ init = "completed" }}

[container.joined]
{SLEEPER}network_mode = "container:adb"

[container.job]
image = "busy:1"
command = ["sh", "-c", "echo job >> /data/jobs; sleep 1000"]
volumes = ["data:/data"]
stop_grace_period = "100ms"
schedule = {{ cron = "@yearly", retries = 1, retry_delay = "300ms" }}

[volume.data]
prune = true
"""
ORDER = ("zdb", "mid", "adb", "joined")


def rows(box: Box) -> dict[str, dict[str, Any]]:
    return {name.removeprefix("default/"): row for name, row in box.ps().items()}


def runs(box: Box) -> str:
    """A line for each run of the job."""
    return "".join(path.read_text() for path in (box.paths.root / "volumes").glob("*/data/**/jobs"))


def power_cut(box: Box, agent: Agent) -> None:
    agent.kill()
    for row in box.ps().values():
        if row["pid"]:
            box.kill(row["id"])
    names = NameService(box.paths).state()
    assert names is not None
    os.kill(names.pid, 9)
    for name in links.links():
        if name.startswith(addresses.bridge_prefix(str(box.paths.root.resolve()))):
            subprocess.run(["ip", "link", "delete", name], check=True)
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    run = f"{box.paths.run}/"
    for target in sorted((mount.target for mount in mounts.table()), reverse=True):
        if target.startswith(run):
            mounts.unmount(Path(target))
    shutil.rmtree(box.paths.run)


@pytest.fixture
def agent(island: Box) -> Iterator[Agent]:
    made = Agent(island)
    yield made
    made.end()


def test_after_a_power_cut_all_comes_back_in_order_without_its_source(island: Box, agent: Agent) -> None:
    box = island
    (box.specs / "shop.toml").write_text(SHOP)
    agent.start()
    until(agent.converged, "all of it runs")
    for words in (["--restart", "always", "--name", "keeps"], ["--restart", "no", "--name", "ends"]):
        box.well("run", "-d", "--network", "none", *words, "busy:1", "sleep", "10000")
    box.well("job", "run", "job")
    until(lambda: rows(box)["job"]["phase"] == "running", "the job runs")
    until(lambda: box.ps()["default/job"]["job"]["state"] == "running", "the agent knows")
    until(lambda: runs(box) == "job\n", "its program has begun")
    before = rows(box)

    power_cut(box, agent)
    half = box.paths.container("f" * 32)  # of a start that was cut off before its record was durable
    (half / "upper").mkdir(parents=True)
    away = box.specs.rename(box.specs.with_name("away"))
    agent.start()
    until(lambda: all(rows(box)[name]["phase"] == "running" for name in ORDER), "all of it runs again")
    until(lambda: rows(box)["keeps"]["phase"] == "running", "so does what was made by hand")
    until(lambda: not half.exists(), "what was half made is swept")
    after = rows(box)
    assert {name: row["id"] for name, row in after.items()} == {n: row["id"] for n, row in before.items()}
    assert after["init"]["phase"] == "exited" and after["ends"]["phase"] != "running"
    ticks = [_state(box, after[name]).pid_start for name in ORDER]
    assert ticks == sorted(ticks), "in the order of dependencies"
    until(lambda: rows(box)["job"]["phase"] == "running", "the run that was cut off is tried again")
    until(lambda: runs(box) == "job\njob\n", "its program has begun again")
    (log,) = (box.paths.root / "volumes").glob("*/data/**/log")
    assert log.read_text() == "once\n"
    lines = box.well("job", "history", "--json", "job").splitlines()
    assert [json.loads(line)["Result"] for line in lines] == ["lost"]

    agent.end()
    away.rename(box.specs)
    assert {name: rows(box)[name]["pid"] for name in ORDER} == {name: after[name]["pid"] for name in ORDER}
    box.well("rm", "-f", "keeps", "ends")
    # who held the outputs outlives this power cut, and ends by itself: its run directory is gone
    until(lambda: not box.inventory.strays(), "nothing of before is left")
    box.settled()


def _state(box: Box, row: dict[str, Any]) -> client.State:
    found = client.read_state(box.paths.live(row["id"]))
    assert found is not None
    return found
