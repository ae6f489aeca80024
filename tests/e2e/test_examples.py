"""Every example is run as a user runs it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from agent.desired import Surroundings, load_directory
from tests.e2e.conftest import Node, until

EXAMPLES = Path(__file__).parents[2] / "examples"
STEAD = Path(sys.executable).parent / "stead"

needs_root = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl"),
    pytest.mark.skipif(not STEAD.exists(), reason="needs the command stead beside this Python"),
]


@pytest.mark.parametrize("directory", [path for path in EXAMPLES.iterdir() if path.is_dir()], ids=str)
def test_every_example_is_valid(directory: Path) -> None:
    found = load_directory(directory, around=Surroundings())
    assert found.desired is not None, found.problems
    assert found.desired.containers


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    busybox = shutil.which("busybox")
    if busybox is None or subprocess.run(["ldd", busybox], capture_output=True).returncode == 0:
        pytest.skip("needs Debian's busybox-static")
    return {**os.environ, "BUSYBOX": busybox, "STEAD": str(STEAD), "TMPDIR": str(tmp_path)}


class TestDemo:
    pytestmark = needs_root

    def test_once_it_answers_and_leaves_nothing(self, environment: dict[str, str], tmp_path: Path) -> None:
        done = subprocess.run(
            ["sh", str(EXAMPLES / "demo.sh"), "--once"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Hello from a container." in done.stdout
        row = r"^\w{12} .* Up .* \(healthy\) +127.0.0.1:18080->80/tcp +hello/web$"
        assert re.search(row, done.stdout, re.M), done.stdout
        assert os.listdir(tmp_path) == []

    def test_it_runs_until_it_is_ended(self, environment: dict[str, str], tmp_path: Path) -> None:
        log = tmp_path.parent / f"{tmp_path.name}.log"
        with log.open("w") as out:
            demo = subprocess.Popen(
                ["sh", str(EXAMPLES / "demo.sh")], env=environment, stdout=out, stderr=out
            )
        try:
            until(lambda: re.search(r"\(healthy\) .* hello/web$", log.read_text(), re.M) is not None)
            demo.send_signal(signal.SIGTERM)
            assert demo.wait(60) == 0, log.read_text()
        finally:
            demo.terminate()
            demo.wait(60)
        assert os.listdir(tmp_path) == []


class TestBuild:
    pytestmark = needs_root

    def test_what_the_specs_build_answers_and_notes_are_no_new_build(self, node: Node) -> None:
        """The example is copied: a test writes into no source."""
        specs = node.base / "build"
        shutil.copytree(EXAMPLES / "build", specs)
        spec = specs / "build.toml"
        spec.write_text(spec.read_text().replace("18081", str(node.port)))
        node.stead("image", "tag", "busy:1", "hello-busybox:1")
        try:
            node.stead("apply", str(specs))
            assert fetch(node.port, "") == b"Good morning, reader.\n"
            assert fetch(node.port, "letter.html") == b"Good morning, to whom it may concern.\n"
            history = node.stead("image", "history", "localhost/build/site")
            assert "COPY --chmod=644 /out/ /www/" in history and "WORKDIR /out" not in history

            before = node.ps()
            (specs / "site/NOTES.md").write_text("Other notes.\n")
            node.stead("apply", str(specs))
            assert node.ps() == before

            (specs / "site/pages/index.txt").write_text("new reader.\n")
            node.stead("apply", str(specs))
            until(lambda: fetch(node.port, "") == b"Good morning, new reader.\n")
        finally:
            node.stead("down", str(specs), "--volumes")


class TestJobs:
    pytestmark = needs_root

    def test_they_come_one_after_another_and_the_report_runs_when_it_is_asked_for(self, node: Node) -> None:
        specs = node.base / "jobs"
        shutil.copytree(EXAMPLES / "jobs", specs)
        spec = specs / "jobs.toml"
        spec.write_text(spec.read_text().replace("18082", str(node.port)))
        node.stead("image", "tag", "busy:1", "hello-busybox:1")
        settings = node.base / "jobs-settings.toml"
        settings.write_text(f'[[source]]\nname = "jobs"\ndirectory = "{specs}"\n[listen]\nmetrics = ""\n')
        agent = subprocess.Popen(node.command("agent", "--settings", str(settings)))
        try:
            running = {"jobs/prepare": "exited", "jobs/web": "running", "jobs/watcher": "running"}
            until(lambda: {**node.phases(), **running} == node.phases())
            assert fetch(node.port, "table") == b"date visits\n"
            assert "30 8 * * mon-fri" in node.stead("job", "ls")
            node.stead("job", "run", "--wait", "report")
            assert fetch(node.port, "table").endswith(b" 17\n")
            assert " hand " in node.stead("job", "history", "report")
        finally:
            agent.terminate()
            assert agent.wait(60) == 0
            node.stead("down", str(specs), "--volumes")


def fetch(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
        return bytes(answer.read())
