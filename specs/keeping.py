"""Values: what a person writes of how long a volume and its backups are kept."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Tag

from specs import shapes
from specs.desired import DesiredBackup
from specs.policies import WHICH, Model
from specs.schedule import Schedule
from specs.shapes import Mistake, one_of, whole
from specs.values import EVERYTHING, Keep

NEVER = float("inf")


def _prune(value: Any) -> float:
    """Seconds: at once, never, or as long as that."""
    if value in (True, "true"):
        return 0.0
    if value in (False, "false", "never"):
        return NEVER
    return shapes.positive_duration(value)


_PRUNE_SCHEMA = {
    "anyOf": [
        {"type": "boolean"},
        {"enum": ["never"]},
        {"type": "string", "pattern": r"^([0-9.]+(us|µs|ms|s|m|h|d|w))+$"},
        shapes.VARIABLE,
    ]
}
Prune = Annotated[float, *shapes.shape(_prune, _PRUNE_SCHEMA, "how long after nothing declares it any more")]


def _schedule(value: Any) -> Schedule:
    try:
        return Schedule.parse(shapes.text(value))
    except Mistake:
        raise
    except ValueError as error:
        text, _, hint = str(error).partition("; ")
        raise Mistake(text, hint) from None


When = Annotated[Schedule, *shapes.shape(_schedule, {"type": "string"}, "0 3 * * *, @daily, @every 6h")]
Directory = Annotated[str, *shapes.shape(shapes.absolute, {"type": "string", "pattern": r"^/|\$"})]


class Retention(Model):
    """Which backups stay: of each kind the newest so many."""

    last: Annotated[int, *whole(1, 100_000)] | None = None
    hourly: Annotated[int, *whole(1, 100_000)] | None = None
    daily: Annotated[int, *whole(1, 100_000)] | None = None
    weekly: Annotated[int, *whole(1, 100_000)] | None = None
    monthly: Annotated[int, *whole(1, 100_000)] | None = None
    yearly: Annotated[int, *whole(1, 100_000)] | None = None


_Count = Annotated[int, *whole(1, 100_000)]
KeepItem = Annotated[Annotated[_Count, Tag("@short")] | Annotated[Retention, Tag("@long")], WHICH]


class Backup(Model):
    """When a volume is backed up, where to, and what of it stays."""

    schedule: When
    to: Directory
    keep: KeepItem | None = None
    quiesce: Annotated[str, *one_of("freeze", "stop", "none")] | None = None
    drill: When | None = None


def desired_backup(model: Backup | None) -> DesiredBackup | None:
    if model is None:
        return None
    keep = EVERYTHING
    if isinstance(model.keep, Retention):
        keep = Keep(**{name: value or 0 for name, value in model.keep})
    elif model.keep is not None:
        keep = Keep(last=model.keep)
    return DesiredBackup(model.schedule, model.to, keep, model.quiesce or "freeze", model.drill)
