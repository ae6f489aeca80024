"""What `stead explain` says of a service."""

from __future__ import annotations

from argparse import Namespace
from contextlib import closing
from pathlib import Path

import pytest

from agent.cli import explain
from agent.journal import Journal
from agent.planner.model import Blocked, Subject
from runtime.paths import Paths


def explained(paths: Paths, capsys: pytest.CaptureFixture[str], name: str) -> list[str]:
    assert explain.run(Namespace(name=name, limit=20, json=False), paths) == 0
    return capsys.readouterr().out.splitlines()


def test_a_rollback_that_is_over_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It was gone from all that people see as soon as the specs were mended."""
    paths = Paths(tmp_path, tmp_path / "run")

    def rollout(code: str, reason: str) -> list[Blocked]:
        return [Blocked(Subject("rollout", "s/web"), reason, None, code, "s")]

    back = rollout("rolled-back", "was rolled back to revision 1: it is unhealthy")
    with closing(Journal(paths.journal)) as journal:
        journal.blocked(rollout("rolling", "0 of 2 are replaced"), 1.0)
        journal.blocked(back, 2.0)
        journal.blocked(rollout("rolling", "goes back to revision 1, 1 of 2 are back"), 3.0)
        journal.blocked(back, 4.0)
        (line,) = explained(paths, capsys, "web")
        assert " ago: blocked: was rolled back to revision 1" in line
        journal.blocked([], 5.0)
    (line,) = explained(paths, capsys, "web")
    assert " ago until " in line
    assert line.endswith(": was rolled back to revision 1: it is unhealthy [rolled-back]")
