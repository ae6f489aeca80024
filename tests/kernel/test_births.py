"""Shims whose processes are made before their bundles: they wait to be started, and end where nobody is left
who could. Needs root."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.shim import client
from tests.kernel.shim_box import Box, box, until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path) as made:
        yield made


def children(box: Box) -> list[int]:
    """Of the zygote."""
    process = box.zygote._process
    assert process is not None
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def write(box: Box, text: str) -> None:
    box.script(text)
    (box.bundle / "config.json").write_text(json.dumps(box.config))
    (box.bundle / "supervise.json").write_text(json.dumps(box.supervise))


@pytest.mark.parametrize("idle", [True, False])
def test_a_bundle_may_be_written_while_its_shim_is_born(container: Box, idle: bool) -> None:
    with container.zygote.fork(container.bundle, container.live, idle=idle) as birth:
        until(lambda: children(container))
        assert client.read_state(container.live) is None
        write(container, "echo up; sleep 1000")
        birth.start()
    assert container.state().phase == "running"
    until(lambda: container.output() == b"up\n")


@pytest.mark.parametrize("idle", [True, False])
def test_what_was_not_started_leaves_nothing(container: Box, idle: bool) -> None:
    write(container, "sleep 1000")
    with container.zygote.fork(container.bundle, container.live, idle=idle):
        until(lambda: children(container))
    until(lambda: not children(container))
    assert client.read_state(container.live) is None
    assert container.host.pids(container.cgroup) == []


@pytest.mark.parametrize("idle", [True, False])
def test_a_zygote_that_dies_behind_a_birth_does_not_matter(container: Box, idle: bool) -> None:
    write(container, "sleep 1000")
    with container.zygote.fork(container.bundle, container.live, idle=idle) as birth:
        until(lambda: children(container))
        zygote = container.zygote._process
        assert zygote is not None
        zygote.kill()
        zygote.wait()
        birth.start()
    assert container.state().phase == "running"


def test_a_request_that_a_zygote_died_with_goes_to_the_next_one(container: Box) -> None:
    write(container, "sleep 1000")
    container.zygote.warm()
    zygote = container.zygote._process
    assert zygote is not None
    os.kill(zygote.pid, signal.SIGSTOP)
    with container.zygote.fork(container.bundle, container.live, idle=True) as birth:
        zygote.kill()
        zygote.wait()
        birth.start()
    assert container.state().phase == "running"
