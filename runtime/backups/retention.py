"""Decisions: which backups of a volume stay."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, tzinfo

from specs.values import EVERYTHING, Keep


def kept(times: Iterable[float], keep: Keep, zone: tzinfo = UTC) -> set[float]:
    """Of the times of backups (seconds since the epoch) those that stay; never none of some."""
    ordered = sorted(set(times), reverse=True)
    if keep == EVERYTHING:
        return set(ordered)
    found = set(ordered[: max(1, keep.last)])
    for count, period in (
        (keep.hourly, "%Y-%m-%d %H %z"),
        (keep.daily, "%Y-%m-%d"),
        (keep.weekly, "%G-%V"),
        (keep.monthly, "%Y-%m"),
        (keep.yearly, "%Y"),
    ):
        newest: dict[str, float] = {}
        for at in ordered:
            newest.setdefault(datetime.fromtimestamp(at, zone).strftime(period), at)
        found.update(list(newest.values())[:count])
    return found
