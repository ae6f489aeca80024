"""What images would be built from: how often it is looked at, and how a change is told."""

from __future__ import annotations

import pytest

from agent.planner.learning import key_of_build
from agent.planner.model import Built, BuiltImage, Collected, Inputs, Looked, Result, Sized
from agent.planner.told import told
from agent.sight import FRESH, Sight, differences
from runtime.build.request import BuildInputs, BuildRequest
from runtime.images.garbage import Removed
from runtime.observations import ImageSize
from tests.builders import built, desired
from tests.fake_runtime import FakeRuntime

APP = "localhost/s/app:latest"
WANT = [desired("s", built("localhost/s/app"))]


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({"a": "1"}, {"a": "1"}, ""),
        ({"a": "1", "b": "1", "c": "1"}, {"a": "2", "c": "1", "d": "1"}, "a changed, b is gone, d is new"),
        ({}, dict.fromkeys("abcde", "1"), "a is new, b is new, c is new and 2 more"),
    ],
)
def test_a_change_is_told_by_what_people_call_it(
    before: dict[str, str], after: dict[str, str], told: str
) -> None:
    assert differences(before, after) == told


def test_files_are_not_looked_at_in_every_round() -> None:
    looks: list[BuildRequest] = []
    runtime = FakeRuntime(key_of=lambda request: str(looks.append(request)))
    sight = Sight(runtime)
    for now in (0.0, 1.0, FRESH - 1):
        sight.inputs(WANT, now, {})
    assert len(looks) == 1
    sight.inputs(WANT, FRESH, {})
    assert len(looks) == 2
    sight.forget()
    sight.inputs(WANT, FRESH, {})
    assert len(looks) == 3
    sight.inputs([desired("s", built("localhost/s/app", target="x"))], FRESH, {})
    assert len(looks) == 4 and looks[3].target == "x"


def test_what_changed_is_told_against_what_was_built() -> None:
    runtime = FakeRuntime(recipes={APP: "one"})
    sight = Sight(runtime)
    ours = {APP: Built("one", "sha256:one")}
    assert sight.inputs(WANT, 0.0, ours)[APP] == Inputs("one")
    for key in ("two", "three"):  # of which none was built
        runtime.recipes[APP] = key
        sight.forget()
        assert sight.inputs(WANT, 0.0, ours)[APP] == Inputs(key, "context file app.py changed")
    assert sight.inputs(WANT, 0.0, {APP: Built("zero", "x")})[APP] == Inputs("three", "")
    del runtime.recipes[APP]
    sight.forget()
    found = sight.inputs(WANT, 0.0, ours)[APP]
    assert found.code == "request-invalid" and "no such file" in found.reason


BASE = {"Dockerfile": "d", "base image debian:12": ""}
OLD, NEW = ({**BASE, "base image debian:12": f"sha256:{digit}"} for digit in "01")


@pytest.mark.parametrize(
    ("before", "after", "pull", "key"),
    [
        (BASE, BASE, False, "before"),
        (BASE, NEW, False, "after"),
        (
            OLD,
            NEW,
            False,
            "before",
        ),
        (
            OLD,
            NEW,
            True,
            "after",
        ),
        (BASE, {"Dockerfile": "e", "base image debian:12": "sha256:1"}, False, "before"),
        (BASE, {"Dockerfile": "e", "base image debian:12": ""}, True, "before"),
        ({}, {}, False, "before"),
    ],
)
def test_a_base_image_that_a_build_brought_is_no_reason_for_another(
    before: dict[str, str], after: dict[str, str], pull: bool, key: str
) -> None:
    assert key_of_build(BuildInputs("before", before), BuildInputs("after", after), pull=pull) == key


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (None, ""),
        (Looked("sha256:1"), "is sha256:1"),
        (Sized(ImageSize()), ""),
        (Sized(ImageSize(1_500_000, 4_500_000)), "needs 1.5 MB and 4.5 MB unpacked"),
        (BuiltImage("k", "i", 5, 3), "3 of 5 steps were cached"),
        (Collected(()), ""),
        (
            Collected(
                (
                    Removed("sha256:" + "1" * 64, (), 999_600, "old"),
                    Removed("i", ("docker.io/a/b:1",), 5, "full"),
                )
            ),
            "removed sha256:111111111111 (old), a/b:1 (full): 1 MB freed",
        ),
    ],
)
def test_what_a_step_found_out_is_told(result: Result, text: str) -> None:
    assert told(result) == text
