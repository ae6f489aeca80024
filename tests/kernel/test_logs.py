"""The log from pipe to reader, on a real file system; needs no root but for the full disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import logs
from runtime.shim.logs import LogWriter, file_numbers
from runtime.shim.messages import FLAG_DROPPED, FLAG_ENDED, INDEX_RECORD, STDERR, STDOUT
from tests.kernel.shim_box import until


class Source:
    """A pipe into a writer."""

    def __init__(self, directory: Path, max_size: int = 1 << 20, max_files: int = 3) -> None:
        self.directory = directory
        self.writer = LogWriter(str(directory), max_size, max_files)
        self.reader_fd, self.writer_fd = os.pipe()
        os.set_blocking(self.reader_fd, False)

    def say(self, data: bytes, stream: int = STDOUT) -> None:
        os.write(self.writer_fd, data)
        assert self.writer.splice(self.reader_fd, stream)

    def close(self) -> None:
        self.writer.close()
        os.close(self.reader_fd)
        os.close(self.writer_fd)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    made = Source(tmp_path / "log", max_size=4096)
    yield made
    made.close()


def lines(source: Source, **options: object) -> list[bytes]:
    return [data for _, _, data in logs.read(source.directory, **options)]  # type: ignore[arg-type]


def flags(directory: Path) -> list[int]:
    found = []
    for number in file_numbers(directory):
        found += [
            record[3] for record in INDEX_RECORD.iter_unpack((directory / f"{number}.idx").read_bytes())
        ]
    return found


def test_lines_come_back_with_time_and_stream(source: Source) -> None:
    before = time.time_ns()
    source.say(b"one\ntw")
    source.say(b"error\n", STDERR)
    source.say(b"o\nrest")
    entries = list(logs.read(source.directory))
    assert [(stream, data) for _, stream, data in entries] == [
        (1, b"one\n"), (2, b"error\n"), (1, b"two\n"), (1, b"rest"),
    ]  # fmt: skip
    assert all(before <= moment <= time.time_ns() for moment, _, _ in entries)
    assert lines(source, streams=(STDERR,)) == [b"error\n"]
    assert lines(source, raw=True) == [b"one\ntw", b"error\n", b"o\nrest"]


def test_a_long_line_is_whole_and_a_very_long_one_comes_in_pieces(tmp_path: Path) -> None:
    source = Source(tmp_path / "log", max_size=1 << 23)
    for _ in range(5):
        source.say(b"x" * 40_000)
    source.say(b"\nshort\n")
    for _ in range(60):
        source.say(b"y" * 60_000)
    source.say(b"\n")
    source.close()
    found = lines(source)
    assert found[:2] == [b"x" * 200_000 + b"\n", b"short\n"]
    assert b"".join(found[2:]) == b"y" * 3_600_000 + b"\n"
    assert [len(piece) // logs.MAX_LINE for piece in found[2:]] == [1, 1, 1, 0]


def test_since_until_and_tail_choose(source: Source) -> None:
    for number in range(5):
        source.say(b"%d\n" % number)
    moments = [moment for moment, _, _ in logs.read(source.directory)]
    assert lines(source, since=moments[3] + 1) == [b"4\n"]
    assert lines(source, tail=2) == [b"3\n", b"4\n"]
    assert lines(source, tail=0) == []
    assert lines(source, tail=99) == [b"0\n", b"1\n", b"2\n", b"3\n", b"4\n"]
    assert lines(source, until=0) == []


def test_since_and_until_take_the_line_whose_time_they_are(source: Source) -> None:
    for number in range(3):
        source.say(b"%d\n" % number)
    moments = [moment for moment, _, _ in logs.read(source.directory)]
    assert lines(source, until=moments[1]) == [b"0\n", b"1\n"]
    assert lines(source, until=moments[1] - 1) == [b"0\n"]
    assert lines(source, since=moments[1]) == [b"1\n", b"2\n"]
    assert lines(source, since=moments[1], until=moments[1]) == [b"1\n"]
    assert lines(source, since=moments[1], until=moments[1], follow=True) == [b"1\n"]


def test_since_begins_with_a_whole_line(source: Source) -> None:
    source.say(b"before\nbeg")
    source.say(b"error ", STDERR)
    source.say(b"un ")
    middle = time.time_ns()
    source.say(b"here\nafter\n")
    source.say(b"here\nlast\n", STDERR)
    assert lines(source, since=middle) == [b"after\n", b"last\n"]
    assert lines(source, since=middle, raw=True) == [b"here\nafter\n", b"here\nlast\n"]
    assert lines(source, since=1, until=middle) == [b"before\n", b"begun here\n", b"error here\n"]


def test_since_does_not_read_what_a_silent_stream_leaves_before_it(source: Source) -> None:
    source.say(b"error\n", STDERR)
    for number in range(1000):
        source.say(b"%d\n" % number)
    reader = logs._Reader(source.directory, (STDOUT, STDERR))
    reader.seek_time(time.time_ns(), raw=False)
    assert list(reader.entries()) == []


def test_the_last_words_of_a_run_are_a_line_of_their_own(source: Source) -> None:
    source.say(b"one\nboom")
    source.say(b"bang", STDERR)
    between = time.time_ns()
    source.writer.run_ended()
    source.writer.run_ended()
    records = (source.directory / "0.idx").stat().st_size // INDEX_RECORD.size
    source.say(b"two\n")
    source.say(b"err\n", STDERR)
    assert records == 3
    assert lines(source) == [b"one\n", b"boom", b"bang", b"two\n", b"err\n"]
    assert lines(source, since=between) == [b"two\n", b"err\n"]
    assert lines(source, streams=(STDERR,)) == [b"bang", b"err\n"]
    assert lines(source, tail=3) == [b"bang", b"two\n", b"err\n"]
    assert b"".join(lines(source, raw=True)) == b"one\nboombangtwo\nerr\n"


def test_runs_are_apart_where_a_file_was_full_and_where_a_shim_was_killed(source: Source) -> None:
    source.say(b"x" * 4096)  # which begins another file
    source.writer.run_ended()
    source.say(b"boom")
    source.writer.close()
    source.writer = LogWriter(str(source.directory), 4096, 3)
    source.writer.run_ended()
    source.say(b"next\n")
    source.writer.close()
    source.writer = LogWriter(str(source.directory), 4096, 3)
    source.writer.run_ended()
    source.writer.close()
    source.writer = LogWriter(str(source.directory), 4096, 3)  # the last record, which has no bytes, stays
    source.say(b"last\n")
    assert lines(source) == [b"x" * 4096, b"boom", b"next\n", b"last\n"]
    assert flags(source.directory).count(FLAG_ENDED) == 3


def test_a_run_without_output_leaves_no_files(source: Source) -> None:
    source.writer.run_ended()
    assert not source.directory.exists()


def test_a_follower_hears_the_last_words_when_the_run_ends(source: Source) -> None:
    found: list[bytes] = []

    def follow() -> None:
        found.extend(data for _, _, data in logs.read(source.directory, follow=True))

    reader = threading.Thread(target=follow)
    reader.start()
    source.say(b"boom")
    source.writer.run_ended()
    until(lambda: found == [b"boom"])
    (source.directory.parent / "exit.json").write_text("{}")
    reader.join(10)


def test_files_are_rotated_and_the_oldest_deleted(source: Source) -> None:
    for number in range(2000):
        source.say(b"line %07d\n" % number)
    numbers = file_numbers(source.directory)
    assert len(numbers) == 3
    assert all((source.directory / f"{number}.log").stat().st_size <= 4096 for number in numbers)
    kept = lines(source)
    assert kept[-1] == b"line 0001999\n"
    assert kept[1:] == [b"line %07d\n" % number for number in range(2001 - len(kept), 2000)]
    assert lines(source, tail=300) == [b"line %07d\n" % number for number in range(1700, 2000)]
    assert sorted(path.name for path in source.directory.iterdir()) == sorted(
        f"{number}.{kind}" for number in numbers for kind in ("log", "idx")
    )


def test_a_program_that_writes_byte_by_byte_fills_no_disk_with_its_index(source: Source) -> None:
    for number in range(2000):
        source.say(b"%d" % (number % 10))
    sizes = [path.stat().st_size for path in source.directory.iterdir()]
    assert len(sizes) == 6
    assert max(sizes) < 4096 + INDEX_RECORD.size
    source.close()
    again = Source(source.directory, 4096)  # which finds how full the index is
    for number in range(2000, 2300):
        again.say(b"%d" % (number % 10))
    assert max(path.stat().st_size for path in source.directory.iterdir()) < 4096 + INDEX_RECORD.size
    kept = b"".join(lines(source, raw=True))
    assert len(kept) >= 2 * 170
    assert (b"0123456789" * 400).endswith(kept)
    source.reader_fd, source.writer_fd, source.writer = again.reader_fd, again.writer_fd, again.writer


def test_a_long_line_that_came_byte_by_byte_is_read_at_once(tmp_path: Path) -> None:
    """Dots of progress: each of them must not cost as much as the line is long by then."""
    count = 300_000
    (tmp_path / "0.log").write_bytes(b"." * count + b"\n")
    records = [INDEX_RECORD.pack(offset, 1, STDOUT, 0, 0, offset) for offset in range(count + 1)]
    (tmp_path / "0.idx").write_bytes(b"".join(records))
    began = time.monotonic()
    assert [data for _, _, data in logs.read(tmp_path)] == [b"." * count + b"\n"]
    assert time.monotonic() - began < 7.0


def test_a_follower_reads_on_across_rotation_and_ends_with_the_container(source: Source) -> None:
    found: list[bytes] = []
    source.writer.limit(4096, 100)
    source.say(b"first\n")

    def follow() -> None:
        found.extend(data for _, _, data in logs.read(source.directory, follow=True))

    reader = threading.Thread(target=follow)
    reader.start()
    until(lambda: found == [b"first\n"])
    for number in range(1000):
        source.say(b"line %07d\n" % number)
        if number % 100 == 0:
            until(lambda number=number: found[-1] == b"line %07d\n" % number)
    source.say(b"last")
    (source.directory.parent / "exit.json").write_text("{}")
    reader.join(10)
    assert not reader.is_alive()
    assert found[-1] == b"last"
    assert found[:-1] == [b"first\n"] + [b"line %07d\n" % number for number in range(1000)]


def test_a_follower_waits_for_a_log_that_is_not_there_yet(tmp_path: Path) -> None:
    found: list[bytes] = []
    home = tmp_path / "home"
    home.mkdir()

    def follow() -> None:
        found.extend(data for _, _, data in logs.read(home / "log", follow=True))

    reader = threading.Thread(target=follow)
    reader.start()
    source = Source(home / "log")
    source.say(b"hello\n")
    (home / "exit.json").write_text("{}")
    reader.join(10)
    source.close()
    assert found == [b"hello\n"]


def test_bytes_that_a_killed_shim_left_without_a_record_are_found(source: Source) -> None:
    source.say(b"one\n")
    with open(source.directory / "0.log", "ab") as file:
        file.write(b"two\n")
    with open(source.directory / "0.idx", "ab") as file:
        file.write(b"half")
    again = Source(source.directory, 4096)
    again.say(b"three\n")
    again.close()
    assert lines(source) == [b"one\n", b"two\n", b"three\n"]


def test_a_terminals_bytes_are_rotated_too(source: Source) -> None:
    source.writer.write(b"x" * 10000, STDOUT)
    assert b"".join(lines(source)) == b"x" * 10000
    assert len(file_numbers(source.directory)) == 3


def test_limits_can_be_lowered(source: Source) -> None:
    source.say(b"x" * 4000)
    source.writer.limit(4096, 1)
    source.say(b"y" * 500)
    source.say(b"z\n")
    assert len(file_numbers(source.directory)) == 1


@pytest.mark.parametrize("endings", [("log",), ("idx",), ("log", "idx")], ids="+".join)
@pytest.mark.parametrize("how", ["cut", "deleted", "deleted with its directory"])
def test_what_comes_after_somebody_emptied_the_files_is_kept_and_followed(
    source: Source, how: str, endings: tuple[str, ...]
) -> None:
    found: list[bytes] = []

    def follow() -> None:
        found.extend(data for _, _, data in logs.read(source.directory, follow=True))

    before = [b"old %d\n" % number for number in range(50)]
    for line in before:
        source.say(line)
    reader = threading.Thread(target=follow)
    reader.start()
    until(lambda: found == before)
    for ending in endings:
        if how == "cut":
            os.truncate(source.directory / f"0.{ending}", 0)
        else:
            (source.directory / f"0.{ending}").unlink()
    if how == "deleted with its directory":
        shutil.rmtree(source.directory)
    after = [b"new %d\n" % number for number in range(5)]
    for line in after:
        source.say(line)
    until(lambda: found == before + after)
    (source.directory.parent / "exit.json").write_text("{}")
    reader.join(10)
    assert lines(source) == after


def test_the_end_of_the_pipe_is_told(tmp_path: Path) -> None:
    source = Source(tmp_path / "log")
    os.close(source.writer_fd)
    assert source.writer.splice(source.reader_fd, STDOUT) is False
    source.writer_fd = os.open(os.devnull, os.O_RDONLY)
    source.close()


def test_times_are_utc_with_nanoseconds() -> None:
    assert logs.format_time(1_700_000_000_000_000_001) == "2023-11-14T22:13:20.000000001Z"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
def test_a_full_disk_loses_output_and_never_blocks_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.shim.logs.RETRY", 0.0)
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], check=True)
    try:
        (disk / "filler").write_bytes(b"x" * 128 * 1024)
        source = Source(disk / "log", max_size=10 << 20)
        for _ in range(20):
            source.say(b"x" * 60000)
        assert source.writer.dropped > 20 * 60000 - 256 * 1024
        (disk / "filler").unlink()
        source.say(b"\nagain\n")
        assert lines(source)[-1] == b"again\n"
        assert flags(disk / "log")[-1] & FLAG_DROPPED
    finally:
        source.close()
        subprocess.run(["umount", disk], check=True)


def test_what_a_power_cut_left_of_a_log_is_cut_to_what_was_written(source: Source) -> None:
    """Files had grown already, and their last blocks had not been written: they read as zeros."""
    source.say(b"one\n")
    source.say(b"two\n")
    source.writer.close()
    log, index = source.directory / "0.log", source.directory / "0.idx"
    record = INDEX_RECORD.pack(8, 4, STDOUT, 0, 0, time.time_ns())
    index.write_bytes(index.read_bytes() + record + bytes(9 * INDEX_RECORD.size))
    log.write_bytes(log.read_bytes() + bytes(100_000))
    os.utime(log, (1, 1))  # long before this boot

    source.writer = LogWriter(str(source.directory), 1 << 20, 3)
    source.say(b"three\n")
    assert lines(source) == [b"one\n", b"two\n", b"three\n"]
    assert log.read_bytes() == b"one\ntwo\nthree\n"


def test_zeros_that_a_program_wrote_itself_stay(source: Source) -> None:
    source.say(b"one\0\0\n\0\0")
    source.writer.close()
    source.writer = LogWriter(str(source.directory), 4096, 3)
    source.say(b"two\n")
    assert b"".join(lines(source)) == b"one\0\0\n\0\0two\n"
