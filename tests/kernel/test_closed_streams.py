"""Commands whose standard input, output or error was closed, or made not to wait, by who started them. Needs
root."""

from __future__ import annotations

import os
import select
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.kernel.docker_box import Said
from tests.kernel.hand_box import BUSYBOX, Hand, hand, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]

ENTRY = "from agent.cli.main import entry; entry()"  # of contrib/bin/stead
ALL = ("<&-", ">&-", "2>&-", "<&- >&- 2>&-")
TIMEOUT = 30.0  # s


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hand]:
    """Without an agent: the command itself starts the zygote, from which shims are forked."""
    with hand(tmp_path_factory.mktemp("closed"), agent=False) as made:
        made.do("run", "-d", "--name", "web", "--network", "none", BUSYBOX, "sleep", "1000")
        yield made


def shell(words: list[str], closed: str) -> Said:
    done = subprocess.run(
        ["sh", "-c", f"exec {shlex.join(words)} {closed}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def say(box: Hand, closed: str, *words: str) -> Said:
    roots = ("--root", str(box.paths.root), "--run", str(box.paths.run))
    return shell([sys.executable, "-c", ENTRY, *roots, *words], closed)


@pytest.mark.parametrize("closed", ALL)
def test_what_is_closed_is_empty_or_for_nobody(box: Hand, closed: str) -> None:
    script = "cat; echo out; echo err >&2; exit 7"
    signs = closed.split()
    expected = Said(7, "" if ">&-" in signs else "out\n", "" if "2>&-" in signs else "err\n")
    run = ("run", "--rm", "-i", "--network", "none", BUSYBOX)
    assert say(box, closed, *run, "sh", "-c", script) == expected
    assert say(box, closed, "exec", "-i", "web", "sh", "-c", script) == expected


@pytest.mark.parametrize(
    ("closed", "words"),
    [
        ("<&-", ("cp", "-", "web:/tmp")),
        (">&-", ("cp", "web:/etc/group", "-")),
        (">&-", ("ps",)),
        ("2>&-", ("restart", "-t", "0", "web")),
    ],
)
def test_other_commands_do_without_it(box: Hand, closed: str, words: tuple[str, ...]) -> None:
    said = say(box, closed, *words)
    assert (said.code, said.errors) == (0, "")


def test_what_went_wrong_is_not_said_on_the_output_instead(box: Hand) -> None:
    assert say(box, "2>&-", "exec", "not-there", "true") == Said(1, "", "")


LINES = 4000  # of 70 bytes: more than a pipe holds
MANY = f'i=0; while [ $i -lt {LINES} ]; do echo "$i {"x" * 64}"; i=$((i+1)); done'


@pytest.mark.parametrize("words", ["logs", "exec", "run"])
def test_output_that_does_not_wait_for_its_reader_loses_nothing(box: Hand, words: str) -> None:
    """As ssh, Node.js and others leave a pipe or a terminal that they share with us: O_NONBLOCK."""
    if words == "logs":
        box.do("run", "--name", "much", "--network", "none", BUSYBOX, "sh", "-c", MANY)
    command = {
        "logs": ("logs", "much"),
        "exec": ("exec", "web", "sh", "-c", MANY),
        "run": ("run", "--rm", "--network", "none", BUSYBOX, "sh", "-c", MANY),
    }
    roots = ("--root", str(box.paths.root), "--run", str(box.paths.run))
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    started = [sys.executable, "-c", ENTRY, *roots, *command[words]]
    with subprocess.Popen(started, stdout=writer, stderr=subprocess.PIPE, text=True) as said:
        try:
            until(lambda: not select.select([], [writer], [], 0)[1])  # it is full
            assert not os.get_blocking(writer)  # it is theirs, too
        finally:
            os.close(writer)
        with open(reader, "rb") as file:
            found = file.read().splitlines()
        assert (said.wait(TIMEOUT), said.stderr and said.stderr.read()) == (0, "")
    assert [int(line.split()[0]) for line in found] == list(range(LINES))


def test_input_that_has_nothing_yet_is_not_at_its_end(box: Hand) -> None:
    roots = ("--root", str(box.paths.root), "--run", str(box.paths.run))
    words = ("run", "--rm", "-i", "--network", "none", BUSYBOX, "sh", "-c", "echo begun; cat")
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    started = [sys.executable, "-c", ENTRY, *roots, *words]
    with subprocess.Popen(started, stdin=reader, stdout=subprocess.PIPE) as said:
        os.close(reader)
        assert said.stdout is not None and said.stdout.readline() == b"begun\n"
        time.sleep(0.2)  # an end of its input would reach it by now
        with suppress(BrokenPipeError):
            os.write(writer, b"later\n")
        os.close(writer)
        assert (said.stdout.read(), said.wait(TIMEOUT)) == (b"later\n", 0)


READS = "cat; echo out"


def given(box: Hand, stdin: int, *words: str) -> Said:
    roots = ("--root", str(box.paths.root), "--run", str(box.paths.run))
    command = [sys.executable, "-c", ENTRY, *roots, *words]
    done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, timeout=TIMEOUT)
    return Said(done.returncode, done.stdout, done.stderr)


def test_input_that_is_only_to_be_written_to_is_empty_and_said(box: Hand) -> None:
    """As nohup leaves it, and `0>file`; to wait for a pipe's writing end would be to wait for ever."""
    why = "stead: cannot read standard input: it is not open for reading\n"
    null, (reader, writer) = os.open(os.devnull, os.O_WRONLY), os.pipe()
    try:
        for stdin in (null, writer):
            run = ("run", "--rm", "-i", "--network", "none", BUSYBOX, "sh", "-c", READS)
            assert given(box, stdin, *run) == Said(0, "out\n", why)
            assert given(box, stdin, "exec", "-i", "web", "sh", "-c", READS) == Said(0, "out\n", why)
            assert given(box, stdin, "exec", "web", "echo", "out") == Said(0, "out\n", "")
            assert given(box, stdin, "cp", "-", "web:/tmp") == Said(1, "", why)
    finally:
        for fd in (null, reader, writer):
            os.close(fd)


def test_an_archive_that_is_cut_is_no_success(box: Hand, tmp_path: Path) -> None:
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(b"\x1f\x8b\x08\0\0")
    said = say(box, f"<{cut}", "cp", "-", "web:/tmp")
    assert said == Said(1, "", "stead: cannot read standard input: it is damaged\n")
