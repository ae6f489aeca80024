"""What is asked of the agent by name: what it refuses before it does anything."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent import calls
from agent.operations import naming
from runtime.faults import Fault

NOBODY = cast(Any, None)  # no runtime: nothing of it is needed for a refusal


def refused(op: str, args: dict[str, Any]) -> str:
    with pytest.raises(Fault) as raised:
        calls.perform(NOBODY, op, args)
    assert raised.value.code == "request-invalid"
    return str(raised.value)


def test_an_operation_or_an_argument_that_is_not_there_is_named() -> None:
    assert "there is no such operation" in refused("explode", {})
    assert "argument 'name' is missing" in refused("stop", {})
    assert "argument 'names' is missing" in refused("each", {"op": "stop"})


def test_a_mistake_of_an_operation_is_not_told_as_a_missing_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(_runtime: object, _args: object) -> None:
        raise KeyError("of its own")

    monkeypatch.setattr(calls, "OPERATIONS", {"wrong": wrong})
    with pytest.raises(KeyError, match="of its own"):
        calls.perform(NOBODY, "wrong", {})


def test_each_takes_a_list_of_names_and_one_operation() -> None:
    assert "its names are a list" in refused("each", {"op": "stop", "names": 5})
    assert "its args a table" in refused("each", {"op": "stop", "names": [], "args": [1]})
    assert "it cannot be done on each" in refused("each", {"op": "each", "names": ["a"]})
    for op in (["stop"], {}, None, 1):
        assert "its op is a word" in refused("each", {"op": op, "names": ["a", "b"]})


@pytest.mark.parametrize("timeout", [float("nan"), float("inf"), -1, 1e300, "soon", [], True])
@pytest.mark.parametrize("op", ["stop", "restart"])
def test_a_grace_period_that_is_none_is_refused_before_anything_is_stopped(
    monkeypatch: pytest.MonkeyPatch, op: str, timeout: object
) -> None:
    record = SimpleNamespace(id="a", name="web", source="")
    monkeypatch.setattr(naming, "container", lambda *_: record)
    assert "timeout is no number of seconds" in refused(op, {"name": "web", "timeout": timeout})
