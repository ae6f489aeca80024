"""Processes of a cgroup stop and go on, in either version of the hierarchies that there are. Needs root."""

from __future__ import annotations

import errno
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.linux import cgroups
from runtime.linux.cgroups import Cgroups
from runtime.linux.cgroups_v1 import V1
from tests.kernel.shim_box import until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

HOST = cgroups.detect()


@pytest.fixture
def path() -> Iterator[str]:
    made = f"stead.slice/test{uuid.uuid4().hex[:12]}"
    HOST.create(made)
    yield made
    HOST.kill(made)
    HOST.remove(made)


@pytest.fixture(params=["v1", "v2"])
def groups(request: pytest.FixtureRequest) -> Cgroups:
    if request.param == "v1":
        if HOST.v1 is None or "freezer" not in HOST.v1.mounted:
            pytest.skip("this host has no freezer of cgroup v1")
        return Cgroups(HOST.v1, None)
    if HOST.v2 is None:
        pytest.skip("this host has no cgroup v2")
    return Cgroups(None, HOST.v2)


def test_frozen_processes_do_nothing_until_they_are_thawed(
    groups: Cgroups, path: str, tmp_path: Path
) -> None:
    beat = tmp_path / "beat"
    program = subprocess.Popen(["sh", "-c", f"while true; do echo x > {beat}; done"])
    try:
        HOST.add(path, program.pid)
        until(beat.exists)
        groups.freeze(path)
        before = beat.stat().st_mtime_ns
        ticks = Path(f"/proc/{program.pid}/stat").read_text().split()[13:15]
        groups.freeze(path)  # repeatable
        assert beat.stat().st_mtime_ns == before
        assert Path(f"/proc/{program.pid}/stat").read_text().split()[13:15] == ticks
        groups.thaw(path)
        until(lambda: beat.stat().st_mtime_ns != before)
        groups.freeze(path)
        for name, text in groups.thawing(path):  # what a guard writes, that knows nothing else
            Path(name).write_text(text)
        stopped = beat.stat().st_mtime_ns
        until(lambda: beat.stat().st_mtime_ns != stopped)
    finally:
        groups.thaw(path)
        program.kill()
        program.wait()


def test_whether_it_is_frozen_is_seen(groups: Cgroups, path: str) -> None:
    assert not groups.is_frozen(path)
    groups.freeze(path)
    assert groups.is_frozen(path)
    groups.thaw(path)
    assert not groups.is_frozen(path)
    assert not groups.is_frozen(f"{path}/none")


def test_a_host_without_a_freezer_says_so() -> None:
    groups = Cgroups(V1({"pids": "/cg/pids"}), None)
    assert groups.thawing("x") == []
    assert not groups.is_frozen("x")
    with pytest.raises(OSError, match="this host has no freezer") as caught:
        groups.freeze("x")
    assert caught.value.errno == errno.ENOTSUP
