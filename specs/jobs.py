"""Values: what a person writes of a job: a container that runs to its end, at the times of a schedule.

Plain text is the schedule alone; the table has the rest. Compose has no such thing: the words are near those
of CronJob in Kubernetes (concurrencyPolicy, activeDeadlineSeconds, backoffLimit, limits of history).
"""

from __future__ import annotations

import zoneinfo
from typing import Annotated, Any

from pydantic import Tag

from specs import shapes
from specs.desired import DesiredJob
from specs.keeping import When
from specs.policies import WHICH, Model
from specs.schedule import Schedule
from specs.shapes import Mistake, SomeSeconds, one_of, whole


def _zone(value: Any) -> str:
    found = shapes.text(value)
    try:
        zoneinfo.ZoneInfo(found)
    except (ValueError, zoneinfo.ZoneInfoNotFoundError, OSError):
        raise Mistake(
            f"there is no time zone {found!r}", "write a name such as Europe/Berlin or UTC"
        ) from None
    return found


class Job(Model):
    """`cron` says when; everything else has a default."""

    cron: When
    time_zone: Annotated[str, *shapes.shape(_zone, {"type": "string"}, "Europe/Berlin, UTC")] | None = None
    concurrency_policy: Annotated[str, *one_of("skip", "queue", "replace")] | None = None
    deadline: SomeSeconds | None = None
    retries: Annotated[int, *whole(0, 1000)] | None = None
    retry_delay: SomeSeconds | None = None
    history: Annotated[int, *whole(1, 1000)] | None = None
    catch_up: Annotated[str, *one_of("once", "skip")] | None = None


JobItem = Annotated[Annotated[When, Tag("@short")] | Annotated[Job, Tag("@long")], WHICH]


def desired_job(item: Schedule | Job | None) -> DesiredJob | None:
    """ValueError when the time zone is said twice, or could change nothing."""
    if item is None:
        return None
    if isinstance(item, Schedule):
        return DesiredJob(item)
    default = DesiredJob(item.cron)
    return DesiredJob(
        _in_zone(item.cron, item.time_zone or ""),
        item.concurrency_policy or default.concurrency_policy,
        item.deadline or default.deadline,
        default.retries if item.retries is None else item.retries,
        item.retry_delay or default.retry_delay,
        item.history or default.history,
        item.catch_up or default.catch_up,
    )


def _in_zone(cron: Schedule, zone: str) -> Schedule:
    if not zone:
        return cron
    if cron.zone:
        raise ValueError(f"{str(cron)!r} says a time zone as well; leave one out")
    if cron.every:
        raise ValueError(f"{str(cron)!r} counts from the time before, in every time zone; leave it out")
    return Schedule.parse(f"CRON_TZ={zone} {cron}")
