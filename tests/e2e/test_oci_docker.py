"""Debian's dockerd runs its containers with `stead-oci`. Needs root, dockerd and docker."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.engines_box import image_archive
from tests.kernel.docker_box import Docker, docker, needs_docker
from tests.kernel.oci_box import RUNC, STEAD
from tests.kernel.shim_box import until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    needs_docker,
]
IMAGE = "box:1"
OURS = ("--runtime", "stead", "--network", "none")
THEIRS = ("--runtime", "runc", "--network", "none")


@pytest.fixture(scope="module")
def engine() -> Iterator[Docker]:
    with tempfile.TemporaryDirectory(prefix="stdock") as base:
        with docker(Path(base) / "d", "--add-runtime", f"stead={STEAD}") as made:
            made.well("import", str(image_archive(Path(base))), IMAGE)
            yield made


def test_run_says_the_same_as_with_runc(engine: Docker) -> None:
    script = (
        "id; cat /proc/mounts | cut -d' ' -f2,3 | sort; ls -l /dev | tr -s ' ' | cut -d' ' -f1,3-5,9-; exit 7"
    )
    script = "grep -E 'Cap|Seccomp:|NoNew|Groups' /proc/self/status; ulimit -n; umask; " + script
    said = [engine.run("run", "--rm", *options, IMAGE, "sh", "-c", script) for options in (OURS, THEIRS)]
    assert said[0].code == 7
    if RUNC:
        ours, theirs = (set(one.lines) for one in said)
        # the cgroup v2 hierarchy beside v1's, which runc leaves out; the host's /dev/null over masked files,
        # and not the container's own, which it could have put another file at
        known = ("unified", "tmpfs")
        assert {line for line in ours ^ theirs if not any(word in line for word in known)} == set()
        assert {line.split()[0] for line in ours} >= {line.split()[0] for line in theirs}


@pytest.mark.parametrize("program", ["nosuch", "/nosuch", "/etc", "/etc/passwd"])
def test_a_program_that_cannot_be_run_ends_as_with_runc(engine: Docker, program: str) -> None:
    ours, theirs = (engine.run("run", "--rm", *options, IMAGE, program) for options in (OURS, THEIRS))
    assert ours.code == theirs.code in (126, 127)


def test_the_life_of_a_container(engine: Docker, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    options = ["--memory", "64m", "--pids-limit", "50", "--cpus", "0.5", "--tmpfs", "/scratch", "--init"]
    options += ["-v", f"{tmp_path}:/data:ro", "--health-cmd", "test -f /data/file", "--health-interval", "1s"]
    command = ["sh", "-c", "echo started; trap 'echo ended; exit 3' TERM; while true; do sleep 0.1; done"]
    engine.well("run", "-d", "--name", "life", *OURS, *options, IMAGE, *command)
    until(lambda: engine.well("logs", "life") == "started")
    assert engine.well("exec", "life", "cat", "/data/file") == "from the host"
    assert engine.run("exec", "life", "touch", "/data/x").code == 1
    assert engine.run("exec", "life", "sh", "-c", "exit 9").code == 9
    assert engine.run("exec", "life", "nosuch").code in (126, 127)
    assert engine.well("exec", "-t", "life", "tty") == "/dev/pts/0"
    engine.well("exec", "-d", "life", "sleep", "55")
    assert "sleep 55" in engine.well("top", "life")
    engine.well("pause", "life")
    assert engine.well("inspect", "-f", "{{.State.Status}}", "life") == "paused"
    engine.well("unpause", "life")
    engine.well("update", "--memory", "96m", "--memory-swap", "192m", "life")
    assert "/ 96MiB" in engine.well("stats", "--no-stream", "--format", "{{.MemUsage}}", "life")
    until(lambda: "healthy" in engine.well("ps", "--format", "{{.Status}}"), 30)
    engine.well("stop", "life")
    assert engine.well("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "life") == "exited 3"
    engine.well("start", "life")
    engine.well("kill", "life")
    engine.well("rm", "-f", "life")


def test_memory_that_is_not_there_ends_the_program_and_is_told(engine: Docker) -> None:
    filled = "dd if=/dev/zero of=/dev/shm/x bs=1M count=60"
    words = ("run", "--name", "big", *OURS, "--memory", "20m", "--shm-size", "64m", IMAGE, *filled.split())
    said = []
    for _ in range(5):  # containerd hears of the end and of its cause by two ways, in no certain order
        engine.run(*words)
        said.append(engine.well("inspect", "-f", "{{.State.OOMKilled}} {{.State.ExitCode}}", "big"))
        engine.well("rm", "big")
        if said[-1] == "true 137":
            break
    assert said[-1] == "true 137", said


def test_a_terminal_and_privileges_on_request(engine: Docker) -> None:
    assert engine.well("run", "--rm", "-t", *OURS, IMAGE, "tty") == "/dev/pts/0"
    said = engine.well("run", "--rm", "--privileged", *OURS, IMAGE, "sh", "-c", "ls /dev | wc -l")
    assert int(said) > 15
