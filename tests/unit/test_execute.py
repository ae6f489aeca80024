"""The executor: steps side by side within limits, failures that stay alone."""

from __future__ import annotations

import threading

from agent.execute import Executor, Outcome
from agent.planner.model import Cause, Limits, PullImage, RemoveContainer, Step, Subject
from runtime.faults import Fault
from specs.desired import DesiredImage
from specs.values import ImageRef
from tests.fake_runtime import FakeRuntime


def remove(name: str) -> Step:
    return Step(Subject("container", name), RemoveContainer(name), Cause("undeclared", "is gone"))


def pull(name: str) -> Step:
    image = DesiredImage(ImageRef.parse(name))
    return Step(Subject("image", name), PullImage(image, ()), Cause("missing", "is not there"))


class Watch:
    """Collects outcomes, and lets a test wait for a number of them."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self._changed = threading.Condition()

    def done(self, outcome: Outcome) -> None:
        with self._changed:
            self.outcomes.append(outcome)
            self._changed.notify_all()

    def wait(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.outcomes) >= count, 10)


def test_a_step_that_fails_does_not_stop_others() -> None:
    runtime, watch = FakeRuntime(), Watch()
    runtime.faults["remove container a"] = [Fault("kernel-error", "remove container", "a", "no luck")]
    executor = Executor(runtime, Limits(), begun=lambda _: None, done=watch.done)
    for name in "abc":
        executor.start(remove(name))
    watch.wait(3)
    executor.close()
    assert {o.step.subject.name: o.code for o in watch.outcomes} == {"a": "kernel-error", "b": "", "c": ""}


def test_an_exception_that_is_no_fault_is_told_as_a_bug() -> None:
    runtime, watch = FakeRuntime(), Watch()

    def gate(_: str) -> None:
        raise KeyError("oops")

    runtime.gate = gate
    executor = Executor(runtime, Limits(), begun=lambda _: None, done=watch.done)
    executor.start(remove("a"))
    watch.wait(1)
    executor.close()
    assert watch.outcomes[0].code == "bug"
    assert watch.outcomes[0].message == "cannot remove container a: KeyError: 'oops'"


def test_pulls_have_a_limit_of_their_own_and_do_not_hold_up_other_steps() -> None:
    runtime, watch = FakeRuntime(), Watch()
    release, most, now = threading.Event(), [0], [0]
    lock = threading.Lock()

    def gate(call: str) -> None:
        if not call.startswith("pull"):
            return
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        assert release.wait(10)
        with lock:
            now[0] -= 1

    runtime.gate = gate
    executor = Executor(runtime, Limits(parallel=2, pulls=3), begun=lambda _: None, done=watch.done)
    for n in range(6):
        executor.start(pull(f"image{n}"))
    for name in "abc":
        executor.start(remove(name))
    watch.wait(3)
    assert all(o.step.verb == "remove" for o in watch.outcomes)
    release.set()
    watch.wait(9)
    executor.close()
    assert most[0] == 3
