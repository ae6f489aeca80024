"""kill -9 while a volume is backed up and restored: nothing half-made has a final name, nobody stays stopped,
and the next try succeeds. Backups that the agent makes by itself, and what it knows after its death."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from runtime import attend
from runtime.backups import target
from tests.crash.agents import Agent
from tests.crash.box import Box, share, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]

CHANGES = re.compile(
    r"""runtime/(
    backups/target.py:written\ return
    | backups/process.py:run\ return
    | backups/guard.py:guarded\ return
    | backups/backups.py:exchange\ (call|return)
    | halt.py:end\ return
    | images/blobs.py:sync_directory\ call
    )""",
    re.VERBOSE,
)

SPEC = """
[volume.data]
%s
[container.web]
image = "busy:1"
command = ["sh", "-c", "echo ran >> /data/runs; sleep 1000"]
network_mode = "none"
stop_signal = "SIGKILL"
volumes = ["data:/data"]
"""


def places(box: Box, *words: str) -> list[str]:
    """The first of each kind of change, and its last end."""
    found = {place: count for place, count in box.places(*words).items() if CHANGES.fullmatch(place)}
    assert len(found) > 4, found
    return share([f"{place} {1 if place.endswith('call') else count}" for place, count in found.items()])


def runs(box: Box) -> bool:
    return attend.live_state(box.paths, attend.find(box.paths, "web")) is not None


def test_a_backup_and_a_restore_killed_anywhere_are_done_by_the_next(box: Box, tmp_path: Path) -> None:
    (box.specs / "shop.toml").write_text(SPEC % "")
    box.well("apply", str(box.specs))
    data = box.paths.volumes / "default/data/_data"
    until((data / "runs").exists, "it wrote")
    (tmp_path / "to").mkdir()
    into = str(tmp_path / "to")
    backup = ("volume", "backup", "data", "-q", "-o", into, "--quiesce", "stop")
    found, reached = places(box, *backup), 0
    made = box.well(*backup).strip()
    for place in found:
        reached += box.killed(*backup, place=place)
        whole = target.backups(Path(into), "default/data")
        named = [name for name in os.listdir(into) if not name.startswith(".")]
        assert sorted(item.path.name for item in whole) == sorted(named), place
        until(lambda: runs(box), f"it runs again after {place}")
    assert reached > 0.5 * len(found)
    box.well(*backup)
    assert [name for name in os.listdir(into) if name.startswith(".")] == []

    (data / "later").write_text("x")
    restore = ("volume", "restore", "data", made, "--force", "--stop")
    found, reached = places(box, *restore), 0
    for place in found:
        (data / "later").write_text("x")
        reached += box.killed(*restore, place=place)
        assert (data / "runs").exists(), place  # the old tree or the new one, and a whole one
        until(lambda: runs(box), f"it runs again after {place}")
        box.well(*restore)
        assert not (data / "later").exists(), place
        assert os.listdir(data.parent) == ["_data"], place
    assert reached > 0.5 * len(found)
    box.well("volume", "backup", "data", "-q", "-o", into, "--quiesce", "none")


def test_the_agent_backs_up_drills_prunes_and_knows_orphans_after_its_death(
    box: Box, agent: Agent, tmp_path: Path
) -> None:
    to = tmp_path / "deep" / "to"
    line = f'backup = {{ schedule = "@every 1s", to = "{to}", keep = 2, drill = "@every 1s" }}'
    (box.specs / "shop.toml").write_text(SPEC % line)
    agent.start()
    until(agent.converged, "all runs")
    for part in ("last_success_timestamp_seconds", "drill_last_success_timestamp_seconds", "size_bytes"):
        name = f"stead_volume_backup_{part}"
        until(lambda name=name: agent.metric(name, volume="default/data") > 0, name)  # type: ignore[misc]
    until(lambda: len(target.backups(to, "default/data")) >= 2, "two backups")
    first = target.backups(to, "default/data")[0].path
    until(lambda: not first.exists(), "the oldest one goes")
    assert len(target.backups(to, "default/data")) <= 3
    summary = target.backups(to, "default/data")[-1].summary
    assert (summary.quiesce, summary.users, summary.source) == ("freeze", ("default/web",), "shop")
    assert len(summary.revision) > 10
    assert runs(box)

    until(lambda: is_blocked(to.parent, tmp_path / "gone"), "there is no directory any more")
    until(lambda: bool(backup_of(agent)["error"]), "its failure is told")
    assert "file exists" in backup_of(agent)["error"] or "not a directory" in backup_of(agent)["error"]
    failures = "stead_volume_backup_failures_total"
    until(lambda: agent.metric(failures, what="backup", volume="default/data"), "its failure is counted")
    assert "FAILED" in box.stead("status")[1]

    (box.specs / "shop.toml").write_text("[network.other]\n")
    until(lambda: bool(agent.status()["orphans"]), "the orphan is told")
    (orphan,) = agent.status()["orphans"]
    assert orphan["name"] == "default/data" and orphan["size"] > 0 and orphan["goes_at"] is None
    agent.kill()
    agent.start()
    until(agent.converged, "it looked again")
    assert agent.status()["orphans"] == [orphan]
    (box.specs / "shop.toml").write_text(SPEC % "")
    until(lambda: not agent.status()["orphans"] and agent.converged(), "it is taken up again")
    data = box.paths.volumes / "default/data/_data"
    until(lambda: (data / "runs").read_text() == "ran\nran\n", "its data are there")

    before = (data / "runs").read_text()
    (tmp_path / "by-hand").mkdir()
    out = box.well("volume", "backup", "data", "-o", f"{tmp_path}/by-hand/", "--quiesce", "stop")
    assert "default/web stood still" in out
    until(lambda: (data / "runs").read_text() == before + "ran\n", "the agent starts it again")


def is_blocked(directory: Path, aside: Path) -> bool:
    """A file has the directory's place, which the agent may make anew at any moment."""
    aside.mkdir(exist_ok=True)
    if directory.is_dir():
        directory.rename(aside / str(len(os.listdir(aside))))
    try:
        directory.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def backup_of(agent: Agent) -> Any:
    (found,) = agent.status()["backups"]
    return found
