"""What goes by itself, on a real disk that fills up."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.images.garbage import Limits
from runtime.linux import mounts
from tests.kernel.engine_box import IMAGE, engine
from tests.kernel.images_box import Box, Layout, file, layer, ref, store

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

MiB = 1 << 20
HOUR = 3600.0


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """Its disk has 100 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounts.mount("tmpfs", disk, "tmpfs", data="size=100m")
    try:
        with store(disk / "box") as made:
            yield made
    finally:
        mounts.unmount(disk)


def bring(box: Box, tmp_path: Path, *names: str) -> dict[str, str]:
    """Images of 8 MiB each that do not shrink: 16 MiB with their archives. Their ids."""
    layout = Layout(tmp_path / f"layout-{names[0]}")
    found = {}
    for name in names:
        layout.image([layer(file("data", os.urandom(8 * MiB)))], tag=name)
        found[name] = box.store.import_path(layout.path, ref(f"app:{name}"))
    return found


def used(box: Box) -> float:
    status = os.statvfs(box.paths.root)
    return 1 - status.f_bavail / status.f_blocks


def left(box: Box) -> set[str]:
    return {image.id for image in box.store.list()}


def test_a_full_disk_is_emptied_to_the_low_mark_and_what_is_kept_stays(box: Box, tmp_path: Path) -> None:
    ids = bring(box, tmp_path, "a", "b", "c", "d", "e")
    assert used(box) > 0.8
    with box.database.write() as connection:  # b was used last, then c, d, e, a
        for age, name in enumerate("bcdea"):
            connection.execute(
                "UPDATE images SET added = 1, used = ? WHERE id = ?",
                (time.time() - HOUR * (age + 1), ids[name]),
            )
    limits = Limits(high=0.75, low=0.5)
    removed = box.store.collect({ids["a"]}, time.time(), limits)
    assert [item.image for item in removed] == [ids["e"], ids["d"]]
    assert used(box) <= 0.5 and left(box) == {ids["a"], ids["b"], ids["c"]}
    assert all(item.size >= 16 * MiB and "the disk was 8" in item.reason for item in removed)
    assert [item.names[0] for item in removed] == ["docker.io/library/app:e", "docker.io/library/app:d"]
    assert box.store.collect({ids["a"]}, time.time(), limits) == ()
    assert all(box.store.check(id) for id in left(box))


def test_what_came_a_moment_ago_stays_on_the_fullest_disk(box: Box, tmp_path: Path) -> None:
    bring(box, tmp_path, "a", "b")
    assert box.store.collect((), time.time(), Limits(high=0.01, low=0.0)) == ()
    assert len(box.store.collect((), time.time() + HOUR, Limits(high=0.01, low=0.0))) == 2
    assert os.listdir(box.paths.layers) == os.listdir(box.paths.blobs) == []


def test_nothing_goes_while_something_is_brought_or_built(box: Box, tmp_path: Path) -> None:
    bring(box, tmp_path, "a")
    later, everything = time.time() + HOUR, Limits(unused_for=1.0)
    with box.store.hold():
        assert box.store.collect((), later, everything) == ()
        assert len(left(box)) == 1
    assert len(box.store.collect((), later, everything)) == 1


def test_an_image_whose_name_moved_on_goes_after_its_time(box: Box, tmp_path: Path) -> None:
    first = bring(box, tmp_path, "a")["a"]
    second = bring(box, tmp_path, "b")["b"]
    box.store.tag(second, ref("app:a"))
    now, limits = time.time(), Limits(keep_for=24 * HOUR)
    assert box.store.collect((), now + 23 * HOUR, limits) == ()
    (removed,) = box.store.collect((), now + 25 * HOUR, limits)
    assert removed.image == first and removed.reason == "no name and not used for 1.0 days"
    assert left(box) == {second}


def test_the_life_of_a_container_counts_as_use(tmp_path: Path) -> None:
    with engine(tmp_path) as machine:
        images = machine.runtime.images
        image = images.list()[0].id

        def last_used() -> float:
            query = "SELECT used FROM images WHERE id = ?"
            return float(machine.runtime.database.read().execute(query, (image,)).fetchone()[0])

        before = last_used()
        name = machine.create("true")
        created = last_used()
        assert created > before
        later = time.time() + 1000 * HOUR
        assert images.collect((), later, Limits(high=0.0, low=0.0, unused_for=1.0)) == ()
        machine.runtime.remove_container(name)
        assert last_used() > created
        assert [item.names for item in images.collect((), later, Limits(unused_for=1.0))] == [(str(IMAGE),)]


def test_what_the_build_cache_needs_stays_on_the_disk(box: Box, tmp_path: Path) -> None:
    image = bring(box, tmp_path, "a")["a"]
    (chain_id,) = box.store.catalog.chain(image)
    with box.database.write() as connection:
        connection.execute("INSERT INTO layer_pins VALUES ('build/step', ?)", (chain_id,))
    (removed,) = box.store.collect((), time.time() + HOUR, Limits(unused_for=1.0))
    assert removed.size == 0 and box.store.layers.has(chain_id) and left(box) == set()
    with box.database.write() as connection:
        connection.execute("DELETE FROM layer_pins")
    box.store.sweep()
    assert not box.store.layers.has(chain_id)


def test_nobody_waits_for_the_files_of_a_layer_to_go(box: Box, tmp_path: Path, monkeypatch) -> None:
    """While they are deleted, the same image is brought again."""
    layout = Layout(tmp_path / "layout")
    layout.image([layer(file("data", "x" * 1000))], tag="a")
    box.store.import_path(layout.path, ref("app:a"))
    discard = box.store.layers.discard
    seen: list[str] = []

    def slowly(hidden: Path) -> None:
        with box.store.hold():
            seen.append(box.store.import_path(layout.path, ref("app:a")))
        discard(hidden)

    monkeypatch.setattr(box.store.layers, "discard", slowly)
    box.store.remove("app:a")
    assert seen and box.store.check(seen[0])
    assert (box.store.ensure_layers(seen[0])[0] / "data").read_text() == "x" * 1000
