"""Containers as ps and inspect have them, of files that a shim left behind half a moment ago."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.cli.containers import document
from agent.cli.containers.seen import Seen
from runtime import attend
from runtime.linux import pidfd
from runtime.paths import Paths

FAILED = {"started_at": 1.0, "finished_at": 2.0, "exit_code": 1, "output": ""}


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths(tmp_path / "root", tmp_path / "run")
    made.container("a").mkdir(parents=True)
    made.live("a").mkdir(parents=True)
    return made


def seen(paths: Paths, **request: Any) -> Seen:
    record = SimpleNamespace(id="a", name="web", wanted="running", request=json.dumps(request), image_id="i")
    return Seen(paths, cast(Any, record), [], {"i": {"Cmd": ["serve"]}})


def test_one_that_has_ended_is_down_though_its_shim_has_still_to_end(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shim writes state.json, then exit.json, and then it ends."""
    monkeypatch.setattr(pidfd, "is_alive", lambda pid, start: True)
    said = {"id": "a", "phase": "exited", "shim_pid": 1, "shim_start": 1, "health": "none", "exit_code": 3}
    (paths.live("a") / "state.json").write_text(json.dumps({**said, "health_log": [FAILED, FAILED]}))
    assert attend.live_state(paths, cast(Any, SimpleNamespace(id="a"))) is not None
    item = seen(paths, probe={"test": ["CMD", "false"], "retries": 2})
    assert (item.live, item.phase, item.exit_code) == (False, "exited", 3)
    found = document.state(item)
    assert found["Health"]["Status"] == "unhealthy"
    assert "ready" not in found


@pytest.mark.parametrize("text", ["", "\0" * 100, "{"], ids=["empty", "zeros", "half"])
def test_one_whose_config_is_damaged_is_shown_with_what_was_asked_for(paths: Paths, text: str) -> None:
    (paths.container("a") / "config.json").write_text(text)
    assert seen(paths).words == ["serve"]
    (paths.container("a") / "config.json").unlink()
    (paths.container("a") / "config.json").mkdir()
    assert seen(paths).words == ["serve"]
