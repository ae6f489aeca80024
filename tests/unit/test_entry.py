"""The command as a process: what it leaves behind when it ends without taking its interpreter down."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from agent import __version__
from agent.machine import open_runtime
from agent.rollouts import opened
from agent.settings import Settings
from runtime.paths import Paths

ENTRY = "from agent.cli.main import entry; entry()"
CLOSED = ["sh", "-c", f"exec '{sys.executable}' -c '{ENTRY}' --version >&-"]


def command(
    *words: str, code: str = ENTRY, stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        timeout=60,
    )


def test_what_it_wrote_is_there() -> None:
    done = command("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"stead {__version__}\n", "")


def test_a_wrong_word_has_its_code_and_its_line() -> None:
    done = command("nonsense")
    assert (done.returncode, done.stdout) == (2, "")
    assert "invalid choice: 'nonsense'" in done.stderr


@pytest.mark.parametrize("word", ["--version", "schema"], ids=["at the end", "in the middle"])
def test_output_that_is_not_taken_is_an_error(word: str) -> None:
    with open("/dev/full", "w", encoding="ascii") as full:
        done = command(word, stdout=full.fileno())
    assert (done.returncode, done.stderr) == (1, "stead: cannot write output: No space left on device\n")


@pytest.mark.parametrize("word", ["--version", "schema"], ids=["at the end", "in the middle"])
def test_nobody_who_reads_is_no_error(word: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = command(word, stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_output_that_was_closed_from_the_beginning_is_for_nobody() -> None:
    done = command("--version", code=f"import os, sys; os.execvp({CLOSED[0]!r}, {CLOSED!r})")
    assert (done.returncode, done.stderr) == (0, "")


def test_an_error_that_is_not_about_output_is_not_taken_for_one() -> None:
    code = (
        "from agent.cli import main\ndef work(_): raise OSError(5, 'broken')\nmain._run = work\nmain.entry()"
    )
    done = command("ps", code=code)
    assert done.returncode == 1
    assert "OSError: [Errno 5] broken" in done.stderr and "cannot write" not in done.stderr


@pytest.mark.parametrize(
    "begun", ["threading.Thread(target=late).start()", "atexit.register(late)"], ids=["thread", "atexit"]
)
def test_what_was_begun_is_ended(begun: str, tmp_path: Path) -> None:
    code = f"""
import atexit, sys, threading, time
from agent.cli import main

def late():
    time.sleep(0.2)
    open(sys.argv[1], "w").close()

def work():
    {begun}
    print("done")
    return 3

main.main = work
main.entry()
"""
    done = command(str(tmp_path / "late"), code=code)
    assert (done.returncode, done.stdout) == (3, "done\n")
    assert (tmp_path / "late").exists()


def test_the_end_that_has_a_text_is_said() -> None:
    code = "from agent.cli import main\ndef work(): raise SystemExit('no')\nmain.main = work\nmain.entry()"
    done = command(code=code)
    assert (done.returncode, done.stderr) == (1, "no\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_a_state_directory_that_takes_nothing_is_one_line_for_people_and_can_be_looked_at(
    tmp_path: Path,
) -> None:
    paths = Paths(tmp_path / "root", tmp_path / "run")
    specs = tmp_path / "specs"
    specs.mkdir()
    with closing(open_runtime(paths, Settings())), opened(paths.rollouts):
        pass
    prepare = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
    unshared = ["unshare", "--mount", "sh", "-c", prepare, "sh", str(paths.root)]
    stead = [sys.executable, "-c", ENTRY, "--root", str(paths.root), "--run", str(paths.run)]

    def done(*words: str) -> tuple[int, str]:
        ended = subprocess.run([*unshared, *stead, *words], capture_output=True, text=True, timeout=60)
        return ended.returncode, ended.stdout + ended.stderr

    cause = "it is on a read-only file system (mount its file system writable)"
    assert done("agent") == (1, f"stead: cannot open database {paths.database}: {cause}\n")
    with closing(open_runtime(paths, Settings())), opened(paths.rollouts):  # as an agent has them
        assert done("release", "web") == (1, f"stead: cannot release {paths.rollouts}: {cause}\n")
        assert done("down", str(specs)) == (1, f"stead: cannot write {paths.lock}: read-only file system\n")
        assert done("plan", str(specs)) == (0, "nothing to do\n")
