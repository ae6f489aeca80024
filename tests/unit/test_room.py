"""When images that nothing needs are collected, and how much of the disk that is to make free."""

from __future__ import annotations

import pytest

from agent.planner import collect
from agent.planner.model import CollectImages, Collecting, Memory, World
from runtime.images.garbage import Limits
from runtime.observations import Disk, Observed

POLICY = Collecting(3600.0, Limits(high=0.85, low=0.8))


def decided(now: float, free: int, lacking: int = 0) -> tuple[str, Limits] | None:
    """(why, with which limits) on a disk of 1000 bytes, the last collection being at 0."""
    observed = Observed(disk=Disk("/x", 1000, free))
    world = World({}, observed, Memory(collected=0.0), now=now, collecting=POLICY)
    steps = collect.decide(world, lacking).steps
    if not steps:
        return None
    assert isinstance(steps[0].action, CollectImages)
    return str(steps[0].cause), steps[0].action.limits


@pytest.mark.parametrize(
    ("now", "free", "lacking", "found"),
    [
        (3599.0, 500, 0, None),
        (3600.0, 500, 0, ("images that nothing needs are removed now and then", POLICY.limits)),
        (299.0, 100, 0, None),
        (300.0, 100, 0, ("90% of /x are used, 85% may be", POLICY.limits)),
        (300.0, 500, 100, ("50% of /x are used, a pull needs 100 B more", Limits(high=0.4, low=0.4))),
        (300.0, 500, 900, ("50% of /x are used, a pull needs 900 B more", Limits(high=0.0, low=0.0))),
        (300.0, 100, 20, ("90% of /x are used, a pull needs 20 B more", Limits(high=0.85, low=0.8))),
    ],
)
def test_collection_is_due_by_time_by_the_mark_or_for_a_pull(
    now: float, free: int, lacking: int, found: tuple[str, Limits] | None
) -> None:
    assert decided(now, free, lacking) == found


def test_the_next_collection_is_a_reason_to_wake() -> None:
    world = World({}, Observed(), Memory(collected=100.0), now=200.0, collecting=POLICY)
    assert collect.decide(world).next_look == 3700.0
