"""Debian's podman runs its containers with `stead-oci`. Needs root, podman and conmon."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.engines_box import IMAGE, image_archive
from tests.kernel.docker_box import Said
from tests.kernel.oci_box import STEAD
from tests.kernel.shim_box import until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not all(map(shutil.which, ("podman", "conmon"))), reason="needs podman and conmon"),
]
#: podman's own limits take CAP_SYS_RESOURCE.
OPTIONS = ("--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096")
IDS = ("--uidmap", "0:200000:65536", "--gidmap", "0:200000:65536")


class Podman:
    def __init__(self, base: Path, holder: int) -> None:
        self._prefix = ["nsenter", "-t", str(holder), "-n", "-m", "podman"]
        self._prefix += ["--root", f"{base}/root", "--runroot", f"{base}/run", "--tmpdir", f"{base}/tmp"]
        self._prefix += ["--runtime", str(STEAD), "--cgroup-manager", "cgroupfs", "--events-backend", "file"]
        self._prefix += ["--network-config-dir", f"{base}/networks"]

    def __call__(self, *words: str, stdin: str = "") -> Said:
        done = subprocess.run(
            [*self._prefix, *words], input=stdin, capture_output=True, text=True, timeout=90
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def run(self, *words: str, stdin: str = "") -> Said:
        return self("run", "--rm", *OPTIONS, *words, stdin=stdin)

    def well(self, *words: str) -> str:
        said = self(*words)
        assert said.code == 0, said.errors
        return said.out.strip()


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    """In a mount and a network namespace of its own; its runroot may have 50 characters."""
    base = Path(tempfile.mkdtemp(prefix="stpod"))
    (base / "ready").touch()
    holder = subprocess.Popen(
        ["unshare", "-n", "-m", "--propagation", "private", "sh", "-c", f"rm {base}/ready; exec sleep 1000"]
    )
    try:
        until(lambda: not (base / "ready").exists())
        made = Podman(base, holder.pid)
        made.well("import", str(image_archive(base)), IMAGE)
        yield made
        made("rm", "--all", "--force", "--time", "0")
    finally:
        holder.kill()
        holder.wait()
        shutil.rmtree(base)


def test_run_gives_output_input_and_exit_code(podman: Podman) -> None:
    said = podman.run("-i", IMAGE, "sh", "-c", "cat; echo err >&2; exit 7", stdin="in\n")
    assert (said.code, said.out) == (7, "in\n") and "err" in said.errors
    assert podman.run("-t", IMAGE, "tty").out.strip() == "/dev/pts/0"


@pytest.mark.parametrize(
    ("program", "code"), [("nosuch", 127), ("/nosuch", 127), ("/etc", 126), ("/etc/passwd", 126)]
)
def test_a_program_that_cannot_be_run_has_its_exit_code(podman: Podman, program: str, code: int) -> None:
    assert podman.run(IMAGE, program).code == code


def test_rights_limits_and_volumes_are_those_asked_for(podman: Podman, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    tmp_path.chmod(0o755)
    script = "id; cat /data/file; touch /data/x /y 2>/dev/null || echo sealed; cat /proc/sys/kernel/shmmni; "
    script += "grep -E 'CapEff|NoNew|Seccomp:' /proc/self/status; mount | grep -o 'on /scratch type tmpfs'"
    options = ["--read-only", "--user", "web", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    options += ["--sysctl", "kernel.shmmni=100", "--tmpfs", "/scratch", "-v", f"{tmp_path}:/data:ro"]
    said = podman.run(*options, "--memory", "64m", "--pids-limit", "50", IMAGE, "sh", "-c", script)
    assert said.out.splitlines() == [
        "uid=1000(web) gid=1000(web) groups=1000(web)",
        "from the host",
        "sealed",
        "100",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "on /scratch type tmpfs",
    ]


def test_a_container_has_ids_of_its_own(podman: Podman) -> None:
    script = (
        "id -u; cat /proc/self/uid_map | tr -s ' '; touch /x && stat -c %u /x; test -c /dev/null && echo null"
    )
    said = podman.run(*IDS, IMAGE, "sh", "-c", script)
    assert said.out.splitlines() == ["0", " 0 200000 65536", "0", "null"], said.errors
    podman.well("run", "-d", "--name", "ids", *OPTIONS, *IDS, "--user", "web", IMAGE, "sleep", "1000")
    pid = int(podman.well("inspect", "-f", "{{.State.Pid}}", "ids"))
    assert os.stat(f"/proc/{pid}").st_uid == 201000
    assert podman.well("exec", "ids", "id", "-u") == "1000"
    assert podman.well("exec", "-u", "root", "ids", "id", "-u") == "0"
    podman.well("kill", "ids")
    # podman's own clean-up, in another process, unmounts its /dev/shm a moment after the end: a removal in
    # between complains of it, and removes
    until(lambda: "exited" in podman.well("inspect", "-f", "{{.State.Status}}", "ids"))
    podman("rm", "-f", "-t", "0", "ids")
    until(lambda: podman("container", "exists", "ids").code == 1)


def test_privileges_and_the_hosts_namespaces_on_request(podman: Podman) -> None:
    said = podman.run("--privileged", IMAGE, "sh", "-c", "ls /dev | wc -l; grep Seccomp: /proc/self/status")
    assert int(said.lines[0]) > 15 and said.lines[1] == "Seccomp:\t0"
    shared = ["--pid", "host", "--ipc", "host", "--uts", "host", "--cgroupns", "host"]
    said = podman.run(
        *shared, IMAGE, "sh", "-c", "for n in pid ipc uts cgroup; do readlink /proc/self/ns/$n; done"
    )
    assert said.lines == [os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "ipc", "uts", "cgroup")]


def test_the_life_of_a_container(podman: Podman) -> None:
    health = ["--health-cmd", "true", "--health-interval", "disable"]
    command = ["sh", "-c", "echo started; trap 'echo ended; exit 3' TERM; while true; do sleep 0.1; done"]
    podman.well("run", "-d", "--name", "life", *OPTIONS, "--memory", "64m", *health, IMAGE, *command)
    until(lambda: podman.well("logs", "life") == "started")
    assert podman.well("exec", "life", "sh", "-c", "echo in $$") != ""
    assert podman("exec", "life", "sh", "-c", "exit 9").code == 9
    assert podman("exec", "life", "nosuch").code == 127
    assert podman.well("exec", "-t", "life", "tty") == "/dev/pts/0"
    podman.well("exec", "-d", "life", "sleep", "55")
    assert "sleep 55" in podman.well("top", "life")
    podman.well("healthcheck", "run", "life")
    podman.well("pause", "life")
    assert podman.well("inspect", "-f", "{{.State.Status}}", "life") == "paused"
    podman.well("unpause", "life")
    podman.well("update", "--memory", "96m", "life")
    assert int(json.loads(podman.well("stats", "--no-stream", "--format", "json", "life"))[0]["pids"]) >= 1
    podman.well("stop", "life")
    assert podman.well("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "life") == "exited 3"
    assert podman.well("logs", "life").splitlines() == ["started", "ended"]
    podman.well("start", "life")
    podman.well("kill", "life")
    podman.well("rm", "-f", "-t", "0", "life")
    assert podman("container", "exists", "life").code == 1
