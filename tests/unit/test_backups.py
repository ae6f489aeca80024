"""When backups are due and which of them stay, what becomes of orphans, and which changes are blocked."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent import clock, stores
from agent.cli import status
from agent.perform import perform
from agent.planner import backoff
from agent.planner.model import NEVER, Backup, BackupVolume, Limits, Memory, Plan, World
from agent.planner.plan import plan
from agent.planner.volumes import loss
from agent.recall import recall
from runtime.backups import form
from runtime.backups.retention import kept
from runtime.faults import Fault
from specs.desired import Desired, DesiredBackup, DesiredVolume
from specs.fingerprint import volume_fingerprint
from specs.schedule import Schedule
from specs.values import EVERYTHING, Keep
from specs.volumes import backing
from tests.fake_runtime import FakeRuntime
from tests.spec_text import desired_of

NIGHTLY = DesiredBackup(Schedule.parse("0 3 * * *"), "/to", drill=Schedule.parse("@weekly"))
HOUR, DAY = 3600.0, 86_400.0
NOON = datetime(2026, 3, 4, 12, tzinfo=UTC).timestamp()


def volume(backup: DesiredBackup | None = NIGHTLY, **fields: Any) -> DesiredVolume:
    found = DesiredVolume("p/data", backup=backup, **fields)
    return replace(found, fingerprint=volume_fingerprint(found))


class Scene:
    """One volume of a source, and the time."""

    def __init__(self, *volumes: DesiredVolume, limits: Limits | None = None) -> None:
        self.runtime, self.memory, self.clock = FakeRuntime(clock=NOON), Memory(), NOON
        self.limits, self.wanted = limits or Limits(), Desired("s")
        self.want(*volumes)
        self.settle()

    def want(self, *volumes: DesiredVolume) -> None:
        self.wanted = Desired("s", volumes={item.name: item for item in volumes})
        self.memory = backoff.new_revision(self.memory, "s", {})

    def world(self) -> World:
        return World(
            {"s": self.wanted},
            self.runtime.observe(),
            self.memory,
            now=self.clock - NOON,
            limits=self.limits,
            backing_up=True,
            clock=self.clock,
            revisions={"s": "abc"},
        )

    def plan(self) -> Plan:
        return plan(self.world())

    def settle(self, hours: float = 0.0) -> list[str]:
        """What is done after so many hours."""
        self.clock += hours * HOUR
        self.runtime.clock = self.clock
        done = []
        while ready := self.plan().ready:
            step = ready[0]
            done.append(str(step))
            try:
                found = perform(self.runtime, step)
            except Fault as fault:
                now = self.clock - NOON
                self.memory = backoff.failed(self.memory, step, fault.code, str(fault), now, self.limits)
            else:
                self.memory = backoff.succeeded(self.memory, step, self.clock - NOON, self.limits, found)
        return done


def test_a_backup_is_made_when_it_is_due_and_the_plan_wakes_for_it() -> None:
    scene = Scene(volume())
    assert scene.plan().next_look == 15 * HOUR
    assert scene.settle(14.9) == []
    assert scene.settle(0.2) == ["run backup p/data: is due since 2026-03-05 03:00 (0 3 * * *)"]
    assert scene.memory.backups["p/data"].at == scene.clock
    assert scene.settle(1) == []


def test_missed_runs_are_made_up_for_once() -> None:
    scene = Scene(volume())
    assert len(scene.settle(5 * 24)) == 1
    assert scene.settle() == []
    assert scene.plan().next_look == scene.clock - NOON + 15 * HOUR


def test_without_an_agent_no_backup_is_made() -> None:
    scene = Scene(volume())
    scene.clock += 100 * HOUR
    assert plan(replace(scene.world(), backing_up=False)) == Plan()


def test_a_failed_backup_is_told_and_tried_again_later_and_later() -> None:
    scene = Scene(volume())
    call = "run backup p/data"
    scene.runtime.faults[call] = [Fault("disk-full", "back up volume", "p/data", "no space left")] * 3
    scene.settle(15)
    (blocked,) = scene.plan().blocked
    assert str(blocked) == "! backup p/data: cannot back up volume p/data: no space left"
    waits = []
    for _ in range(2):
        (blocked,) = scene.plan().blocked
        assert blocked.until is not None
        waits.append(blocked.until - (scene.clock - NOON))
        scene.settle(waits[-1] / HOUR)
    assert waits == [60, 120]
    (view,) = stores.backups(scene.world())
    assert (view.at, view.error) == (0.0, "cannot back up volume p/data: no space left")
    assert scene.settle(1) == ["run backup p/data: is due since 2026-03-05 03:00 (0 3 * * *)"]
    (view,) = stores.backups(scene.world())
    assert (view.at, view.error, view.next_at) == (scene.clock, "", NOON + (15 + 24) * HOUR)


def test_the_last_backup_outlives_the_agent() -> None:
    import json
    from dataclasses import astuple

    from agent.clock import SystemClock

    last = Backup(5.0, 1.0, 2, "/to/x", 6.0, 3.0)
    rows: dict[str, Mapping[str, tuple[str, float]]] = {
        "backup": {"p/data": (json.dumps(astuple(last)), 5.0)}
    }
    found = recall(lambda kind: rows.get(kind, {}), SystemClock(), Memory())
    assert found.backups == {"p/data": last}


def test_the_machine_has_a_time_zone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    summer = datetime(2026, 7, 1, 12, tzinfo=UTC)
    monkeypatch.setenv("TZ", ":Europe/Berlin")
    assert summer.astimezone(clock.local_zone()).hour == 14
    monkeypatch.delenv("TZ")
    monkeypatch.setattr(clock, "LOCALTIME", "/usr/share/zoneinfo/Asia/Tokyo")
    assert summer.astimezone(clock.local_zone()).hour == 21
    monkeypatch.setattr(clock, "LOCALTIME", str(tmp_path / "none"))
    assert clock.local_zone() is UTC
    (tmp_path / "none").write_text("no zone")
    assert clock.local_zone() is UTC


def test_drills_count_from_the_first_backup() -> None:
    scene = Scene(volume(replace(NIGHTLY, drill=Schedule.parse("@every 2h"))))
    assert scene.settle(10) == []
    assert len(scene.settle(5)) == 1
    (step,) = scene.settle(2)
    assert step == "drill backup p/data: is due since 2026-03-05 05:00 (@every 2h)"
    assert scene.memory.backups["p/data"].drilled_at == scene.clock


def test_runs_that_are_close_together_are_no_sign_of_trouble() -> None:
    often = Schedule.parse("@every 5s")
    scene = Scene(volume(replace(NIGHTLY, schedule=often, drill=often)))
    done = [step.partition(" ")[0] for _ in range(12) for step in scene.settle(5.5 / 3600)]
    assert done == ["run", *["run", "drill"] * 11]
    assert scene.plan().blocked == ()


def test_backups_that_come_more_often_than_drills_do_not_put_those_off() -> None:
    scene = Scene(volume(replace(NIGHTLY, drill=Schedule.parse("@every 3d"))))
    done = [step.partition(" ")[0] for _ in range(8) for step in scene.settle(24)]
    assert (done.count("run"), done.count("drill")) == (8, 2)


def test_the_revision_in_force_goes_into_the_backup() -> None:
    scene = Scene(volume())
    scene.clock += 15 * HOUR
    (step,) = scene.plan().ready
    assert isinstance(step.action, BackupVolume) and step.action.revision == "abc"


# ---------------------------------------------------------------- orphans


def test_a_volume_that_nothing_declares_is_written_down_and_stays() -> None:
    scene = Scene(volume(None))
    scene.want()
    assert scene.settle(1) == ["orphan volume p/data: nothing declares it any more; its data stay"]
    assert scene.settle(10 * 365 * 24) == []
    (orphan,) = stores.orphans(scene.world())
    assert (orphan.name, orphan.since, orphan.size, orphan.goes_at) == ("p/data", NOON + HOUR, 1000, None)


def test_a_volume_that_comes_back_is_taken_up_and_counts_anew() -> None:
    scene = Scene(volume(None, prune=30 * DAY))
    scene.want()
    scene.settle(1)
    scene.want(volume(None, prune=30 * DAY))
    assert scene.settle(20 * 24) == ["create volume p/data: is declared again, with the data that it has"]
    assert stores.orphans(scene.world()) == ()
    scene.want()
    scene.settle()
    assert scene.settle(29 * 24) == []
    (step,) = scene.settle(25)
    assert step == "remove volume p/data: nothing has declared it since 2026-03-24 13:00, and prune is 720h"
    assert scene.runtime.observe().volumes == {}


@pytest.mark.parametrize(
    ("prune", "node", "gone_after"),
    [
        (None, NEVER, None),
        (None, 5 * DAY, 5 * DAY),
        (NEVER, 5 * DAY, None),
        (0.0, NEVER, 0.0),
        (DAY, 5 * DAY, DAY),
    ],
)
def test_the_last_spec_says_how_long_it_stays_else_the_node(
    prune: float | None, node: float, gone_after: float | None
) -> None:
    scene = Scene(volume(None, prune=prune), limits=Limits(prune=node))
    scene.want()
    scene.settle()
    if gone_after:
        assert scene.plan().next_look == gone_after
    scene.settle((gone_after or 1000 * DAY) / HOUR)
    assert bool(scene.runtime.observe().volumes) == (gone_after is None)


def test_what_is_to_be_kept_is_never_pruned() -> None:
    scene = Scene(volume(None, prune=0.0, keep=True))
    scene.want()
    scene.settle(1000)
    assert list(scene.runtime.observe().volumes) == ["p/data"]


# ---------------------------------------------------------------- what loses data


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({}, {}, ""),
        ({}, {"size": "1g"}, "its size would go from no limit to 1GiB"),
        ({"size": "1g"}, {"size": "2g"}, ""),
        ({"size": "1g"}, {}, ""),
        ({"size": "2g"}, {"size": "1g"}, "its size would go from 2GiB to 1GiB"),
        ({}, {"type": "tmpfs"}, "lie on a directory of this node, and the spec wants a mount of type tmpfs"),
        ({"type": "tmpfs"}, {}, ""),
        ({"loop": "ext4", "size": "1g"}, {"loop": "ext4", "size": "2g"}, ""),
        ({"loop": "ext4", "size": "1g"}, {"loop": "xfs", "size": "1g"}, "ext4 file system in a file"),
        (
            {"type": "nfs", "device": "a:/x"},
            {"type": "nfs", "device": "b:/x"},
            "lie on a mount of type nfs from a:/x, and the spec wants a mount of type nfs from b:/x",
        ),
        ({"type": "nfs", "device": "a:/x"}, {"type": "nfs", "device": "a:/x", "o": "ro"}, ""),
    ],
)
def test_a_change_that_leaves_data_behind_is_told(
    before: dict[str, str], after: dict[str, str], said: str
) -> None:
    found = loss(backing(before), backing(after))
    assert said in found and bool(found) == bool(said)


def test_such_a_change_is_blocked_and_others_converge() -> None:
    scene = Scene(volume(None))
    other = replace(volume(None, labels={"a": "b"}), name="p/other")
    scene.want(volume(None, options={"type": "tmpfs"}), other)
    assert scene.settle() == ["create volume p/other: does not exist"]
    (blocked,) = scene.plan().blocked
    assert blocked.code == "data-loss"
    assert "`stead volume rm`" in blocked.reason


# ---------------------------------------------------------------- specs, retention, files, words


def test_what_a_person_writes_becomes_a_backup_and_changes_nothing_else() -> None:
    text = "[volume.data]\n"
    full = (
        """backup = { schedule = "CRON_TZ=UTC 0 3 * * *", to = "/b/", keep = { daily = 7, last = 2 }, """
        """quiesce = "stop", drill = "@weekly" }"""
    )
    plain = desired_of({"a.toml": text}).volumes["default/data"]
    found = desired_of({"a.toml": text + full}).volumes["default/data"]
    assert found.backup == DesiredBackup(
        Schedule.parse("CRON_TZ=UTC 0 3 * * *"), "/b", Keep(2, daily=7), "stop", Schedule.parse("@weekly")
    )
    assert found.fingerprint == plain.fingerprint
    short = desired_of({"a.toml": text + 'backup = { schedule = "@daily", to = "/b", keep = 7 }'})
    assert short.volumes["default/data"].backup == DesiredBackup(Schedule.parse("@daily"), "/b", Keep(7))


@pytest.mark.parametrize(
    ("line", "prune"),
    [
        ("", None),
        ("prune = true", 0.0),
        ("prune = false", NEVER),
        ('prune = "30d"', 30 * DAY),
        ('prune = "never"', NEVER),
    ],
)
def test_prune_is_a_flag_or_a_duration(line: str, prune: float | None) -> None:
    assert desired_of({"a.toml": f"[volume.data]\n{line}"}).volumes["default/data"].prune == prune


def test_the_newest_of_each_period_stay() -> None:
    times = [NOON - hours * HOUR for hours in range(0, 24 * 60, 6)]
    assert kept(times, EVERYTHING) == set(times)
    assert kept(times, Keep(last=3)) == set(times[:3])
    assert kept(times, Keep(daily=3)) == {times[0], times[3], times[7]}
    assert kept([], Keep(1)) == set()
    by_month = kept(times, Keep(monthly=12, weekly=1))
    assert [datetime.fromtimestamp(at, UTC).strftime("%m-%d") for at in sorted(by_month)] == [
        "01-31",
        "02-28",
        "03-04",
    ]
    assert times[0] in kept(times, Keep(yearly=1))


def test_a_summary_is_read_back_and_one_of_a_newer_release_is_not() -> None:
    summary = form.Summary("p/data", "s", 1.5, 3, 100, 2048, 700, 40, "0" * 64, users=("p/a", "p/b"))
    head = bytes(summary.archive) + form.frame(summary.lines) + bytes(summary.lines)
    assert form.read_summary(io.BytesIO(head + form.tail(summary))) == summary
    newer = replace(summary, version=form.VERSION + 1)
    with pytest.raises(form.Unreadable, match="this release knows 1"):
        form.read_summary(io.BytesIO(head + form.tail(newer)))


def test_status_tells_of_orphans_and_backups() -> None:
    orphan = {"name": "p/old", "size": 1 << 20, "since": 0.0, "goes_at": 3 * DAY}
    assert status._orphan(orphan, DAY) == (
        "orphan: volume p/old: 1.0 MiB, nothing declares it since 1d;"
        " it goes with: stead volume rm p/old (by itself in 2d)"
    )
    backup = {
        "volume": "p/data",
        "at": 0.0,
        "bytes": 0,
        "drilled_at": 0.0,
        "next_at": 60.0,
        "error": "cannot",
    }
    assert status._backup(backup, 0.0) == "backup: volume p/data: none yet; next in 1m; FAILED: cannot"
    backup |= {"at": 10.0, "bytes": 2048, "drilled_at": 30.0, "error": ""}
    assert status._backup(backup, 40.0) == (
        "backup: volume p/data: 2.0 KiB, 30s ago; found well 10s ago; next in 20s"
    )
