"""The agent's loop on real directories, and a runtime in memory."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent import journal
from agent.callers import AFTER, MOST, WHILE, Callers
from agent.converge import Round
from agent.desired import Resolved
from agent.feeds import Feed
from agent.lock import hold
from agent.loop import PERIOD, Agent
from agent.planner.model import Plan, World
from agent.planner.plan import plan
from agent.settings import Settings, Source
from agent.sources.revision import Revision
from agent.view import View
from runtime.faults import Fault
from runtime.observations import Defect, Observed, Phase
from runtime.paths import Paths
from tests.fake_runtime import FakeRuntime

DEADLINE = 30.0

SPEC = """
project = "shop"
[container.web]
image = "busybox"
environment = {{ COLOR = "{color}" }}
"""


class House:
    """A node in a temporary directory: its specs, its state, its runtime."""

    def __init__(self, base: Path) -> None:
        self.specs = base / "specs"
        self.specs.mkdir()
        self.paths = Paths(base / "root", base / "run")
        self.runtime = FakeRuntime(available={"docker.io/library/busybox:latest": "sha256:busybox"})
        self.settings = Settings.model_validate(
            {"source": [{"name": "shop", "directory": str(self.specs)}], "listen": {"metrics": ""}}
        )

    def write(self, color: str, name: str = "shop.toml") -> None:
        (self.specs / name).write_text(SPEC.format(color=color))

    def run(self, act: Callable[[Agent], Any]) -> None:
        """Run an agent while `act` looks at it from another thread; then end it by SIGTERM."""

        async def main() -> None:
            agent = Agent(self.settings, self.paths, self.runtime)
            task = asyncio.create_task(agent.run())
            try:
                await asyncio.to_thread(act, agent)
            finally:
                if not task.done():
                    os.kill(os.getpid(), signal.SIGTERM)
                assert await asyncio.wait_for(task, DEADLINE) == 0

        asyncio.run(main())


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def until(agent: Agent, met: Callable[[View], object]) -> View:
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        if met(agent.view):
            return agent.view
        time.sleep(0.002)
    raise AssertionError(f"never happened: {agent.view}")


def wait(met: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_when_a_source_was_converged_is_known_to_the_next_agent(house: House) -> None:
    """Also where that one never gets so far: an alert about it must not end by a restart."""
    times = []

    def act(agent: Agent) -> None:
        until(agent, converged)
        house.runtime.available.clear()
        house.write("red")
        (house.specs / "more.toml").write_text('project = "b"\n[container.other]\nimage = "nowhere"\n')
        view = until(agent, lambda view: view.blocked)
        times.append(view.sources[0].last_success)

    house.write("blue")
    house.run(act)
    assert times[0] > 0

    def again(agent: Agent) -> None:
        view = until(agent, lambda view: view.blocked)
        assert abs(view.sources[0].last_success - times[0]) < 0.001

    house.run(again)


def converged(view: View) -> bool:
    return view.state == "converged" and bool(view.observed.containers) and view.sources[0].last_success > 0


def word(house: House) -> None:
    """Of a shim."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(b'{"v":1,"id":"x","phase":"exited"}', str(house.paths.events_socket))


def color(view: View) -> str:
    web = view.observed.containers.get("shop/web")
    return web.facets if web is not None and web.phase is Phase.RUNNING else ""


def test_a_changed_file_is_converged_to_at_once(house: House) -> None:
    house.write("blue")

    def act(agent: Agent) -> None:
        until(agent, converged)
        begin = time.monotonic()
        house.write("green")
        until(agent, lambda view: "green" in color(view))
        assert time.monotonic() - begin < PERIOD / 2
        assert house.runtime.calls[-3:] == [
            "remove container shop/web",
            "create container shop/web",
            "start container shop/web",
        ]

    house.run(act)


def test_a_round_that_began_before_a_revision_was_taken_never_says_that_it_is_converged(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.write("blue")
    slow, goes_on = threading.Event(), threading.Event()
    shown: list[View] = []

    def plan_slowly(world: World) -> Plan:
        decided = plan(world)
        if slow.is_set():
            goes_on.wait(DEADLINE)
        return decided

    monkeypatch.setattr("agent.converge.plan", plan_slowly)

    def act(agent: Agent) -> None:
        publish = agent._publish

        def published(done: Round) -> None:
            publish(done)
            shown.append(agent.view)

        agent._publish = published  # type: ignore[method-assign]
        blue = until(agent, converged).sources[0].revision
        slow.set()
        agent._loop.call_soon_threadsafe(agent._because, "step")  # a round begins, and takes its time
        house.write("green")
        until(agent, lambda view: view.sources[0].revision != blue)
        slow.clear()
        goes_on.set()
        until(agent, lambda view: "green" in color(view) and converged(view))
        stale = [
            view
            for view in shown
            if view.sources[0].revision not in ("", blue) and "green" not in color(view)
        ]
        assert stale and {view.state for view in stale} == {"progressing"}

    house.run(act)


def test_nothing_is_converged_before_the_first_revision_was_read(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.write("blue")
    resolve, goes_on = Feed.resolve, threading.Event()

    def resolve_slowly(feed: Feed, found: Revision, *, kept: bool = False) -> Resolved:
        assert goes_on.wait(DEADLINE)
        return resolve(feed, found, kept=kept)

    monkeypatch.setattr(Feed, "resolve", resolve_slowly)

    def act(agent: Agent) -> None:
        for _ in range(3):  # rounds pass meanwhile
            seen = until(agent, lambda view: view.observed_at).observed_at
            agent._loop.call_soon_threadsafe(agent._because, "step")
            view = until(agent, lambda view, seen=seen: view.observed_at > seen)  # type: ignore[misc]
            assert view.state == "starting"
        goes_on.set()
        until(agent, converged)

    house.run(act)


def test_a_bad_revision_changes_nothing_and_its_errors_are_shown(house: House) -> None:
    house.write("blue")

    def act(agent: Agent) -> None:
        good = until(agent, converged)
        (house.specs / "bad.toml").write_text("[container.x\n")
        bad = until(agent, lambda view: view.sources[0].errors)
        assert bad.sources[0].errors[0].startswith("bad.toml:1:")
        assert bad.sources[0].revision == good.sources[0].revision
        assert bad.sources[0].seen != bad.sources[0].revision
        assert list(bad.observed.containers) == ["shop/web"]
        (house.specs / "bad.toml").unlink()
        until(agent, lambda view: not view.sources[0].errors)

    house.run(act)
    assert house.runtime.calls.count("create container shop/web") == 1
    results = [entry.result for entry in journal.read_revisions(house.paths.journal)]
    assert results == ["refused", "accepted"]


def test_after_a_reboot_all_comes_back_without_the_source(house: House) -> None:
    house.write("blue")
    house.run(lambda agent: until(agent, converged))
    shutil.rmtree(house.specs)
    house.runtime.reboot()
    house.run(lambda agent: until(agent, lambda view: "blue" in color(view)))
    assert house.runtime.calls.count("create container shop/web") == 1
    assert house.runtime.calls.count("start container shop/web") == 2


def test_restarting_the_agent_does_nothing_to_containers(house: House) -> None:
    house.write("blue")
    house.run(lambda agent: until(agent, converged))
    count = len(house.runtime.calls)
    house.run(lambda agent: until(agent, converged))
    assert len(house.runtime.calls) == count
    assert house.runtime.observe().containers["shop/web"].phase is Phase.RUNNING


def test_a_word_of_a_shim_is_a_reason_to_look(house: House) -> None:
    house.write("blue")

    def act(agent: Agent) -> None:
        until(agent, converged)
        house.runtime.lose("shop/web")
        before = house.runtime.calls.count("start container shop/web")
        word(house)
        until(agent, lambda _: house.runtime.calls.count("start container shop/web") > before)

    house.run(act)


def test_a_look_waits_for_people_that_are_served(house: House) -> None:
    house.write("blue")

    def act(agent: Agent) -> None:
        until(agent, converged)
        with agent._callers:
            house.runtime.lose("shop/web")
            word(house)
            time.sleep(WHILE / 4)
            assert house.runtime.calls.count("start container shop/web") == 1
            word(house)
            begin = time.monotonic()
            until(agent, lambda _: house.runtime.calls.count("start container shop/web") == 2)
            assert time.monotonic() - begin < MOST + 2.0, "no call is waited for to its end"
            house.write("green")
            until(agent, lambda view: "green" in color(view))

    house.run(act)


def test_who_asks_all_the_time_keeps_the_agent_from_nothing(house: House) -> None:
    house.write("blue")

    def act(agent: Agent) -> None:
        until(agent, converged)
        over = threading.Event()

        def ask() -> None:
            while not over.wait(0.001):
                with agent._callers:
                    agent._loop.call_soon_threadsafe(agent._because, "call")

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            house.runtime.lose("shop/web")
            until(agent, lambda _: house.runtime.calls.count("start container shop/web") == 2)
        finally:
            over.set()
            asking.join()

    house.run(act)


@pytest.mark.parametrize(
    ("reason", "since", "expected"),
    [("source", 9.9, 9.95), ("shim", 9.9, 10.0 + AFTER), ("call", 9.9, 10.0 + AFTER), ("shim", 9.51, 10.01)],
)
def test_how_long_a_look_is_put_off(
    reason: str, since: float, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.callers.time.monotonic", lambda: 10.0)
    callers = Callers()
    assert callers.put_off(reason, 9.95, since) == 9.95, "nobody has asked"
    with callers:
        assert callers.put_off(reason, 9.95, 10.0) == (9.95 if reason == "source" else 10.0 + WHILE)
        assert callers.put_off(reason, 99.0, since) == 99.0
    assert callers.put_off(reason, 9.95, since) == pytest.approx(expected)


def test_what_the_kernel_says_of_networks_is_mended_without_a_full_look(house: House) -> None:
    house.write("blue")
    release = threading.Event()
    rounds: list[float] = []

    def act(agent: Agent) -> None:
        until(agent, converged)
        observe = house.runtime.observe_networks

        def looked(last: Observed) -> Observed:
            rounds.append(agent.view.observed_at)
            return observe(last)

        house.runtime.observe_networks = looked  # type: ignore[method-assign]
        before = agent.view.observed_at
        house.runtime.stir()
        wait(lambda: len(rounds) == 1)
        assert agent.view.observed_at == before and agent.view.in_flight == (), "nothing was wrong"
        house.runtime.gate = lambda call: release.wait(DEADLINE) and None
        house.runtime.damage("firewall", Defect("firewall", "its table is gone"))
        house.runtime.stir()
        view = until(agent, lambda view: view.in_flight)
        assert [step.id for step in view.in_flight] == ["repair firewall"]
        assert view.observed_at == before and view.state == "progressing", "by the look at networks alone"
        release.set()
        until(agent, lambda view: view.counters.repairs == {"firewall": 1} and view.state == "converged")

    house.run(act)
    assert house.runtime.calls.count("repair firewall") == 1


def test_a_repair_that_is_paced_comes_when_its_pause_is_over(house: House) -> None:
    house.write("blue")

    def act(agent: Agent) -> None:
        until(agent, converged)
        for count in range(1, 13):  # the eleventh in a row is followed by a pause of a second
            house.runtime.damage("shop/web", Defect("route", "its default route is gone"))
            house.runtime.stir()
            begin = time.monotonic()
            until(agent, lambda view, count=count: view.counters.repairs.get("route") == count)  # type: ignore[misc]
            assert time.monotonic() - begin < 5.0, "without it only the periodic look would come"
            until(agent, lambda view: view.state == "converged")

    house.run(act)


def test_a_storm_of_events_does_not_keep_the_agent_from_its_other_work(house: House) -> None:
    house.write("blue")

    def act(agent: Agent) -> None:
        until(agent, converged)
        over = threading.Event()

        def storm() -> None:
            while not over.wait(0.0005):
                house.runtime.stir()

        blowing = threading.Thread(target=storm)
        blowing.start()
        try:
            house.write("green")
            until(agent, lambda view: "green" in color(view))
        finally:
            over.set()
            blowing.join()

    house.run(act)


def test_a_second_agent_on_the_same_state_is_refused(house: House) -> None:
    with hold(house.paths, "agent"), pytest.raises(Fault) as caught:
        asyncio.run(Agent(house.settings, house.paths, house.runtime).run())
    assert caught.value.code == "locked"
    assert f"the agent with pid {os.getpid()} holds it" in str(caught.value)


def test_a_machine_that_cannot_be_observed_is_looked_at_again(house: House) -> None:
    house.write("blue")
    failing = [True]

    def observe() -> Any:
        if failing[0]:
            raise Fault("kernel-error", "observe", "links", "no buffer space available")
        return FakeRuntime.observe(house.runtime)

    house.runtime.observe = observe  # type: ignore[method-assign]

    def act(agent: Agent) -> None:
        assert "no buffer space" in until(agent, lambda view: view.error).error
        failing[0] = False
        until(agent, converged)

    house.run(act)


def test_two_sources_side_by_side(house: House, tmp_path: Path) -> None:
    house.write("blue")
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.toml").write_text(SPEC.format(color="red").replace("shop", "other"))
    sources = (*house.settings.source, Source(name="other", directory=str(other)))
    house.settings = house.settings.model_copy(update={"source": list(sources)})

    def act(agent: Agent) -> None:
        until(agent, lambda view: len(view.observed.containers) == 2 and view.state == "converged")
        (other / "x.toml").write_text("[network.left]\n")
        until(agent, lambda view: list(view.observed.containers) == ["shop/web"])

    house.run(act)


def test_a_changed_file_of_a_build_is_built_and_run_at_once(house: House) -> None:
    spec = '[image.app]\nbuild = "app"\n[container.app]\nimage = "app"\n'
    (house.specs / "app").mkdir()
    (house.specs / "a.toml").write_text(spec)
    source = house.specs / "app" / "main.py"
    source.write_text("one")
    (house.specs / "app" / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    house.runtime.key_of = lambda request: Path(request.context, "main.py").read_text()

    def image(view: View) -> str:
        have = view.observed.containers.get("default/app")
        return have.image_id if have is not None and have.phase is Phase.RUNNING else ""

    def act(agent: Agent) -> None:
        until(agent, lambda view: image(view) == "sha256:one")
        begin = time.monotonic()
        source.write_text("two")
        until(agent, lambda view: image(view) == "sha256:two")
        assert time.monotonic() - begin < PERIOD - 2
        (house.specs / "other.py").write_text("is in no context")

    house.run(act)
    assert house.runtime.calls.count("build image localhost/default/app:latest") == 2


def test_after_a_restart_the_images_of_the_revision_before_are_kept(house: House) -> None:
    names = {name: f"docker.io/library/{name}:latest" for name in ("one", "two", "three")}
    house.runtime.available.update({name: f"sha256:{key}" for key, name in names.items()})

    def act(image: str) -> Callable[[Agent], None]:
        def wait(agent: Agent) -> None:
            (house.specs / "a.toml").write_text(f'[container.a]\nimage = "{image}"\n')
            until(agent, lambda view: f"{image}:latest" in str(view.observed.containers.get("default/a")))
            until(agent, converged)

        return wait

    for image in names:
        house.run(act(image))
    kept: list[set[str]] = []

    def collect(keep: Any, limits: Any) -> Any:
        kept.append(set(keep))
        return FakeRuntime.collect_images(house.runtime, keep, limits)

    house.runtime.collect_images = collect  # type: ignore[method-assign]
    (house.paths.root / "journal.db").unlink()  # so that it is time to collect
    house.run(lambda agent: until(agent, lambda _: kept))
    assert kept[0] == {"sha256:two", "sha256:three"}


def test_the_end_of_the_agent_does_not_wait_for_a_long_build(house: House) -> None:
    (house.specs / "Dockerfile").write_text("FROM scratch\n")
    (house.specs / "a.toml").write_text('[image.app]\nbuild = "."\n')
    house.runtime.recipes["localhost/default/app:latest"] = "one"
    begun = threading.Event()

    def gate(call: str) -> None:
        if call.startswith("build"):
            begun.set()
            assert house.runtime.interrupted.wait(3 * DEADLINE)

    house.runtime.gate = gate
    house.run(lambda agent: begun.wait(DEADLINE))
    assert begun.is_set() and house.runtime.interrupted.is_set()


def test_another_path_in_the_settings_is_another_tree_of_the_same_commit(house: House) -> None:
    work = house.specs
    for color_ in ("blue", "green"):
        (work / color_).mkdir()
        house.write(color_, f"{color_}/shop.toml")
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "both")):
        who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(["git", "-C", str(work), *who, *words], check=True)
    for color_ in ("blue", "green", "blue"):
        source = {"name": "shop", "git": str(work), "path": color_}
        house.settings = Settings.model_validate({"source": [source], "listen": {"metrics": ""}})

        def act(agent: Agent, expected: str = color_) -> None:
            until(agent, lambda view: expected in color(view) and converged(view))

        house.run(act)
