"""Jobs under an agent that lives, is killed in the middle of a run, and comes back."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from typing import Any

import pytest

from agent.planner.runs import RESULTS
from tests.crash.agents import COMMAND, Agent
from tests.crash.bomb import REPOSITORY
from tests.crash.box import Box, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]

SPECS = """
[volume.runs]
prune = true

[container.beat]
image = "busy:1"
command = ["sh", "-c", "echo run >> /runs/beat"]
volumes = ["runs:/runs"]
schedule = { cron = "@every 1s", history = 1000 }

[container.fails]
image = "busy:1"
command = ["sh", "-c", "exit 3"]
schedule = { cron = "@yearly", retries = 1, retry_delay = "200ms" }

[container.hangs]
image = "busy:1"
command = ["sleep", "1000"]
stop_grace_period = "100ms"
schedule = { cron = "@yearly", deadline = "500ms" }

[container.long]
image = "busy:1"
command = ["sh", "-c", "while [ ! -e /runs/end ]; do usleep 20000; done"]
volumes = ["runs:/runs"]
schedule = "@yearly"
"""


TURNS = """
[volume.runs]
prune = true

[container.turns]
image = "busy:1"
command = ["sh", "-c", "[ -e /runs/end ] && exit; trap '' TERM; : > /runs/end; while :; do usleep 9999; done"]
stop_grace_period = "5s"
volumes = ["runs:/runs"]
schedule = { cron = "@yearly", concurrency_policy = "replace" }
"""


RETRIED = """
[container.long]
image = "busy:1"
command = ["sleep", "1000"]
stop_grace_period = "100ms"
schedule = { cron = "@yearly", retries = 3, retry_delay = "100ms" }

[container.marks]
image = "busy:1"
command = ["sh", "-c", "exit"]
schedule = "@every 1s"
"""


HELD = """
[container.never]
image = "busy:1"
command = ["sh", "-c", "exit"]
suspend = "too slow"
schedule = "@yearly"

[container.stopped]
image = "busy:1"
command = ["sh", "-c", "exit"]
schedule = "@yearly"

[container.waits]
image = "busy:1"
command = ["sh", "-c", "exit"]
depends_on = { base = "healthy" }
schedule = "@yearly"

[container.base]
image = "busy:1"
command = ["sleep", "1000"]
stop_grace_period = "100ms"
"""


def jobs(box: Box) -> dict[str, Any]:
    lines = box.well("job", "ls", "--json").splitlines()
    return {row["Name"]: row for row in map(json.loads, lines)}


def history(box: Box, name: str) -> list[dict[str, Any]]:
    lines = box.well("job", "history", "--json", "-n", "1000", name).splitlines()
    return [json.loads(line) for line in lines]


def test_jobs_run_on_time_fail_hang_and_outlive_the_agent(box: Box, agent: Agent) -> None:
    (box.specs / "jobs.toml").write_text(SPECS)
    agent.start()
    until(lambda: len(jobs(box)) == 4, "the agent knows its jobs")
    until(lambda: len(history(box, "beat")) >= 2, "it runs every second")
    assert jobs(box)["default/long"]["Last"] == "never" and jobs(box)["default/long"]["State"] == "idle"

    code, text = box.stead("job", "run", "--wait", "fails")
    assert code == 3 and "default/fails: failed (exit code 3)" in text
    found = [(row["Trigger"], row["Attempt"], row["Result"]) for row in history(box, "fails")]
    assert found == [("hand", "1", "failed"), ("hand", "2", "failed")]
    code, text = box.stead("job", "run", "--wait", "hangs")
    assert code != 0 and "default/hangs: deadline" in text

    box.well("job", "run", "long")
    until(lambda: jobs(box)["default/long"]["State"] == "running", "it runs")
    code, text = box.stead("job", "run", "--wait", "long")
    assert code == 1 and "default/long: skipped" in text and "another run had not ended" in text
    before = box.ps()["default/long"]["pid"]
    agent.kill()
    (beat,) = (box.paths.root / "volumes").glob("*/runs/**/beat")
    assert box.ps()["default/long"]["pid"] == before, "its run goes on without an agent"
    (beat.parent / "end").touch()
    until(lambda: box.ps()["default/long"]["phase"] == "exited", "it ends without an agent")
    agent.start()
    until(lambda: history(box, "long")[-1]["Result"] == "ok", "the agent hears of its end")
    assert [row["Result"] for row in history(box, "long")] == ["skipped", "ok"]

    count = len(history(box, "beat"))
    until(lambda: len(history(box, "beat")) > count + 1, "it runs every second again")
    assert agent.metric("stead_job_runs_total", name="default/fails", result="failed") == 2
    assert agent.metric("stead_job_last_success_timestamp_seconds", name="default/long") > 1e9
    assert agent.metric("stead_job_next_run_timestamp_seconds", name="default/long") > 1e9
    told = agent.status()["jobs"]
    assert {item["name"]: item["last_result"] for item in told}["default/hangs"] == "deadline"
    assert "job: default/fails: @yearly; failed (exit code 3)" in box.stead("status")[1]
    assert "start container default/beat: is due since" in box.well("explain", "beat")
    assert re.search(
        r"ago: run of default/fails \(hand, attempt 2\) -> failed, exit code 3 in ",
        box.well("explain", "fails"),
    )
    assert box.ps()["default/hangs"]["job"]["last_result"] == "deadline"
    shown = json.loads(box.well("inspect", "container", "hangs"))
    assert shown["job"]["results"] == {"deadline": 1}
    agent.end()
    ended = [row for row in history(box, "beat") if row["Result"] == "ok"]
    assert len(beat.read_text().splitlines()) - len(ended) in (0, 1), "every run has its line"
    assert len({row["Due"] for row in ended}) == len(ended), "no time is served twice"


def waits_for_run(box: Box, name: str) -> subprocess.Popen[str]:
    roots = ["--root", str(box.paths.root), "--run", str(box.paths.run)]
    command = [*COMMAND, *roots, "job", "run", "--wait", name]
    return subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)


def test_who_waits_for_a_run_that_does_not_come_is_told(box: Box, agent: Agent) -> None:
    (box.specs / "jobs.toml").write_text(TURNS)
    agent.start()
    until(lambda: len(jobs(box)) == 1, "the agent knows its job")
    until(agent.converged, "it converges")
    box.well("job", "run", "turns")
    until(lambda: jobs(box)["default/turns"]["State"] == "running", "it runs")
    second = waits_for_run(box, "turns")
    until(lambda: box.ps()["default/turns"]["phase"] == "stopping", "the first one is to go")
    box.well("job", "run", "turns")
    try:
        said = second.communicate(timeout=30)[1]
    finally:
        second.kill()
    assert said == "stead: default/turns: skipped: the next run took its place\n"
    assert second.returncode == 1
    until(lambda: history(box, "turns")[-1]["Result"] == "ok", "the last one runs")
    agent.end()


def test_a_run_that_is_asked_for_without_an_agent_waits_for_one(box: Box, agent: Agent) -> None:
    (box.specs / "jobs.toml").write_text(SPECS.replace("@every 1s", "@yearly"))
    agent.start()
    until(lambda: len(jobs(box)) == 4, "the agent knows its jobs")
    until(agent.converged, "it converges")
    agent.end()
    assert "no agent runs" in box.well("job", "run", "beat")
    agent.start()
    until(lambda: len(history(box, "beat")) == 1, "it runs when an agent comes")
    assert history(box, "beat")[0]["Result"] == "ok"
    gone = SPECS[SPECS.index("[container.hangs]") : SPECS.index("[container.long]")]
    (box.specs / "jobs.toml").write_text(SPECS.replace("@every 1s", "@yearly").replace(gone, ""))
    until(lambda: "default/hangs" not in jobs(box), "a job that nothing declares is forgotten")
    agent.end()


def results(box: Box, name: str) -> list[str]:
    """Those that ended, and "running" for one that was seen to begin."""
    table = box.well("job", "history", name).splitlines()[1:]
    return [word for line in table for word in line.split() if word in ("running", *RESULTS)]


def test_a_run_that_a_person_ends_is_told_so_and_not_tried_again(box: Box, agent: Agent) -> None:
    """By a restart, which is a run by hand, and by removing its container, which is made anew."""
    (box.specs / "jobs.toml").write_text(RETRIED)
    agent.start()
    until(lambda: len(jobs(box)) == 2, "the agent knows its jobs")
    box.well("job", "run", "long")
    until(lambda: results(box, "long") == ["running"], "it runs")
    box.well("restart", "long")
    until(lambda: len(history(box, "long")) == 1, "the end of the run is told")
    until(lambda: results(box, "long") == ["stopped", "running"], "the next one runs")
    box.well("rm", "-f", "long")
    until(lambda: len(history(box, "long")) == 2, "the end of the run is told")
    count = len(history(box, "marks"))
    until(lambda: len(history(box, "marks")) > count + 2, "time goes on", 30.0)
    found = [(row["Trigger"], row["Attempt"], row["Result"], row["Text"]) for row in history(box, "long")]
    assert found == [
        ("hand", "1", "stopped", "restarted by hand, or for a backup"),
        ("hand", "1", "stopped", "the container was removed"),
    ]
    assert box.ps()["default/long"]["phase"] == "created"
    agent.end()


def test_who_waits_for_a_run_that_is_kept_from_beginning_is_told_why(box: Box, agent: Agent) -> None:
    (box.specs / "jobs.toml").write_text(HELD)
    agent.start()
    until(lambda: len(jobs(box)) == 3 and len(box.ps()) == 3, "the agent has its jobs")
    code, text = box.stead("job", "run", "--wait", "never")
    assert code == 1 and text.startswith("stead: default/never does not begin: suspended: too slow")
    box.well("stop", "--reason", "no disk", "stopped")
    code, text = box.stead("job", "run", "--wait", "stopped")
    assert code == 1 and "default/stopped does not begin: stopped by" in text and "no disk;" in text
    assert "default/stopped (it runs when this ends: stopped by" in box.well("job", "run", "stopped")
    box.well("start", "stopped")
    until(lambda: [row["Result"] for row in history(box, "stopped")][-1:] == ["ok"], "it runs then")
    box.well("job", "run", "--wait", "stopped")

    waiting = waits_for_run(box, "waits")
    try:
        assert waiting.stderr is not None
        line = waiting.stderr.readline()
    finally:
        waiting.kill()
        waiting.communicate(timeout=30)
    assert line == (
        "default/waits waits: waits for container default/base to be healthy: it has no health check\n"
    )
    agent.end()


def test_a_job_whose_source_left_the_settings_is_an_orphan_until_its_container_goes(
    box: Box, agent: Agent
) -> None:
    (box.specs / "jobs.toml").write_text(RETRIED)
    agent.start()
    until(lambda: len(jobs(box)) == 2 and len(history(box, "marks")) > 0, "the agent has its jobs")
    agent.end()
    settings = agent.settings.read_text()
    other = box.base / "other"
    other.mkdir()
    agent.settings.write_text(settings.replace(str(box.specs), str(other)).replace("shop", "other"))
    agent.start()
    until(agent.converged, "it has nothing to do")
    found = jobs(box)
    assert {row["State"] for row in found.values()} == {"orphan"}
    assert found["default/marks"]["Next"] == "-" and len(history(box, "marks")) > 0
    said = "job: default/marks: @every 1s; orphan: its source shop is not in the settings; "
    assert said + "it goes with: stead rm -f default/marks" in box.stead("status")[1]
    code, text = box.stead("job", "run", "--wait", "marks")
    assert code == 1 and "source shop is not in the settings" in text
    box.well("rm", "-f", "marks")
    until(lambda: set(jobs(box)) == {"default/long"}, "it goes with its container")
    agent.end()
    agent.settings.write_text(settings)
    agent.start()
    until(lambda: jobs(box).get("default/marks", {}).get("Result") == "ok", "it runs again")
    assert jobs(box)["default/long"]["State"] == "idle"
    agent.end()
