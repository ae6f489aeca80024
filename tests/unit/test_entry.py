"""The command as a process: what it leaves behind when it ends without taking its interpreter down."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent import __version__

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
