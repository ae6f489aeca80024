"""What the engine remembers of versions and obeys of orders, on a runtime in memory."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from agent.converge import Engine, Event, Round
from agent.planner import versions
from agent.planner.model import (
    Cause,
    Collecting,
    Limits,
    Memory,
    Plan,
    StartContainer,
    Step,
    Subject,
    World,
)
from agent.planner.updates import Key, Notice, Order, Orders, Pin, Version, Watch
from agent.rollouts import Rollouts
from agent.verdict import judge
from runtime.faults import Fault
from runtime.images.garbage import Limits as CollectLimits
from runtime.observations import Health, Observed, ObservedContainer, Phase
from runtime.shim.supervise import OWNER
from specs.desired import Attachment, Desired, Probe, Restart, Update
from specs.values import MountPoint
from tests.builders import container, desired, network, volume
from tests.fake_runtime import FakeRuntime
from tests.plans.rollouts import first_deployment_that_fails

QUICK = Limits(transient_initial=0.01, transient_max=0.02, failure_initial=0.01, failure_max=0.02)
PROBE = Probe(tcp=":80")


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime(available={"docker.io/library/busybox:latest": "sha256:busybox"})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Rollouts]:
    made = Rollouts(tmp_path / "rollouts.db")
    yield made
    made.close()


def engine_of(runtime: FakeRuntime, store: Rollouts, notices: list[Notice] | None = None) -> Engine:
    told = [].append if notices is None else notices.append
    return Engine(runtime, rollouts=store, limits=QUICK, on_notice=told)


def web(color: str, *, probe: Probe | None = PROBE, **update: object) -> Desired:
    said = Update(**update)  # type: ignore[arg-type]
    one = container("s/web", env={"COLOR": color}, probe=probe, update=said, way_back=said)
    return desired("s", one)


class Doctor:
    """Makes what was started healthy or not, as soon as it was, by the color that it has."""

    def __init__(self, runtime: FakeRuntime, *ill: str) -> None:
        self.runtime, self.ill = runtime, ill

    def __call__(self, event: Event) -> None:
        if event.kind != "done" or event.step is None or event.step.verb != "start":
            return
        name = event.step.subject.name
        color = self.runtime._containers[name].request.environment.get("COLOR", "")
        health = Health.UNHEALTHY if color in self.ill else Health.HEALTHY
        threading.Timer(0.01, self.runtime.set_health, (name, health)).start()


def color(runtime: FakeRuntime) -> str:
    return runtime._containers["s/web"].request.environment["COLOR"]


def test_a_bad_update_is_rolled_back_and_said_so(runtime: FakeRuntime, store: Rollouts) -> None:
    notices: list[Notice] = []
    engine, doctor = engine_of(runtime, store, notices), Doctor(runtime, "green")
    assert engine.apply(web("blue"), "1", on_event=doctor, timeout=10).ok
    result = engine.apply(web("green"), "2", on_event=doctor, timeout=10)
    assert not result.ok
    assert result.failures == (
        "rollout s/web: was rolled back to revision 1: container s/web is unhealthy;"
        " revision 2 is not tried again before its specs change, or: stead release s/web",
    )
    assert color(runtime) == "blue"
    assert [(one.kind, one.revision, one.instead) for one in notices] == [("rolled-back", "2", "1")]
    engine.close()


def test_what_was_bad_is_not_tried_again_by_the_next_process(runtime: FakeRuntime, store: Rollouts) -> None:
    doctor = Doctor(runtime, "green")
    first = engine_of(runtime, store)
    first.apply(web("blue"), "1", on_event=doctor, timeout=10)
    first.apply(web("green"), "2", on_event=doctor, timeout=10)
    first.close()
    calls = list(runtime.calls)
    second = engine_of(runtime, store)
    assert not second.apply(web("green"), "3", on_event=doctor, timeout=10).ok
    assert runtime.calls == calls
    second.close()


def test_what_was_released_is_tried_again(runtime: FakeRuntime, store: Rollouts, tmp_path: Path) -> None:
    doctor = Doctor(runtime, "green")
    engine = engine_of(runtime, store)
    engine.apply(web("blue"), "1", on_event=doctor, timeout=10)
    engine.apply(web("green"), "2", on_event=doctor, timeout=10)
    doctor.ill = ()
    other = Rollouts(tmp_path / "rollouts.db")
    assert other.release("s/web") == ("bad version",)
    assert other.release("s/web") == ()
    other.close()
    assert engine.apply(web("green"), "2", on_event=doctor, timeout=10).ok
    assert color(runtime) == "green"
    engine.close()


def test_a_paused_rollout_that_was_cured_goes_on_when_it_is_released(
    runtime: FakeRuntime, store: Rollouts, tmp_path: Path
) -> None:
    def pair(color: str) -> Desired:
        said = Update(monitor=0.1, failure_action="pause")
        made = [
            container(name, env={"COLOR": color}, probe=PROBE, update=said, service="s/web")
            for name in ("s/web-1", "s/web-2")
        ]
        return desired("s", *made)

    notices: list[Notice] = []
    engine, doctor = engine_of(runtime, store, notices), Doctor(runtime, "green")
    assert engine.apply(pair("blue"), "1", on_event=doctor, timeout=10).ok
    assert not engine.apply(pair("green"), "2", on_event=doctor, timeout=10).ok
    doctor.ill = ()
    for _ in range(versions.LOOP):  # by its shim, and the last time did help
        runtime.restart("s/web-1")
    runtime.set_health("s/web-1", Health.HEALTHY)
    assert not engine.apply(pair("green"), "2", on_event=doctor, timeout=10).ok
    with closing(Rollouts(tmp_path / "rollouts.db")) as other:
        assert other.release("s/web") == ("bad version",)
    assert engine.apply(pair("green"), "2", on_event=doctor, timeout=10).ok
    assert [one.kind for one in notices] == ["paused", "updated"]
    engine.close()


def test_a_rollback_needs_no_registry_and_its_image_is_kept(runtime: FakeRuntime, store: Rollouts) -> None:
    doctor = Doctor(runtime, "green")
    engine = engine_of(runtime, store)
    engine.collecting = Collecting(0.0, CollectLimits())
    engine.apply(web("blue"), "1", on_event=doctor, timeout=10)
    runtime.put_image("busybox", "sha256:newer")
    runtime.offline = True
    assert not engine.apply(web("green"), "2", on_event=doctor, timeout=10).ok
    assert (color(runtime), runtime._containers["s/web"].image_id) == ("blue", "sha256:busybox")
    engine.close()


def test_a_version_with_all_that_it_may_have_comes_back_from_the_disk(
    store: Rollouts, tmp_path: Path
) -> None:
    mounts = (MountPoint("volume", "s/data", "/data"), MountPoint("tmpfs", "", "/t", tmpfs_size=4096))
    one = replace(
        container("s/web", env={"A": "b"}, networks=["s/n"], mounts=mounts, ports=["8080:80/udp"], memory=64),
        networks=(Attachment("s/n", ("www",)),),
        depends_on=(),
        probe=PROBE,
        update=Update("start-first", 2, 1.0, 3.0, 4.0, "pause", 0.5),
    )
    wanted = desired("s", one, network("s/n", subnet="10.1.0.0/24"), volume("s/data"))
    key = versions.Key("identity", "adjustable", "sha256:1")
    spec = versions._spec(wanted, (one,))
    made = Version("s/web", "s", key, spec, 1, ("a", "b"), 5.0, good=True, standing=True)
    assert store.keep({}, {"s/web": (made,)})
    again = Rollouts(tmp_path / "rollouts.db")
    assert again.versions() == {"s/web": (made,)}
    again.close()


def test_an_order_is_heard_by_who_has_the_file_open(store: Rollouts, tmp_path: Path) -> None:
    assert store.changed()
    assert not store.changed()
    other = Rollouts(tmp_path / "rollouts.db")
    other.suspend("s/web", Order(1.0, "root", "the night", 9.0))
    other.pin_source("s", Pin(2.0, "root", revision="abc"))
    other.approve("s", "abc", "root", 3.0)
    assert store.changed()
    orders = store.orders()
    assert orders.suspended == {"s/web": Order(1.0, "root", "the night", 9.0)}
    assert orders.sources == {"s": Pin(2.0, "root", revision="abc")}
    assert orders.approved == {("s", "abc")}
    assert other.resume("s/web")
    assert not other.resume("s/web")
    other.close()


def test_a_file_of_a_newer_release_is_refused_and_a_damaged_one_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.db"
    made = Rollouts(path)
    made._connection.execute("PRAGMA user_version = 99")
    made.close()
    with pytest.raises(Fault, match="layout 99 is of a newer release"):
        Rollouts(path)
    path.write_bytes(b"no database of SQLite at all" * 300)
    Rollouts(path).close()
    assert (tmp_path / "rollouts.damaged").exists()


def test_what_is_suspended_is_not_touched_until_then(runtime: FakeRuntime, store: Rollouts) -> None:
    engine, doctor = engine_of(runtime, store), Doctor(runtime)
    engine.apply(web("blue"), "1", on_event=doctor, timeout=10)
    store.suspend("s/web", Order(0.0, "root", "the night"))
    store._seen = -1  # as if another process had written it
    result = engine.apply(web("green"), "2", on_event=doctor, timeout=10)
    assert result.notes == ("container s/web: suspended by root: the night",)
    assert color(runtime) == "blue"
    store.resume("s/web")
    store._seen = -1
    assert engine.apply(web("green"), "2", on_event=doctor, timeout=10).ok
    assert color(runtime) == "green"
    engine.close()


def test_secrets_of_versions_to_go_back_to_are_kept(runtime: FakeRuntime, store: Rollouts) -> None:
    engine, doctor = engine_of(runtime, store), Doctor(runtime)
    for color, digest in (("blue", "one"), ("green", "two")):
        want = web(color)
        facets = json.dumps({"identity": {"secret.s/password": digest, "environment.COLOR": color}})
        one = replace(want.containers["s/web"], facets=facets)
        engine.apply(replace(want, containers={"s/web": one}), color, on_event=doctor, timeout=10)
    assert engine.kept_secrets() == {"one", "two"}
    engine.close()


def test_a_file_that_somebody_writes_can_be_opened_at_once(tmp_path: Path) -> None:
    """Every command opens it; what only reads waits for nobody."""
    path = tmp_path / "rollouts.db"
    Rollouts(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("INSERT INTO approved VALUES ('s', 'r', 0.0, 'me')")
        begun = time.monotonic()
        second = Rollouts(path)
        assert second.orders() == Orders()
        second.close()
        assert time.monotonic() - begun < 5.0
        other.execute("COMMIT")


@pytest.mark.parametrize("how", ["nothing", "busy", "in-flight"])
def test_the_end_of_the_last_run_is_no_fault_of_a_version_that_is_being_started(how: str) -> None:
    """A start has said that it is to run and has not yet removed how it ended: a look may fall between."""
    want = container("s/web")
    have = ObservedContainer(
        "1",
        "s/web",
        "s",
        "i",
        "a",
        "",
        "busybox",
        "sha256:1",
        Phase.EXITED,
        exit_code=137,
        busy=how == "busy",
    )
    key = Key.of(have)
    step = Step(Subject("container", "s/web"), StartContainer("s/web"), Cause("phase", "was stopped"))
    world = World(
        {"s": desired("s", want)},
        Observed(containers={"s/web": have}),
        Memory(watched={"s/web": Watch("1", key, 0.0, 0.0, None)}),
        in_flight={step.subject: step} if how == "in-flight" else {},
    )
    said = versions.failing(world, want, key)
    assert said == ("container s/web exited with code 137" if how == "nothing" else "")
    done = replace(world, observed=Observed(containers={"s/web": replace(have, exit_code=0)}))
    once = replace(want, restart=Restart("no"))
    assert versions.settled(done, once, done.observed.containers["s/web"]) == (how == "nothing")


def test_what_failed_and_does_well_now_is_looked_at_when_it_has_done_so_for_long_enough() -> None:
    """Nothing else wakes the agent then: on a slow machine it looks by itself once a minute."""
    scene = first_deployment_that_fails()
    assert scene.plan().next_look is None
    scene.runtime.set_health("s/web-1", Health.HEALTHY)
    assert "there is no good version" in str(scene.plan())
    due = scene.plan().next_look
    assert due is not None and due == scene.now + 2.0
    scene.now = due
    assert scene.plan().empty


def test_a_container_that_ends_with_the_owner_of_its_namespace_is_not_said_to_keep_ending() -> None:
    have = ObservedContainer("1", "s/web", "s", "", "", "", "busybox", "", Phase.RUNNING, pid=1, restarts=9)
    want = desired("s", container("s/web"))
    restarts = {"1": 0}
    for reason, told in ((OWNER, ()), ("signal", ("container s/web keeps ending (exit code None)",))):
        seen = Round(
            Observed(containers={"s/web": replace(have, restart_reasons=((reason, 9),))}), Plan(), {}, 0.0
        )
        assert judge(want, seen, restarts, 1e9).failures == told


def test_a_container_that_was_acted_on_while_it_was_looked_at_is_not_judged_yet() -> None:
    have = ObservedContainer(
        "1", "s/web", "s", "", "", "", "busybox", "", Phase.EXITED, exit_code=137, busy=True
    )
    seen = Round(Observed(containers={"s/web": have}), Plan(), {}, 0.0)
    verdict = judge(desired("s", container("s/web")), seen, {}, 1.0)
    assert verdict.failures == ()
    assert verdict.pending == ("container s/web was acted on while it was looked at",)
