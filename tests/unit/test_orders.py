"""What people order by hand, heard by an agent that runs on a machine in memory, and by the commands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent import render
from agent.cli.main import Problem, main
from agent.cli.rollouts import naming, rollback
from agent.desired import HISTORY, Shelf
from agent.loop import Agent
from agent.planner.guard import Guard, approved, held
from agent.planner.updates import Key, Order, Orders, Spec, Version, suspended_until, suspension
from agent.rollouts import opened
from agent.sources.revision import Revision
from agent.view import View
from runtime.observations import Observed
from runtime.paths import Paths
from specs.desired import DesiredImage
from specs.values import ImageRef
from tests.builders import container, desired
from tests.fake_runtime import FakeRuntime
from tests.unit.test_loop import House, color, converged, until

ONE = '[container.{name}]\nimage = "busybox"\n'


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def stead(house: House, *words: str) -> int:
    return main(["--root", str(house.paths.root), "--run", str(house.paths.run), *words])


def many(house: House, *names: str) -> None:
    text = 'project = "shop"\n' + "".join(ONE.format(name=name) for name in names)
    (house.specs / "shop.toml").write_text(text)


def names(view: View) -> set[str]:
    return {name.removeprefix("shop/") for name in view.observed.containers}


def test_a_revision_that_removes_most_waits_until_it_is_approved(house: House) -> None:
    many(house, *"abcdef")

    def act(agent: Agent) -> None:
        until(agent, lambda view: converged(view) and len(names(view)) == 6)
        many(house, "a")
        waits = until(agent, lambda view: view.sources[0].held).sources[0]
        assert "it would remove 5 of 6 containers" in waits.held
        assert waits.seen != waits.revision
        assert len(names(agent.view)) == 6
        assert stead(house, "approve", waits.seen[:8]) == 0
        view = until(agent, lambda view: names(view) == {"a"})
        assert view.sources[0].revision == waits.seen
        assert not view.sources[0].held

    house.run(act)


def test_an_empty_tree_waits_and_what_comes_back_is_taken(house: House) -> None:
    house.write("blue")
    spec = next(house.specs.glob("*.toml"))
    text = spec.read_text()

    def act(agent: Agent) -> None:
        until(agent, converged)
        spec.unlink()
        until(agent, lambda view: "its tree is empty" in view.sources[0].held)
        spec.write_text(text)
        until(agent, lambda view: not view.sources[0].held)
        assert "blue" in color(agent.view)

    house.run(act)
    assert "remove container shop/web" not in house.runtime.calls


def test_a_revision_is_approved_while_no_agent_lives(house: House) -> None:
    many(house, *"abcdef")
    waits = []

    def act(agent: Agent) -> None:
        until(agent, lambda view: converged(view) and len(names(view)) == 6)
        many(house, "a")
        waits.append(until(agent, lambda view: view.sources[0].held).sources[0].seen)

    house.run(act)
    assert stead(house, "approve", waits[0]) == 0
    house.run(lambda agent: until(agent, lambda view: names(view) == {"a"}))


def test_an_approval_is_for_once(house: House) -> None:
    """A directory without files is the same revision each time."""
    house.write("blue")
    spec = next(house.specs.glob("*.toml"))
    text = spec.read_text()

    def act(agent: Agent) -> None:
        until(agent, converged)
        assert stead(house, "approve", "e3b0c442") == 1  # which does not wait yet
        spec.unlink()
        held = until(agent, lambda view: "its tree is empty" in view.sources[0].held).sources[0]
        assert stead(house, "approve", held.seen[:8], "--source", "other") == 1
        assert stead(house, "approve", held.seen[:8]) == 0
        until(agent, lambda view: not names(view))
        spec.write_text(text)
        until(agent, lambda view: "web" in names(view) and converged(view))
        spec.unlink()
        until(agent, lambda view: "its tree is empty" in view.sources[0].held)
        assert "web" in names(agent.view)

    house.run(act)


def test_a_source_goes_back_to_what_was_in_force_before(house: House) -> None:
    """And not to what was seen first: blue, red, blue, green."""
    known = []

    def act(agent: Agent) -> None:
        for color_ in ("blue", "red", "blue", "green"):
            house.write(color_)
            view = until(agent, lambda view, color_=color_: color_ in color(view) and converged(view))
            known.append(view.sources[0].revision)
            until(agent, lambda view: not view.blocked)
        assert stead(house, "rollback", "shop/web") == 0
        until(agent, lambda view: "blue" in color(view) and view.state == "converged")
        assert stead(house, "release", "shop/web") == 0
        until(agent, lambda view: "green" in color(view) and converged(view))
        source = agent.view.sources[0].name
        assert stead(house, "rollback", source) == 0
        assert until(agent, lambda view: "blue" in color(view)).sources[0].revision == known[0] == known[2]
        assert stead(house, "rollback", source) == 0  # and once more, further back
        until(agent, lambda view: "red" in color(view))

    house.write("blue")
    house.run(act)


def test_a_source_goes_back_by_hand_and_on_when_it_is_released(house: House) -> None:
    house.write("blue")

    def act(agent: Agent) -> None:
        first = until(agent, converged).sources[0].revision
        house.write("green")
        until(agent, lambda view: "green" in color(view) and converged(view))
        assert stead(house, "rollback", "--reason", "too green") == 0
        until(agent, lambda view: "blue" in color(view) and view.sources[0].held)
        view = agent.view.sources[0]
        assert view.revision == first
        assert "too green" in view.held
        house.write("red")
        until(agent, lambda view: view.sources[0].seen not in (first, "") and view.sources[0].held)
        assert "blue" in color(agent.view)

    house.run(act)

    def again(agent: Agent) -> None:
        until(agent, lambda view: converged(view) and view.sources[0].held)
        assert "blue" in color(agent.view)
        assert stead(house, "release", agent.view.sources[0].name) == 0
        until(agent, lambda view: "red" in color(view))
        assert not agent.view.sources[0].held

    house.run(again)


def test_a_container_goes_back_by_hand_and_stays_there_over_commits(house: House) -> None:
    house.write("blue")

    def act(agent: Agent) -> None:
        until(agent, converged)
        house.write("green")
        until(agent, lambda view: "green" in color(view) and converged(view))
        until(agent, lambda view: not view.blocked)
        assert stead(house, "rollback", "shop/web") == 0
        until(agent, lambda view: "blue" in color(view) and view.state == "converged")
        assert [item.code for item in agent.view.blocked] == ["pinned"]
        house.write("red")
        until(agent, lambda view: view.sources[0].revision == view.sources[0].seen and converged(view))
        assert "blue" in color(agent.view)
        assert stead(house, "release", "web") == 0
        until(agent, lambda view: "red" in color(view))

    house.run(act)


def test_what_is_suspended_by_hand_waits_and_goes_on(house: House) -> None:
    house.write("blue")

    def act(agent: Agent) -> None:
        until(agent, converged)
        assert stead(house, "suspend", "source:shop", "--reason", "the fair", "--for", "1h") == 0
        until(agent, lambda view: view.blocked)
        house.write("green")
        until(agent, lambda view: view.sources[0].revision == view.sources[0].seen and converged(view))
        assert "blue" in color(agent.view)
        assert {item.code for item in agent.view.blocked} == {"suspended"}
        assert stead(house, "resume", "source:shop") == 0
        until(agent, lambda view: "green" in color(view))

    house.run(act)


def test_commands_say_what_they_cannot_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    roots = ["--root", str(tmp_path / "root"), "--run", str(tmp_path / "run")]
    assert main([*roots, "release", "web"]) == 1
    assert main([*roots, "resume", "source:shop"]) == 1
    assert main([*roots, "suspend", "web"]) == 1
    assert main([*roots, "suspend", "source:a", "--for", "soon"]) == 2
    assert main([*roots, "suspend", "project:a"]) == 1
    assert main([*roots, "rollback"]) == 2
    assert main([*roots, "rollback", "web"]) == 1
    assert main([*roots, "approve", "ab"]) == 2
    assert main([*roots, "approve", "abcdef"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "stead: nothing of web was pinned or rolled back"
    assert said[1] == "stead: there is no source 'shop': there is none"
    assert said[2].startswith("stead: there is no container, project or source 'web'")
    assert said[4] == "stead: there is no project 'a': there is none"
    assert said[5] == "stead: say what to roll back: no revision of a source was kept"


def version(
    number: int, revision: str, *, good: bool = True, standing: bool = False, bad: str = "", at: float = 1.0
) -> Version:
    spec = Spec((container("s/web"),), DesiredImage(ImageRef.parse("busybox")))
    key = Key(str(number), "", "sha256:1")
    return Version("s/web", "s", key, spec, number, (revision,), at, good, standing, bad)


@pytest.mark.parametrize(
    ("to", "known", "expected"),
    [
        ("", [version(1, "a"), version(2, "b"), version(3, "c", standing=True)], "b"),
        ("", [version(1, "a"), version(2, "b", good=False), version(3, "c", standing=True)], "a"),
        ("", [version(1, "a"), version(2, "b", bad="ill"), version(3, "c", standing=True)], "a"),
        ("", [version(1, "a", standing=True), version(2, "b")], None),
        (  # b was bad, and released
            "",
            [version(1, "a", good=False), version(2, "b", good=False, at=0.0), version(3, "c")],
            "a",
        ),
        ("a", [version(1, "abc"), version(2, "b", standing=True)], "abc"),
        ("x", [version(1, "abc"), version(2, "b", standing=True)], None),
    ],
)
def test_a_rollback_by_hand_goes_to_the_good_one_before(
    to: str, known: list[Version], expected: str | None
) -> None:
    found = rollback.chosen(known, to, None)
    assert (found.revision if found else None) == expected


@pytest.mark.parametrize(
    ("bad", "expected"),
    [((), "c"), (("c",), "b"), (("b", "c"), "a"), (("a", "b", "c"), "c")],
)
def test_a_source_goes_back_past_revisions_of_which_something_was_bad(
    tmp_path: Path, bad: tuple[str, ...], expected: str
) -> None:
    """Unless each of them is."""
    paths = Paths(tmp_path / "root", tmp_path / "run")
    for id in "abcd":
        Shelf(paths, "s").put(Revision(id, "", {"a.toml": b"x"}, "/specs"))
    known = tuple(version(number, id, bad="ill" if id in bad else "") for number, id in enumerate("abcd"))
    other = replace(version(1, "c", bad="ill"), service="t/web", source="t")
    with opened(tmp_path / "rollouts.db") as rollouts:
        rollouts.keep({}, {"s/web": known, "t/web": (other,)})
        rollback.source(paths, rollouts, "s", "", Order(1.0, "root", ""))
        assert rollouts.orders().sources["s"].revision == expected


def test_ten_revisions_of_a_source_are_kept(tmp_path: Path) -> None:
    shelf = Shelf(Paths(tmp_path / "root", tmp_path / "run"), "shop")
    for number in range(HISTORY + 3):
        shelf.put(Revision(f"r{number}", "", {"a.toml": b"x"}, "/specs"))
    shelf.put(Revision(f"r{HISTORY}", "", {"a.toml": b"x"}, "/specs"))
    kept = [f"r{number}" for number in range(3, HISTORY + 3)]
    assert [one.id for one in shelf.history()] == [*kept[:-3], *kept[-2:], f"r{HISTORY}"]
    shelf.put(Revision("r5", "", {"a.toml": b"x"}, "/specs"), anew=False)  # by a person who goes back
    assert [one.id for one in shelf.history()] == [*kept[:-3], *kept[-2:], f"r{HISTORY}"]
    assert shelf.find("r5") == Revision("r5", "", {"a.toml": b"x"}, "/specs")
    assert shelf.find("r0") is None


def test_a_name_that_is_ambiguous_is_asked_for(tmp_path: Path) -> None:
    one, other = version(1, "a"), replace(version(1, "a"), service="t/web")
    with opened(tmp_path / "rollouts.db") as rollouts:
        rollouts.keep({}, {"s/web": (one,), "t/web": (other,)})
        with pytest.raises(Problem, match="web may be s/web or t/web"):
            naming.service(rollouts, "web")


def many_observed(*counts: tuple[str, int]) -> Observed:
    runtime = FakeRuntime(available={"docker.io/library/busybox:latest": "sha256:busybox"})
    runtime.pull_image(ImageRef.parse("busybox"))
    for source, count in counts:
        for number in range(count):
            one = container(f"{source}/c{number}")
            runtime.create_container(
                render.container_request(source, one, DesiredImage(ImageRef.parse("busybox")))
            )
    return runtime.observe()


@pytest.mark.parametrize(
    ("counts", "left", "empty", "waits"),
    [
        ([("s", 6)], 1, False, True),
        ([("s", 6)], 3, False, False),  # half is not more than half
        ([("s", 3)], 0, False, False),  # three are not more than three
        ([("s", 3)], 0, True, True),
        ([("s", 5), ("t", 20)], 0, False, False),  # a fifth of all
        ([("s", 5), ("t", 2)], 0, False, True),
        ([("t", 9)], 0, True, False),  # none is its own
    ],
)
def test_the_guard_counts_what_would_go_of_all(
    counts: list[tuple[str, int]], left: int, empty: bool, waits: bool
) -> None:
    want = desired("s", *(container(f"s/c{number}") for number in range(left)))
    assert bool(held(Guard(), "abcdef", want, many_observed(*counts), empty=empty)) == waits


def test_an_approval_is_for_the_beginning_of_a_revision() -> None:
    said = frozenset({("", "abcdef"), ("shop", "123456")})
    assert approved(said, "any", "abcdef0123")
    assert approved(said, "shop", "1234567")
    assert not approved(said, "other", "1234567")
    assert not approved(said, "any", "abcde")


def test_a_suspension_is_of_a_container_a_project_or_a_source_and_ends() -> None:
    one = container("shop/web-1", service="shop/web")
    for key in ("shop/web-1", "shop/web", "shop", "source:git"):
        orders = Orders(suspended={key: Order(0.0, "root", "why", 10.0)})
        assert "why" in suspension(orders, one, one.name, "git", 9.0)
        assert not suspension(orders, one, one.name, "git", 10.0)
        assert not suspension(orders, container("other/web"), "other/web", "dir", 9.0)


def test_a_suspension_that_lasts_for_no_time_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roots = ["--root", str(tmp_path / "root"), "--run", str(tmp_path / "run")]
    assert main([*roots, "suspend", "source:a", "--for", "0s"]) == 2
    assert "--for is 0s: say how long" in capsys.readouterr().err


def test_a_suspended_container_goes_on_when_the_last_of_its_own_suspensions_ends() -> None:
    one = container("shop/web-1", service="shop/web")
    ends = {"shop/web": 10.0, "source:git": 20.0, "other": 5.0}
    orders = Orders(suspended={key: Order(0.0, "root", until=end) for key, end in ends.items()})
    assert suspended_until(orders, one, one.name, "git", 1.0) == 20.0
    assert suspended_until(orders, one, one.name, "dir", 1.0) == 10.0
    assert suspended_until(orders, one, one.name, "dir", 11.0) is None
    forever = Orders(suspended={**orders.suspended, "shop": Order(0.0, "root")})
    assert suspended_until(forever, one, one.name, "git", 1.0) is None


def test_what_is_resumed_after_its_suspension_ended_goes_on_since_then(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    house.paths.make()
    with opened(house.paths.rollouts) as rollouts:
        rollouts.suspend("shop/web", Order(0.0, "root", until=1.0))
    assert stead(house, "resume", "shop/web") == 0
    assert "its suspension had ended by itself" in capsys.readouterr().out
    assert stead(house, "resume", "shop/web") == 1
