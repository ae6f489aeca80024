"""The engine on a runtime in memory: what is applied, what fails, what is remembered, what is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import journal as reading
from agent.converge import Engine, Event
from agent.journal import Journal
from agent.planner import backoff
from agent.planner.model import FIREWALL, Cause, Collecting, Limits, Memory, RepairFirewall, Step
from runtime.faults import Fault
from runtime.images.garbage import Limits as CollectLimits
from runtime.observations import Defect, Health, Phase
from specs.desired import Probe, Restart
from tests.builders import built, container, desired, image, network, volume
from tests.fake_runtime import FakeRuntime

QUICK = Limits(transient_initial=0.01, transient_max=0.02, failure_initial=0.01, failure_max=0.02)


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime(
        available={
            "docker.io/library/busybox:latest": "sha256:busybox",
            "docker.io/library/nginx:latest": "sha256:nginx",
        }
    )


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal.db")
    yield made
    made.close()


@pytest.fixture
def engine(runtime: FakeRuntime, journal: Journal) -> Iterator[Engine]:
    made = Engine(runtime, journal, limits=QUICK)
    yield made
    made.close()


SHOP = desired(
    "shop",
    network("shop/back"),
    volume("shop/data"),
    container("shop/db", networks=["shop/back"], volumes={"shop/data": "/data"}),
    container("shop/web", image="nginx", networks=["shop/back"], after={"shop/db": "started"}),
)


def test_apply_brings_up_all_that_is_declared_in_order(engine: Engine, runtime: FakeRuntime) -> None:
    result = engine.apply(SHOP, timeout=10)
    assert result.ok, result
    calls = runtime.calls
    assert set(calls) == {
        "measure image docker.io/library/busybox:latest",
        "measure image docker.io/library/nginx:latest",
        "pull image docker.io/library/busybox:latest",
        "pull image docker.io/library/nginx:latest",
        "create network shop/back",
        "create volume shop/data",
        "create container shop/db",
        "create container shop/web",
        "start container shop/db",
        "start container shop/web",
    }
    assert calls.index("start container shop/db") < calls.index("start container shop/web")
    assert calls.index("create network shop/back") < calls.index("create container shop/db")


def test_applying_twice_does_nothing_the_second_time(engine: Engine, runtime: FakeRuntime) -> None:
    engine.apply(SHOP, timeout=10)
    count = len(runtime.calls)
    result = engine.apply(SHOP, timeout=10)
    assert result.ok and result.steps == 0
    assert len(runtime.calls) == count
    assert engine.plan_once(SHOP).empty


def test_a_changed_variable_replaces_exactly_that_container_and_says_why(
    engine: Engine, runtime: FakeRuntime
) -> None:
    first = desired("s", container("s/a", env={"COLOR": "blue"}), container("s/b"))
    engine.apply(first, timeout=10)
    del runtime.calls[:]
    second = desired("s", container("s/a", env={"COLOR": "green"}, line=7), container("s/b"))
    text = str(engine.plan_once(second))
    assert "remove container s/a: environment.COLOR: blue -> green (spec.toml:7)" in text
    engine.apply(second, timeout=10)
    assert runtime.calls == ["remove container s/a", "create container s/a", "start container s/a"]


def test_a_failed_pull_does_not_stop_other_containers(engine: Engine, runtime: FakeRuntime) -> None:
    want = desired("s", container("s/good"), container("s/bad", image="missing"))
    result = engine.apply(want, timeout=10)
    assert not result.ok
    assert any("s/bad" in text and "no such image" in text for text in result.failures)
    assert runtime.observe().containers["s/good"].phase is Phase.RUNNING


def test_a_failure_that_passes_is_retried_until_it_does(engine: Engine, runtime: FakeRuntime) -> None:
    fault = Fault("registry-unreachable", "pull image", "busybox", "connection refused")
    runtime.faults["pull image docker.io/library/busybox:latest"] = [fault, fault]
    assert engine.apply(desired("s", container("s/a")), timeout=10).ok


def test_apply_waits_for_health_and_fails_when_it_is_bad(engine: Engine, runtime: FakeRuntime) -> None:
    want = desired("s", container("s/a", probe=Probe(tcp=":80")))

    def tell(event: Event) -> None:
        if event.kind == "done" and event.text == "start container s/a":
            timer.start()

    timer = threading.Timer(0.05, runtime.set_health, ("s/a", Health.UNHEALTHY))
    result = engine.apply(want, on_event=tell, timeout=10)
    timer.join()
    assert result.failures == ("container s/a is unhealthy",)
    runtime.set_health("s/a", Health.HEALTHY)
    assert engine.apply(want, timeout=10).ok


def test_apply_gives_up_in_time_and_says_what_it_waited_for(engine: Engine, runtime: FakeRuntime) -> None:
    want = desired("s", container("s/a", probe=Probe(tcp=":80")))
    result = engine.apply(want, timeout=0.2)
    assert result.failures == ("container s/a is not healthy yet (gave up after 0.2 s)",)


def test_a_job_that_ended_well_lets_its_dependents_start(engine: Engine, runtime: FakeRuntime) -> None:
    want = desired(
        "s",
        container("s/migrate", restart=Restart("no")),
        container("s/web", after={"s/migrate": "completed"}),
    )

    def tell(event: Event) -> None:
        if event.kind == "done" and event.text == "start container s/migrate":
            runtime.exit("s/migrate", 0)

    assert engine.apply(want, on_event=tell, timeout=10).ok
    assert runtime.observe().containers["s/web"].phase is Phase.RUNNING
    assert engine.plan_once(want).empty


def test_a_job_that_failed_blocks_its_dependents_with_the_reason(
    engine: Engine, runtime: FakeRuntime
) -> None:
    want = desired(
        "s",
        container("s/migrate", restart=Restart("no")),
        container("s/web", after={"s/migrate": "completed"}),
    )

    def tell(event: Event) -> None:
        if event.kind == "done" and event.text == "start container s/migrate":
            runtime.exit("s/migrate", 3)

    result = engine.apply(want, on_event=tell, timeout=10)
    assert not result.ok
    assert any("s/web" in text and "exited with code 3" in text for text in result.failures)


def test_down_removes_dependents_first_and_keeps_volumes(engine: Engine, runtime: FakeRuntime) -> None:
    engine.apply(SHOP, timeout=10)
    del runtime.calls[:]
    assert engine.down(SHOP, timeout=10).ok
    assert runtime.calls[:2] == ["remove container shop/web", "remove container shop/db"]
    assert sorted(runtime.calls[2:]) == ["orphan volume shop/data", "remove network shop/back"]
    assert "shop/data" in runtime.observe().volumes
    engine.apply(SHOP, timeout=10)
    assert engine.down(SHOP, volumes=True, timeout=10).ok
    assert not runtime.observe().volumes


def test_one_source_never_touches_what_another_one_declared(engine: Engine, runtime: FakeRuntime) -> None:
    engine.apply(desired("one", container("shared/a")), timeout=10)
    del runtime.calls[:]
    result = engine.apply(desired("two", container("shared/a"), container("two/b")), timeout=10)
    assert result.failures == ("container shared/a: the name belongs to source one",)
    engine.down(desired("two"), timeout=10)
    assert runtime.observe().containers["shared/a"].source == "one"
    assert not any("shared/a" in call for call in runtime.calls)


def test_drift_is_repaired_without_a_restart_where_that_is_enough(
    engine: Engine, runtime: FakeRuntime
) -> None:
    engine.apply(SHOP, timeout=10)
    del runtime.calls[:]
    runtime.damage("shop/web", Defect("limits", "memory is 1 instead of 2"))
    runtime.damage("shop/back", Defect("bridge", "its bridge is gone"))
    runtime.damage("firewall", Defect("firewall", "table is gone"))
    assert engine.apply(SHOP, timeout=10).ok
    assert sorted(runtime.calls) == [
        "repair container shop/web",
        "repair firewall",
        "repair network shop/back",
    ]
    assert engine.tally.counters().drift == {"limits": 1, "bridge": 1, "firewall": 1}


def test_a_repair_that_cures_nothing_is_paced(engine: Engine, runtime: FakeRuntime) -> None:
    engine.apply(SHOP, timeout=10)
    slow = Engine(runtime)
    slow.want(SHOP)
    for _ in range(50):
        runtime.damage("shop/web", Defect("limits", "memory is 1 instead of 2"))
        slow.round()
        slow.wait(0.01)
    slow.close()
    assert runtime.calls.count("repair container shop/web") <= 3
    assert "needed again" in str(slow.plan_once())


def test_a_look_at_networks_repairs_them_and_starts_nothing_else(
    engine: Engine, runtime: FakeRuntime
) -> None:
    last = engine.apply(SHOP, timeout=10).round
    assert last is not None
    del runtime.calls[:]
    runtime.damage("shop/back", Defect("bridge", "its bridge is gone"))
    runtime.damage("shop/web", Defect("link", "eth0 is gone"), Defect("limits", "not seen by this look"))
    runtime.lose("shop/db")
    engine.mend_networks(last.observed)
    deadline = time.monotonic() + 10
    while engine.busy():
        assert time.monotonic() < deadline
        engine.wait(0.01)
    assert sorted(runtime.calls) == ["repair container shop/web", "repair network shop/back"]
    engine.round()
    counters = engine.tally.counters()
    assert counters.repairs == {"bridge": 1, "link": 1} and counters.looks == 1


def test_repairs_of_networks_are_soon_repeated_and_still_paced(runtime: FakeRuntime) -> None:
    limits, memory, now = Limits(), Memory(), 0.0
    step = Step(FIREWALL, RepairFirewall(), Cause("drift", "its table is gone"), basis="gone")
    waits = []
    for _ in range(20):
        memory = backoff.succeeded(memory, step, now, limits)
        blocked = backoff.gate(memory, step, now)
        assert blocked is None or blocked.until is not None
        waits.append(0.0 if blocked is None or blocked.until is None else blocked.until - now)
        now += waits[-1]
    assert waits[:10] == [0.0] * 10 and waits[10:14] == [1.0, 2.0, 4.0, 5.0] and max(waits) == 5.0


def test_a_suspended_container_is_left_alone(engine: Engine, runtime: FakeRuntime) -> None:
    engine.apply(desired("s", container("s/a", env={"A": "1"})), timeout=10)
    del runtime.calls[:]
    result = engine.apply(
        desired("s", container("s/a", env={"A": "2"}, suspend="being looked at")), timeout=10
    )
    assert result.ok and result.notes == ("container s/a: suspended: being looked at",)
    assert runtime.calls == []


def test_a_changed_network_takes_its_containers_along(engine: Engine, runtime: FakeRuntime) -> None:
    engine.apply(desired("s", network("s/n"), container("s/a", networks=["s/n"])), timeout=10)
    del runtime.calls[:]
    changed = network("s/n", subnet="10.9.0.0/24")
    assert engine.apply(desired("s", changed, container("s/a", networks=["s/n"])), timeout=10).ok
    assert runtime.calls == [
        "remove container s/a",
        "remove network s/n",
        "create network s/n",
        "create container s/a",
        "start container s/a",
    ]


def test_the_old_container_stays_until_the_new_image_is_there(engine: Engine, runtime: FakeRuntime) -> None:
    engine.apply(desired("s", container("s/a")), timeout=10)
    result = engine.apply(desired("s", container("s/a", image="missing")), timeout=10)
    assert not result.ok
    assert runtime.observe().containers["s/a"].phase is Phase.RUNNING


def test_an_image_that_is_always_pulled_is_looked_up_once_a_revision(
    runtime: FakeRuntime, journal: Journal
) -> None:
    want = desired("s", container("s/a"), image("busybox", pull="always"))
    look = "look-up image docker.io/library/busybox:latest"
    for revision in ("r1", "r1", "r2"):
        engine = Engine(runtime, journal, limits=QUICK)
        assert engine.apply(want, revision, timeout=10).ok
        engine.close()
    assert [call for call in runtime.calls if "image" in call] == [
        "measure image docker.io/library/busybox:latest",
        "pull image docker.io/library/busybox:latest",
        look,
    ]
    runtime.available["docker.io/library/busybox:latest"] = "sha256:newer"
    engine = Engine(runtime, journal, limits=QUICK)
    assert engine.apply(want, "r3", timeout=10).ok
    engine.close()
    assert runtime.calls[-6:] == [
        look,
        "measure image docker.io/library/busybox:latest",
        "pull image docker.io/library/busybox:latest",
        "remove container s/a",
        "create container s/a",
        "start container s/a",
    ]


def test_a_new_revision_takes_back_steps_that_have_not_begun(runtime: FakeRuntime) -> None:
    release = threading.Event()
    runtime.gate = lambda call: release.wait(10) and None if "a0" in call else None
    engine = Engine(runtime, limits=Limits(parallel=1))
    engine.want(desired("s", *(container(f"s/a{n}") for n in range(5))))
    runtime.put_image("busybox", "sha256:busybox")
    engine.round()
    engine.want(desired("s", container("s/a0")))
    seen = engine.round()
    release.set()
    assert [str(subject) for subject in seen.in_flight] == ["container s/a0"]
    engine.close()
    assert runtime.calls == ["create container s/a0"]


def test_the_journal_tells_what_was_done_and_why(engine: Engine, journal: Journal, tmp_path: Path) -> None:
    engine.apply(desired("s", container("s/a"), container("s/b", image="missing")), "rev1", timeout=10)
    entries = reading.read_actions(tmp_path / "journal.db", name="a")
    assert [(e.verb, e.result, e.revision) for e in entries] == [
        ("start", "ok", "rev1"),
        ("create", "ok", "rev1"),
    ]
    assert entries[1].cause == "does not exist (spec.toml:1)"
    reasons = reading.read_reasons(tmp_path / "journal.db", name="s/b")
    assert reasons[0].code == "image-not-found" and reasons[0].until is None


def test_a_damaged_journal_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"this is no database" * 100)
    Journal(path).close()
    assert (tmp_path / "journal.damaged").exists()
    assert reading.read_actions(path) == []


def test_the_journal_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(reading.KEEP, "plans", 10)
    journal = Journal(tmp_path / "journal.db")
    for n in range(2 * reading.PRUNE_EVERY):
        journal.plan(f"plan {n}", float(n))
    count = journal._connection.execute("SELECT count(*) FROM plans").fetchone()[0]
    journal.close()
    assert count <= 10 + reading.PRUNE_EVERY


# ---------------------------------------------------------------- images

BUSYBOX = "docker.io/library/busybox:latest"
APP = "localhost/s/app:latest"


class Hours:
    """A machine whose clock is turned by hand."""

    def __init__(self) -> None:
        self.now, self.booted = 1_000_000.0, 999_000.0

    def monotonic(self) -> float:
        return self.now - self.booted

    def time(self) -> float:
        return self.now


def settled(engine: Engine) -> None:
    """Rounds until nothing more is to be done at this time."""
    deadline = time.monotonic() + 10
    while engine.round().in_flight or engine.busy():
        assert time.monotonic() < deadline
        engine.wait(0.05)


def test_when_a_tag_was_last_looked_up_survives_the_agent_and_a_reboot(
    runtime: FakeRuntime, journal: Journal
) -> None:
    want = desired("s", container("s/a"), image("busybox", interval=3600.0))
    clock, look = Hours(), f"look-up image {BUSYBOX}"
    for later, reboot, looks in (
        (0, False, 0),
        (3000, False, 0),
        (500, True, 0),
        (200, True, 1),
        (3000, True, 1),
    ):
        clock.now += later
        clock.booted = clock.now if reboot else clock.booted
        engine = Engine(runtime, journal, limits=QUICK, clock=clock)
        engine.want(want, "r1")
        settled(engine)
        engine.close()
        assert runtime.calls.count(look) == looks, later
    assert runtime.calls.count("start container s/a") == 1


def test_a_tag_that_moved_replaces_its_containers_and_the_reason_is_kept(
    runtime: FakeRuntime, journal: Journal, tmp_path: Path
) -> None:
    clock = Hours()
    engine = Engine(runtime, journal, limits=QUICK, clock=clock)
    engine.want(desired("s", container("s/a"), image("busybox", interval=60.0)), "r1")
    settled(engine)
    runtime.available[BUSYBOX] = "sha256:newer"
    clock.now += 60.0
    settled(engine)
    engine.close()
    assert runtime.observe().containers["s/a"].image_id == "sha256:newer"
    moved = "image busybox:latest went from sha256:busybox to sha256:newer"
    entries = reading.read_actions(tmp_path / "journal.db")
    assert {(e.verb, e.kind) for e in entries if moved in e.cause} == {
        ("measure", "image"),
        ("pull", "image"),
        ("remove", "container"),
    }


def test_with_a_registry_that_is_gone_what_is_there_is_started(
    runtime: FakeRuntime, journal: Journal
) -> None:
    want = desired("s", container("s/a"), image("busybox", pull="always", interval=60.0))
    first = Engine(runtime, journal)
    first.apply(want, "r1", timeout=10)
    first.close()
    runtime.offline = True
    runtime.reboot()
    engine = Engine(runtime, journal)
    more = desired("s", container("s/a"), container("s/b"), image("busybox", pull="always", interval=60.0))
    result = engine.apply(more, "r2", timeout=10)
    engine.close()
    assert result.ok and result.notes[0].endswith("connection refused; the image in the store stays in use")
    assert [c.phase for c in runtime.observe().containers.values()] == [Phase.RUNNING, Phase.RUNNING]


def test_an_image_that_is_missing_while_its_registry_is_gone_blocks_its_containers_only(
    runtime: FakeRuntime, engine: Engine
) -> None:
    runtime.put_image("busybox", "sha256:busybox")
    runtime.offline = True
    result = engine.apply(desired("s", container("s/a"), container("s/b", image="nginx")), timeout=10)
    assert not result.ok and "connection refused" in result.failures[0]
    assert list(runtime.observe().containers) == ["s/a"]


def test_a_build_that_fails_leaves_what_runs_and_is_tried_again_when_its_files_change(
    runtime: FakeRuntime, journal: Journal
) -> None:
    want = desired("s", built("localhost/s/app"), container("s/app", image="localhost/s/app"))
    engine = Engine(runtime, journal, limits=Limits())
    runtime.recipes[APP] = "one"
    assert engine.apply(want, "r1", timeout=10).ok
    runtime.recipes[APP] = "two"
    cause = "Dockerfile:3:1: RUN false ended with exit code 1\nlast words"
    runtime.faults[f"build image {APP}"] = [Fault("start-failed", "build image", "app", cause)]
    engine.touched()
    result = engine.apply(want, "r1", timeout=10)
    assert not result.ok and "last words" in result.failures[0]
    assert runtime.observe().containers["s/app"].image_id == "sha256:one"
    runtime.recipes[APP] = "three"
    engine.touched()
    assert engine.apply(want, "r1", timeout=10).ok
    engine.close()
    assert runtime.observe().containers["s/app"].image_id == "sha256:three"
    assert runtime.calls.count(f"build image {APP}") == 2


def test_what_an_image_was_built_from_survives_the_agent(runtime: FakeRuntime, journal: Journal) -> None:
    want = desired("s", built("localhost/s/app"))
    runtime.recipes[APP] = "one"
    for _ in range(2):
        engine = Engine(runtime, journal, limits=QUICK)
        assert engine.apply(want, "r1", timeout=10).ok
        engine.close()
    assert runtime.calls == [f"build image {APP}"]


def test_images_of_the_revision_before_stay_and_those_before_it_go(
    runtime: FakeRuntime, journal: Journal
) -> None:
    clock = Hours()
    engine = Engine(runtime, journal, limits=QUICK, clock=clock)
    engine.collecting = Collecting(3600.0, CollectLimits())
    runtime.older.update({"sha256:v1", "sha256:v2", "sha256:v3"})
    for version in ("v1", "v2", "v3"):
        engine.want(desired("s", image("busybox", digest=f"sha256:{version}"), container("s/a")), version)
        settled(engine)
        clock.now += 3600.0
        settled(engine)
    assert runtime.image_ids() == {"sha256:v2", "sha256:v3"}
    runtime.offline = True
    engine.want(desired("s", image("busybox", digest="sha256:v2"), container("s/a")), "v2")
    settled(engine)
    engine.close()
    assert runtime.observe().containers["s/a"].image_id == "sha256:v2"


def test_a_build_that_a_newer_revision_wants_otherwise_is_cancelled(
    runtime: FakeRuntime, journal: Journal
) -> None:
    release = threading.Event()
    runtime.gate = lambda call: release.wait(10) and None if call.startswith("build") else None
    runtime.recipes[APP] = "one"
    engine = Engine(runtime, journal, limits=QUICK)
    engine.want(desired("s", built("localhost/s/app")), "r1")
    engine.round()
    runtime.recipes[APP] = "two"  # its files change while it is built
    engine.touched()
    engine.round()
    assert runtime.cancelled == []
    engine.want(desired("s", built("localhost/s/app", context="/tree/of/r2")), "r2")
    runtime.recipes[APP] = "one"  # but its files are the same
    engine.round()
    assert runtime.cancelled == []
    runtime.recipes[APP] = "two"
    engine.touched()
    engine.round()
    assert runtime.cancelled == [APP]
    release.set()
    settled(engine)
    engine.close()
    assert runtime.observe().images[APP].id == "sha256:two"


def test_registries_that_do_not_answer_keep_no_container_from_starting(
    runtime: FakeRuntime, journal: Journal
) -> None:
    names = [f"r{number}.example/app" for number in range(20)]
    for name in names:
        runtime.put_image(name, f"sha256:{name}")
        runtime.available[f"{name}:latest"] = f"sha256:{name}"
    runtime.put_image("busybox", "sha256:busybox")
    release = threading.Event()
    runtime.gate = lambda call: release.wait(10) and None if call.startswith("look-up") else None
    engine = Engine(runtime, journal, limits=QUICK)
    always = [image(name, pull="always") for name in names]
    engine.want(desired("s", *always, container("s/a")), "r1")
    deadline = time.monotonic() + 10
    while "start container s/a" not in runtime.calls:
        assert time.monotonic() < deadline
        engine.round()
        engine.wait(0.05)
    assert not [call for call in runtime.calls if call.startswith("look-up")]
    release.set()
    settled(engine)
    engine.close()
    assert len([call for call in runtime.calls if call.startswith("look-up")]) == 20
