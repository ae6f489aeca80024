"""What a probe has started is killed, and nothing else."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.shim import probes


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
        yield process
        process.kill()


def test_a_number_that_was_recycled_after_it_was_looked_at_is_not_signalled(
    stranger: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    belongs, looks = probes._belongs, iter([True])

    def first_of_the_tree(pid: int, root: int, known: set[int]) -> bool:
        return next(looks, False) or belongs(pid, root, known)

    monkeypatch.setattr(probes, "_belongs", first_of_the_tree)
    script = ["sh", "-c", "sleep 60 & wait"]
    with subprocess.Popen(script, start_new_session=True) as probe:
        probes.kill_tree(lambda: [stranger.pid], probe.pid)
        assert probe.wait(10) == -9
    assert b" T " not in Path(f"/proc/{stranger.pid}/stat").read_bytes()  # it was not stopped
    assert stranger.poll() is None
