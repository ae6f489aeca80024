"""A directory that people edit while the agent follows it: each save is one revision, never half of one."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from agent.journal import read_revisions
from tests.crash.agents import Agent
from tests.crash.box import Box, Nursery, busybox, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]

Save = Callable[[Path, str], None]


def as_vim(path: Path, text: str) -> None:
    """A swap file while one types; the old file is renamed, the new one written, the backup removed."""
    swap, backup = path.with_name(f".{path.name}.swp"), path.with_name(f"{path.name}~")
    swap.write_bytes(b"b0VIM 9.0")
    path.with_name("4913").write_text("")
    path.with_name("4913").unlink()
    path.rename(backup)
    path.write_text(text)
    backup.unlink()
    swap.unlink()


def as_emacs(path: Path, text: str) -> None:
    """A lock that is a dangling link, an autosave file, then written in place in two pieces."""
    lock, autosave = path.with_name(f".#{path.name}"), path.with_name(f"#{path.name}#")
    lock.symlink_to("user@host.1:2")
    autosave.write_text(text[:10])
    with path.open("w") as file:
        file.write(text[: len(text) // 2])
        file.flush()
        file.write(text[len(text) // 2 :])
    autosave.unlink()
    lock.unlink()


def as_vscode(path: Path, text: str) -> None:
    """Written beside, renamed over."""
    fresh = path.with_name(f"{path.name}.tmp.123")
    fresh.write_text(text)
    os.replace(fresh, path)


def as_sed(path: Path, text: str) -> None:
    fresh = path.with_name("sedAbC123")
    fresh.write_text(text)
    shutil.copymode(path, fresh)
    fresh.rename(path)


def as_rsync(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.Xy12Zz")
    fresh.write_text(text)
    os.utime(fresh, (1_700_000_000, 1_700_000_000))
    fresh.rename(path)


EDITORS: tuple[Save, ...] = (as_vim, as_emacs, as_vscode, as_sed, as_rsync)


def spec(number: int) -> str:
    return (
        f'[container.web]\nimage = "busy:1"\ncommand = ["sleep", "10000"]\nstop_grace_period = "100ms"\n'
        f'labels = {{ save = "{number}" }}\n' + "# padding so that half of it is no specification\n" * 50
    )


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    nursery = Nursery()
    box = Box(tmp_path, nursery)
    box.well("image", "import", str(busybox(tmp_path / "image")), "busy:1")
    made = Agent(box)
    yield made
    made.end()
    box.well("down", str(box.specs))
    assert box.inventory.strays() == []
    nursery.close()


def test_each_save_of_any_editor_is_one_revision_and_nothing_is_ever_refused(agent: Agent) -> None:
    box, path = agent.box, agent.box.specs / "web.toml"
    path.write_text(spec(0))
    agent.start()
    until(agent.converged, "the agent converges")
    before = box.ps()["default/web"]
    for number, save in enumerate(EDITORS, 1):
        with undisturbed():
            save(path, spec(number))
        until(lambda number=number: label(agent) == number, f"{save.__name__} is taken")  # type: ignore[misc]
    until(agent.converged, "the agent converges")
    assert box.ps()["default/web"] == before  # a label is changed in place
    entries = read_revisions(box.paths.journal)
    assert [entry.result for entry in entries] == ["accepted"] * (1 + len(EDITORS))


def test_a_directory_that_is_replaced_whole_is_followed(agent: Agent) -> None:
    """As tools deploy that build a tree and swap a link or a directory."""
    box = agent.box
    (box.specs / "web.toml").write_text(spec(0))
    agent.start()
    until(agent.converged, "the agent converges")
    fresh = box.base / "fresh"
    fresh.mkdir()
    (fresh / "web.toml").write_text(spec(7))
    box.specs.rename(box.base / "old")
    fresh.rename(box.specs)
    until(lambda: label(agent) == 7, "the new tree is taken")
    assert read_revisions(box.paths.journal)[0].result == "accepted"


@contextmanager
def undisturbed() -> Iterator[None]:
    """Between two calls of an editor no time passes: on a busy machine others would run then for so long that
    the state in between is one of its own, to be taken as it is."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)


def label(agent: Agent) -> int:
    """Of the running container."""
    text = agent.box.well("inspect", "container", "web")
    found = re.search(r'"save": "(\d+)"', text)
    return int(found[1]) if found else -1
