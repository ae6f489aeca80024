"""Commands whose standard input, output or error was closed by who started them. Needs root."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.kernel.docker_box import Said
from tests.kernel.hand_box import BUSYBOX, Hand, hand

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
