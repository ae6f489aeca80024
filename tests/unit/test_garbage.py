"""Which images go by themselves: times, marks and needs in, a list with reasons out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.images.garbage import SPARE, Disk, Limits, choose
from runtime.images.listing import LayerSizes, Listed

DAY = 86400.0
NOW = 1000 * DAY
ROOMY = Disk(1000, 900)


def image(id: str, *, idle: float = 0.0, tag: bool = True, layers: str = "", **more: Any) -> Listed:
    """Last used `idle` days ago."""
    return Listed(
        id,
        tags=(f"host/{id}:1",) if tag else (),
        used=NOW - idle * DAY,
        chain=tuple(layers or id),
        **more,
    )


def sizes(**layers: int) -> dict[str, LayerSizes]:
    return {name: LayerSizes(size) for name, size in layers.items()}


def chosen(
    *images: Listed,
    layers: Mapping[str, LayerSizes] | None = None,
    keep: Collection[str] = (),
    disk: Disk = ROOMY,
    limits: Limits | None = None,
) -> list[str]:
    known = layers if layers is not None else {c: LayerSizes(10) for item in images for c in item.chain}
    return [item.image for item in choose(images, known, keep, NOW, disk, limits or Limits())]


def test_what_has_no_tag_and_no_use_goes_after_a_while() -> None:
    assert chosen(image("a", idle=8, tag=False), image("b", idle=6, tag=False), image("c", idle=800)) == ["a"]


def test_the_reason_says_how_long_and_what_it_frees() -> None:
    old = image("a", idle=8, tag=False, digests=("host/a@sha256:1",))
    (removed,) = choose([old], sizes(a=7), (), NOW, ROOMY, Limits())
    assert (removed.reason, removed.size) == ("no name and not used for 8.0 days", 7)
    assert removed.names == ("host/a@sha256:1",)


def test_tagged_images_go_by_age_only_when_the_caller_says_so() -> None:
    images = (image("a", idle=40), image("b", idle=20))
    assert chosen(*images) == []
    assert chosen(*images, limits=Limits(unused_for=30 * DAY)) == ["a"]


def test_nothing_that_is_needed_goes_however_old_it_is_and_however_full_the_disk() -> None:
    full = Disk(1000, 10)
    assert chosen(
        image("a", idle=99, tag=False, containers=("shop/web",)),
        image("b", idle=99, tag=False),
        image("c", idle=99, tag=False, children=("d",)),
        image("d", idle=99, tag=False, containers=("x/y",)),
        image("e", idle=99),
        image("f", idle=0.0),
        keep={"b"},
        disk=full,
    ) == ["e"]


def test_a_full_disk_is_emptied_to_the_low_mark_least_recently_used_first() -> None:
    images = [image("a", idle=1), image("b", idle=3), image("c", idle=2), image("d", idle=0.5, tag=False)]
    layers = sizes(a=40, b=40, c=40, d=40)
    assert chosen(*images, layers=layers, disk=Disk(1000, 150)) == ["d", "b"]
    assert chosen(*images, layers=layers, disk=Disk(1000, 151)) == []
    assert chosen(*images, layers=layers, disk=Disk(1000, 100)) == ["d", "b", "c"]


def test_layers_that_stay_free_nothing() -> None:
    """Shared ones are counted with the last image that goes, those of the build cache not at all."""
    images = [image("a", idle=9, tag=False, layers="xa"), image("b", idle=8, tag=False, layers="xb")]
    layers = {**sizes(x=100, a=1), "b": LayerSizes(2, 3, pinned=True)}
    removed = choose(images, layers, (), NOW, ROOMY, Limits())
    assert [(item.image, item.size) for item in removed] == [("a", 1), ("b", 100)]


def test_an_image_goes_after_those_made_from_it() -> None:
    parent = image("p", idle=30, tag=False, children=("c",))
    child = image("c", idle=10, tag=False, parent="p")
    assert chosen(parent, child) == ["c", "p"]
    assert chosen(parent, image("c", idle=1, tag=False, parent="p")) == []


def test_what_goes_by_age_counts_towards_the_low_mark() -> None:
    images = (image("a", idle=9, tag=False), image("b", idle=3))
    assert chosen(*images, layers=sizes(a=60, b=60), disk=Disk(1000, 100)) == ["a"]


times = st.integers(0, 20).map(float)


@given(
    st.lists(st.tuples(times, st.booleans(), st.booleans(), st.sampled_from("xyz")), max_size=8),
    st.sets(st.integers(0, 7)),
    st.integers(0, 1000),
)
def test_the_choice_never_takes_what_is_needed_and_never_more_than_it_must(
    rows: list[tuple[float, bool, bool, str]], kept: set[int], free: int
) -> None:
    images = [
        image(f"{n}", idle=idle, tag=tag, layers=f"{n}{shared}", containers=("c/1",) if used else ())
        for n, (idle, tag, used, shared) in enumerate(rows)
    ]
    layers = {chain_id: LayerSizes(50) for item in images for chain_id in item.chain}
    keep = {str(n) for n in kept}
    disk, limits = Disk(1000, free), Limits()
    removed = choose(images, layers, keep, NOW, disk, limits)
    by_id = {item.id: item for item in images}
    for item in removed:
        assert not by_id[item.image].containers and item.image not in keep
        assert NOW - by_id[item.image].used > SPARE
    gone = {item.image for item in removed}
    left = {chain_id for item in images if item.id not in gone for chain_id in item.chain}
    assert sum(item.size for item in removed) == 50 * len(set(layers) - left)
    for_room = [item for item in removed if item.reason.startswith("the disk")]
    if for_room:
        before = free + sum(item.size for item in removed) - for_room[-1].size
        assert 1 - before / 1000 > limits.low, "one less would have been enough"


@pytest.mark.parametrize(("disk", "used"), [(Disk(0, 0), 0.0), (Disk(10, 4), 0.6)])
def test_a_disk_says_how_full_it_is(disk: Disk, used: float) -> None:
    assert disk.used == pytest.approx(used)
