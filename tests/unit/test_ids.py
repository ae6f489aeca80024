"""Which ids of the host a container with ids of its own gets."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.database import Database
from runtime.faults import Fault
from runtime.ids import IDS_SCHEMA, IdRange, Ids, first_free, read_spans


@pytest.mark.parametrize(
    ("text", "owners", "expected"),
    [
        ("stead:100000:65536\nroot:1:5\n", ("stead", "root"), [(100000, 165536)]),
        ("root:100:5\nroot:10:5\n", ("stead", "root"), [(10, 15), (100, 105)]),
        ("other:1:5\n", ("stead",), []),
        ("stead:0:65536\nstead:5:0\nstead:x:1\nstead:-1:5\nstead:5\n", ("stead",), []),
        ("stead:4294967000:65536\n# stead:1:2\n", ("stead",), []),
        (f"stead:{'9' * 5000}:1\nstead:²:5\n stead:7:3 ", ("stead",), [(7, 10)]),
    ],
)
def test_ranges_are_read_as_subuid_has_them(
    text: str, owners: tuple[str, ...], expected: list[object]
) -> None:
    assert read_spans(text, owners) == expected


spans = st.lists(
    st.tuples(st.integers(1, 60), st.integers(1, 30)).map(lambda s: (s[0], s[0] + s[1])), max_size=4
)


@given(spans, spans, spans, st.integers(1, 12))
def test_a_range_is_within_both_files_and_nobodys(
    uids: list[tuple[int, int]], gids: list[tuple[int, int]], taken: list[tuple[int, int]], size: int
) -> None:
    def fits(first: int) -> bool:
        inside = all(any(a <= first and first + size <= b for a, b in sorted(f)) for f in (uids, gids))
        return inside and not any(first < b and a < first + size for a, b in taken)

    found = first_free(uids, gids, taken, size)
    assert found == next((first for first in range(1, 100) if fits(first)), None)


@pytest.fixture
def ids(tmp_path: Path) -> Iterator[Ids]:
    (tmp_path / "subid").write_text("stead:1000:300\n")
    database = Database(tmp_path / "db", (IDS_SCHEMA,))
    yield Ids(database, "", tmp_path / "subid", tmp_path / "subid")
    database.close()


def release(ids: Ids, id: str) -> None:
    with ids._database.write() as connection:
        assert isinstance(connection, sqlite3.Connection)
        ids.release(connection, id)


def test_a_range_is_kept_until_its_container_goes(ids: Ids) -> None:
    assert ids.give("a", "p/a", 100) == ids.give("a", "p/a", 100) == IdRange(1000, 100)
    assert ids.give("b", "p/b", 100) == IdRange(1100, 100)
    assert ids.give("a", "p/a", 50) == IdRange(1000, 50)  # asked for another size
    assert ids.give("c", "p/c", 90) == IdRange(1200, 90)
    with pytest.raises(Fault, match="have no 100 free ids of stead or root"):
        ids.give("d", "p/d", 100)
    release(ids, "b")
    assert ids.give("d", "p/d", 100) == IdRange(1050, 100)
    assert ids.get("b") is None
    assert ids.get("d") == IdRange(1050, 100)
