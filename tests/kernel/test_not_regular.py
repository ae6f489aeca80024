"""What a damaged file system, or a person, has made of files that Stead reads: nothing waits, nothing is
followed out, and it is said.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from runtime import attend, events, logs
from runtime.faults import Fault
from runtime.paths import Paths
from runtime.shim import client, documents
from runtime.shim.logs import LogWriter
from runtime.shim.messages import INDEX_RECORD, STDERR, STDOUT


def fifo(path: Path) -> None:
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.mkdir()


def link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


KINDS = pytest.mark.parametrize("make", [fifo, directory, link])
Make = Callable[[Path], None]


def written(path: Path) -> None:
    writer = LogWriter(str(path), 1 << 20, 3)
    writer.write(b"one\n", STDOUT)
    writer.close()


@KINDS
@pytest.mark.parametrize("name", ["0.log", "0.idx"])
@pytest.mark.parametrize("options", [{}, {"tail": 1}, {"since": 1.0}, {"follow": True}])
def test_a_log_that_is_none_is_said(tmp_path: Path, make: Make, name: str, options: dict[str, Any]) -> None:
    written(tmp_path / "log")
    (tmp_path / "log" / name).unlink()
    make(tmp_path / "log" / name)
    with pytest.raises(Fault, match="cannot read log: it is not a regular file") as raised:
        list(logs.read(tmp_path / "log", **options))
    assert str(tmp_path / "log" / name) in str(raised.value)


def test_a_log_directory_that_is_none_is_said(tmp_path: Path) -> None:
    fifo(tmp_path / "log")
    with pytest.raises(Fault, match="cannot read log: not a directory"):
        list(logs.read(tmp_path / "log"))


def test_of_a_damaged_index_only_what_there_is_is_read(tmp_path: Path) -> None:
    written(tmp_path / "log")
    index = tmp_path / "log" / "0.idx"
    good = index.read_bytes()
    far = INDEX_RECORD.pack(2**64 - 1, 2**32 - 1, STDOUT, 0, 0, 0)
    large = INDEX_RECORD.pack(2, 2**32 - 1, STDERR, 0, 0, 2**64 - 1)
    index.write_bytes(good + far + large + random.Random(1).randbytes(INDEX_RECORD.size * 50))
    for options in ({}, {"tail": 5}):
        found = [(stream, data) for _, stream, data in logs.read(tmp_path / "log", **options)]  # type: ignore[arg-type]
        assert found == [(STDOUT, b"one\n"), (STDERR, b"e\n")]


@KINDS
def test_events_that_are_no_file_are_lost_and_hold_up_nobody(tmp_path: Path, make: Make) -> None:
    (tmp_path / "events").mkdir()
    events.tell(tmp_path, "volume", "create", "v", "v")
    (tmp_path / "events" / "now.jsonl").rename(tmp_path / "events" / "old.1.jsonl")
    make(tmp_path / "events" / "now.jsonl")
    events.tell(tmp_path, "volume", "destroy", "v", "v")
    assert [item.action for item in events.read(tmp_path)] == ["create"]


@KINDS
def test_records_that_are_no_files_are_as_none(tmp_path: Path, make: Make) -> None:
    for name in ("exit.json", "state.json", "supervise.json"):
        make(tmp_path / name)
    assert client.read_exit(tmp_path) is None and client.read_state(tmp_path) is None
    assert client.grace(cast(Any, SimpleNamespace(bundle=str(tmp_path)))) == 10.0
    with pytest.raises((OSError, ValueError)):
        documents.read(str(tmp_path), "supervise.json")


@KINDS
def test_a_config_that_is_no_file_is_said(tmp_path: Path, make: Make) -> None:
    paths, record = Paths(tmp_path / "root", tmp_path / "run"), cast(Any, SimpleNamespace(id="a", name="web"))
    paths.container("a").mkdir(parents=True)
    make(paths.container("a") / "config.json")
    with pytest.raises(Fault, match=r"cannot read config\.json of web: it is not a regular file"):
        attend.read_config(paths, record)
    os.rename(paths.container("a"), tmp_path / "away")
    paths.container("a").mkdir()
    (paths.container("a") / "config.json").write_bytes(b"\0" * 100)
    with pytest.raises(Fault, match=r"cannot read config\.json of web: it is not what was written"):
        attend.read_config(paths, record)
