"""Values and decisions: times that come again, as crontab(5) writes them: `0 3 * * *`, `@daily`, `@every 6h`.

Five fields: minute, hour, day of the month, month, day of the week; in each `*`, numbers, ranges `1-5`, lists
`1,3`, steps `*/15`, `10-50/20`, and English names of months and days (`jan`, `mon`; Sunday is 0 and 7). When
both days are restricted one of them is enough, as crontab(5) has it. A `CRON_TZ=Europe/Berlin` in front says
where the clock hangs; without one it is the machine's own. `@every` has no clock, and takes none.

When clocks change, as cron(8) of Debian does it: a time that does not exist on that day is due when the
clocks have jumped, and a time that comes twice is due at the first one. That is for times that are fixed;
where minute or hour begins with `*` the clock on the wall is followed: what it leaves out is left out, and
what it shows twice is due twice.

The only thing that is read besides the text is the machine's time zone database (zoneinfo).
"""

from __future__ import annotations

import zoneinfo
from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache

from specs.values import Duration

#: Years in which a day such as the 29th of February that is a Monday is looked for.
YEARS = 40
#: Seconds between two runs, at least.
MIN_INTERVAL = 1.0

_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
_DAYS = "sun mon tue wed thu fri sat".split()
#: name, lowest, highest, words for numbers from the lowest on
_FIELDS: tuple[tuple[str, int, int, list[str]], ...] = (
    ("minute", 0, 59, []),
    ("hour", 0, 23, []),
    ("day of the month", 1, 31, []),
    ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 7, _DAYS),
)
_NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_ZONE = ("CRON_TZ=", "TZ=")


@dataclass(frozen=True, slots=True)
class Schedule:
    """`every` seconds (0.0: by the clock), or the five fields. `str()` is what was written."""

    text: str
    every: float = 0.0
    minutes: frozenset[int] = frozenset()
    hours: frozenset[int] = frozenset()
    days: frozenset[int] = frozenset()
    months: frozenset[int] = frozenset()
    weekdays: frozenset[int] = frozenset()  # Monday is 0, as datetime has it
    either_day: bool = False  # both kinds of day are restricted
    fixed: bool = True  # neither minute nor hour begins with `*`
    zone: str = ""

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """ValueError says what cannot be read, and what could."""
        words = text.split()
        where = words.pop(0) if words and words[0].startswith(_ZONE) else ""
        zone = where.partition("=")[2]
        if where:
            _find_zone(zone, text)
        if words and words[0].lower() == "@every":
            if where:
                cause = "@every counts from the time before, in every time zone"
                raise ValueError(f"cannot use schedule {text!r}: {cause}; leave {where} out")
            return cls(text, every=_interval(text, words[1:]))
        if len(words) == 1 and words[0].startswith("@"):
            words = _nickname(text, words[0]).split()
        if len(words) != len(_FIELDS):
            count = f"{len(words)} field{'' if len(words) == 1 else 's'}"
            hint = "write minute, hour, day, month and day of the week, such as 0 3 * * *, or @daily"
            raise ValueError(f"cannot read schedule {text!r}: it has {count}, not 5; {hint}")
        sets = [_field(text, word, *field) for word, field in zip(words, _FIELDS, strict=True)]
        minutes, hours, days, months, weekdays = sets
        found = cls(
            text,
            minutes=minutes,
            hours=hours,
            days=days,
            months=months,
            weekdays=frozenset((day - 1) % 7 for day in weekdays),
            either_day=not words[2].startswith("*") and not words[4].startswith("*"),
            fixed=not words[0].startswith("*") and not words[1].startswith("*"),
            zone=zone,
        )
        if not found.either_day and not any(min(days) <= monthrange(2024, month)[1] for month in months):
            raise ValueError(f"cannot use schedule {text!r}: no month of it has such a day")
        return found

    def __str__(self) -> str:
        return self.text

    def next(self, after: float, local: tzinfo = UTC) -> float:
        """The first time later than `after`, both in seconds since the epoch. `local` is the machine's zone.

        Raises ValueError when there is none within 40 years.
        """
        if self.every:
            return after + self.every
        found = _next(self, after, zoneinfo.ZoneInfo(self.zone) if self.zone else local)
        if found is None:
            raise ValueError(f"schedule {self.text!r} has no time in the next {YEARS} years")
        return found

    # ------------------------------------------------------------ by the clock

    def find(self, after: float, zone: tzinfo) -> float | None:
        """As `next`, by the clock of `zone`."""
        return self._fixed(after, zone) if self.fixed else self._followed(after, zone)

    def _fixed(self, after: float, zone: tzinfo) -> float | None:
        """Times on paper, each of them once: what does not exist is moved to the jump, and `fold` 0 is the
        first of two (PEP 495)."""
        begin = datetime.fromtimestamp(after, zone).replace(tzinfo=None, second=0, microsecond=0)
        day, last = begin.date(), begin.year + YEARS
        while day.year <= last:
            if self._on(datetime(day.year, day.month, day.day)):
                for hour in sorted(self.hours):
                    for minute in sorted(self.minutes):
                        at = _instant(datetime(day.year, day.month, day.day, hour, minute), zone)
                        if at > after:
                            return at
            day += timedelta(days=1)
        return None

    def _followed(self, after: float, zone: tzinfo) -> float | None:
        """Minute by minute as they pass, in larger steps where nothing can be due."""
        at = float(int(after) // 60 * 60 + 60)
        last = after + YEARS * 366 * 86_400
        while at <= last:
            now = datetime.fromtimestamp(at, zone)
            if now.second:  # a zone of before 1900
                at += 60 - now.second
            elif not self._on(now) and now.hour < 22:  # not over a jump at midnight
                at += 3600 * (22 - now.hour) - 60 * now.minute
            elif not self._on(now) or now.hour not in self.hours:
                at += 60 * min(15 - now.minute % 15, 60 - now.minute)
            elif now.minute not in self.minutes:
                at += 60
            else:
                return at
        return None

    def _on(self, day: datetime) -> bool:
        if day.month not in self.months:
            return False
        by_month, by_week = day.day in self.days, day.weekday() in self.weekdays
        return by_month or by_week if self.either_day else by_month and by_week


@lru_cache(maxsize=512)
def _next(schedule: Schedule, after: float, zone: tzinfo) -> float | None:
    """The same question comes with every plan, and an answer may be years away."""
    return schedule.find(after, zone)


def _instant(naive: datetime, zone: tzinfo) -> float:
    """The moment at which the clock shows `naive` first; of a time that is jumped over, the jump."""
    at = naive.replace(tzinfo=zone)
    found = at.timestamp()
    if datetime.fromtimestamp(found, zone).replace(tzinfo=None, fold=0) == naive:
        return found
    early, late = sorted((found, at.replace(fold=1).timestamp()))  # before and after the jump
    while late - early > 1:
        middle = (early + late) // 2
        if datetime.fromtimestamp(middle, zone).replace(tzinfo=None) < naive:
            early = middle
        else:
            late = middle
    return late


def _find_zone(zone: str, text: str) -> None:
    try:
        zoneinfo.ZoneInfo(zone)
    except (ValueError, zoneinfo.ZoneInfoNotFoundError, OSError):
        hint = "write a name such as Europe/Berlin or UTC"
        raise ValueError(f"cannot read schedule {text!r}: there is no time zone {zone!r}; {hint}") from None


def _interval(text: str, words: list[str]) -> float:
    if len(words) != 1:
        raise ValueError(f"cannot read schedule {text!r}: write @every and one duration, such as @every 6h")
    try:
        found = float(Duration.parse(words[0]))
    except ValueError as error:
        raise ValueError(f"cannot read schedule {text!r}: {error}") from None
    if found < MIN_INTERVAL:
        raise ValueError(f"cannot use schedule {text!r}: at least {MIN_INTERVAL:g}s must be between two runs")
    return found


def _nickname(text: str, word: str) -> str:
    found = _NICKNAMES.get(word.lower())
    if found is None:
        known = ", ".join([*_NICKNAMES, "@every DURATION"])
        raise ValueError(f"cannot read schedule {text!r}: {word} is none of {known}")
    return found


def _field(text: str, word: str, name: str, low: int, high: int, words: list[str]) -> frozenset[int]:
    found: set[int] = set()
    for part in word.split(","):
        span, slash, step = part.partition("/")
        if slash and not (step.isascii() and step.isdigit() and len(step) <= 2 and 1 <= int(step) <= high):
            raise ValueError(f"cannot read schedule {text!r}: {step!r} is no step of the {name}")
        first, dash, last = span.partition("-")
        if span == "*":
            begin, end = low, min(high, 6) if name == "day of the week" else high
        else:
            begin = _number(text, first, name, low, high, words)
            end = _number(text, last, name, low, high, words) if dash else begin
            if slash and not dash:
                end = high
        if begin > end:
            raise ValueError(f"cannot read schedule {text!r}: {span!r} of the {name} ends before it begins")
        found.update(range(begin, end + 1, int(step) if slash else 1))
    return frozenset(found)


def _number(text: str, word: str, name: str, low: int, high: int, words: list[str]) -> int:
    if word.lower() in words:
        return words.index(word.lower()) + low
    if word.isascii() and word.isdigit() and len(word) <= 2 and low <= int(word) <= high:
        return int(word)
    names = f" or {words[0]} to {words[-1]}" if words else ""
    raise ValueError(
        f"cannot read schedule {text!r}: {word!r} is no {name}; there are {low} to {high}{names}"
    )
