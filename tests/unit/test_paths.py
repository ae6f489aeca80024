"""A file is replaced in one step, whoever writes it at the same time."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.filters import filter_file
from runtime.images.sinks import written, written_folder
from runtime.linux import seccomp_compile
from runtime.paths import beside, remove_temporaries, write_atomically

THREADS = 8


def at_once(call: Callable[[int], object]) -> None:
    """By so many threads, each with its number; what one of them raises is raised."""
    barrier = threading.Barrier(THREADS)
    raised: list[BaseException] = []

    def work(number: int) -> None:
        barrier.wait(10)
        try:
            call(number)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    if raised:
        raise raised[0]


def test_threads_that_write_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([number]) * 50_000 for number in range(THREADS)]

    def write(number: int) -> None:
        for _ in range(20):
            write_atomically(path, contents[number], durable=False)
            assert path.read_bytes() in contents

    at_once(write)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_threads_that_need_the_same_new_filter_all_get_it(tmp_path: Path) -> None:
    """As stages of a build do that begin side by side."""
    try:
        wanted = seccomp_compile.compile_default(["CAP_KILL"])
    except OSError as error:
        pytest.skip(str(error))
    for turn in range(5):
        run = tmp_path / str(turn)
        run.mkdir()
        at_once(lambda _, run=run: filter_file(run, ["CAP_KILL"]))
        (file,) = (run / "seccomp").iterdir()
        assert file.read_bytes() == wanted


def test_a_newer_release_with_another_list_does_not_use_the_filter_of_an_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        first = filter_file(tmp_path, ["CAP_KILL"])
    except OSError as error:
        pytest.skip(str(error))
    document = json.loads(Path(seccomp_compile.DEFAULT).read_bytes())
    document["rules"].append({"names": ["keyctl"]})
    newer = tmp_path / "seccomp.json"
    newer.write_text(json.dumps(document))
    monkeypatch.setattr(seccomp_compile, "DEFAULT", str(newer))
    second = filter_file(tmp_path, ["CAP_KILL"])
    assert second != first
    assert second.read_bytes() != first.read_bytes()


def test_threads_that_write_one_archive_do_not_disturb_each_other(tmp_path: Path) -> None:
    barrier = threading.Barrier(THREADS)

    def write(number: int) -> None:
        with written(tmp_path / "file") as file:
            file.write(bytes([number]) * 10_000)
            barrier.wait(10)

    at_once(write)
    (path,) = tmp_path.iterdir()
    assert path.read_bytes() in [bytes([number]) * 10_000 for number in range(THREADS)]


def test_what_a_crash_left_under_the_temporary_name_is_in_nobodys_way(tmp_path: Path) -> None:
    left = tmp_path / f".it.{threading.get_native_id()}.tmp"
    left.write_bytes(b"half")
    with written(tmp_path / "it") as file:
        file.write(b"whole")
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("it", b"whole")]
    (tmp_path / "it").unlink()
    left.mkdir()
    (left / "half").write_bytes(b"half")
    with written_folder(tmp_path / "it") as folder:
        (folder / "whole").write_bytes(b"whole")
    assert [entry.name for entry in tmp_path.iterdir()] == ["it"]
    assert [entry.name for entry in (tmp_path / "it").iterdir()] == ["whole"]


def test_temporaries_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    living = beside(tmp_path / "firewall.json")
    others = [tmp_path / name for name in (".firewall.json.tmp", "a.4999999.tmp", ".b.4999999.json")]
    for path in (living, *others, tmp_path / ".firewall.json.4999999.tmp"):
        path.touch()
    remove_temporaries(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([living, *others])
