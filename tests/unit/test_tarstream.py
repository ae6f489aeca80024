"""The tar reader: numbers, extended headers, and archives that are wrong."""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from runtime.images.tarstream import DIRECTORY, FILE, Entry, Pieces, Reader, Source, TarError, parse_pax
from runtime.images.unpack import Refused, clean

SIZES = (100, 512, 700, 100_000)  # bytes of a piece


@contextmanager
def opened(data: bytes) -> Iterator[Reader]:
    fd = os.memfd_create("tar")
    try:
        with open(os.dup(fd), "wb") as file:
            file.write(data)
        os.lseek(fd, 0, os.SEEK_SET)
        yield Reader(Source(fd))
    finally:
        os.close(fd)


def entries(data: bytes) -> list[Entry]:
    """From a descriptor; what pieces give, of whatever size, must be the same."""
    try:
        with opened(data) as reader:
            found = list(reader)
    except TarError as error:
        for size in SIZES:
            with pytest.raises(TarError, match=re.escape(str(error))):
                list(in_pieces(data, size))
        raise
    for size in SIZES:
        assert list(map(values, in_pieces(data, size))) == list(map(values, found))
    return found


def in_pieces(data: bytes, size: int) -> Reader:
    return Reader(Pieces(data[at : at + size] for at in range(0, len(data), size)))


def values(entry: Entry) -> list[object]:
    return [getattr(entry, name) for name in Entry.__slots__]


def archive(*infos: tarfile.TarInfo, form: int = tarfile.PAX_FORMAT, data: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as made:
        for info in infos:
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def info(name: str = "f", **more: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for key, value in more.items():
        setattr(made, key, value)
    return made


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_large_numbers_and_long_names_are_read(form: int) -> None:
    made = info("n" * 400, uid=4_000_000_000, gid=3_000_000, mtime=9_000_000_000, linkname="")
    (found,) = entries(archive(made, form=form))
    assert (found.name, found.uid, found.gid) == (b"n" * 400, 4_000_000_000, 3_000_000)
    assert found.mtime == 9_000_000_000 * 10**9


def test_a_time_may_have_fractions_and_lie_before_the_epoch() -> None:
    assert [item.mtime for item in entries(archive(info(mtime=1.25), info(mtime=-1.5)))] == [
        1_250_000_000,
        -1_500_000_000,
    ]


def test_a_name_that_ends_with_a_slash_is_a_directory_in_old_archives() -> None:
    (found,) = entries(archive(info("d/", type=tarfile.AREGTYPE), form=tarfile.USTAR_FORMAT))
    assert found.kind == DIRECTORY


def test_data_that_is_not_taken_is_skipped() -> None:
    found = entries(archive(info("a"), info("b"), data=b"x" * 2_500_000))
    assert [(item.name, item.kind, item.size) for item in found] == [
        (b"a", FILE, 2_500_000),
        (b"b", FILE, 2_500_000),
    ]


def test_global_records_apply_until_overridden() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", pax_headers={"uid": "7", "comment": "x"}) as made:
        made.addfile(info("a"))
    assert entries(buffer.getvalue())[0].uid == 7


def test_an_archive_without_an_end_mark_is_accepted_at_an_entrys_end() -> None:
    data = archive(info(), data=b"x" * 512)
    assert len(entries(data[:1024])) == 1


def test_an_archive_without_its_last_padding_is_accepted_when_all_data_came() -> None:
    """Debian's umoci writes such layers."""
    data = archive(info(), data=b"x" * 11)
    assert len(entries(data[: 512 + 11])) == 1
    with pytest.raises(TarError, match="cut off"):
        entries(data[: 512 + 10])


def damaged(data: bytes, position: int, value: bytes) -> bytes:
    return data[:position] + value + data[position + len(value) :]


GOOD = archive(info("a"), info("b"), data=b"x" * 600, form=tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"not a tar archive" * 100, "number belongs"),
        (damaged(GOOD, 0, b"z"), "checksum is wrong"),
        (GOOD[:300], "cut off"),
        (GOOD[:700], "cut off"),
        (damaged(GOOD, 124, b"99999999999"), "checksum is wrong"),
        (damaged(GOOD, 148, b"999999"), "octal number"),
        (damaged(GOOD, 1536, bytes(512)), "follows its end mark"),
        (b"", ""),
    ],
)
def test_a_damaged_archive_is_refused(data: bytes, text: str) -> None:
    if not text:
        assert entries(data) == []
        return
    with pytest.raises(TarError, match=text):
        entries(data)


def test_a_gigantic_header_is_refused_before_it_is_read() -> None:
    data = archive(info(pax_headers={"comment": "x" * 2_000_000}))
    with pytest.raises(TarError, match="more than 1048576"):
        entries(data)


@pytest.mark.parametrize(
    "data", [b"x", b"5 a\n", b"99 a=b\n", b"6 a=b", b"4 =\n", b"-1 a=b\n", b"0 a=b\n", b"1" * 50]
)
def test_a_malformed_pax_record_is_refused(data: bytes) -> None:
    with pytest.raises(TarError, match="a pax record"):
        parse_pax(data)


def test_pax_values_may_hold_newlines_and_equals_signs() -> None:
    assert parse_pax(b"12 a=b=c\nd\n\n") == [(b"a", b"b=c\nd\n")]


@pytest.mark.parametrize(
    ("name", "path"),
    [(b"./", b""), (b"/", b""), (b"./a//b/.", b"a/b"), (b"/a/", b"a"), (b"...", b"..."), (b"a..b", b"a..b")],
)
def test_names_become_relative_paths(name: bytes, path: bytes) -> None:
    assert clean(name) == path


@pytest.mark.parametrize("name", [b"..", b"a/..", b"/../a", b"a/../b", b"a\0b", b"a" * 5000, b"a/" * 300])
def test_names_that_may_escape_are_refused(name: bytes) -> None:
    with pytest.raises(Refused):
        clean(name)
