"""Times that come again: what crontab(5) means, clocks that jump, and what cannot be read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specs.schedule import Schedule

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, zone: ZoneInfo | None = None) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone or UTC).timestamp()


def following(schedule: str, after: str, count: int = 3, zone: ZoneInfo | None = None) -> list[str]:
    parsed, now, found = Schedule.parse(schedule), at(after, zone), []
    for _ in range(count):
        now = parsed.next(now, zone or UTC)
        found.append(datetime.fromtimestamp(now, zone or UTC).strftime("%Y-%m-%d %H:%M"))
    return found


@pytest.mark.parametrize(
    ("schedule", "found"),
    [
        ("0 3 * * *", ["2026-01-01 03:00", "2026-01-02 03:00"]),
        ("*/20 * * * *", ["2026-01-01 00:20", "2026-01-01 00:40"]),
        ("5-15/5 1,2 * * *", ["2026-01-01 01:05", "2026-01-01 01:10"]),
        ("30 4 1 * *", ["2026-01-01 04:30", "2026-02-01 04:30"]),
        ("0 0 * * mon-fri", ["2026-01-02 00:00", "2026-01-05 00:00"]),
        ("0 0 * * 7", ["2026-01-04 00:00", "2026-01-11 00:00"]),
        ("0 0 13 * fri", ["2026-01-02 00:00", "2026-01-09 00:00"]),
        ("0 0 */2 * fri", ["2026-01-09 00:00", "2026-01-23 00:00"]),
        ("0 0 29 feb *", ["2028-02-29 00:00", "2032-02-29 00:00"]),
        ("*/30 23 29 2 *", ["2028-02-29 23:00", "2028-02-29 23:30"]),
        ("@hourly", ["2026-01-01 01:00", "2026-01-01 02:00"]),
        ("@weekly", ["2026-01-04 00:00", "2026-01-11 00:00"]),
        ("@monthly", ["2026-02-01 00:00", "2026-03-01 00:00"]),
        ("@every 90m", ["2026-01-01 01:30", "2026-01-01 03:00"]),
        ("CRON_TZ=Asia/Tokyo 0 3 * * *", ["2026-01-01 18:00", "2026-01-02 18:00"]),
        ("0 0 * JAN-mar SUN", ["2026-01-04 00:00", "2026-01-11 00:00"]),
        ("50/5 0 * * *", ["2026-01-01 00:50", "2026-01-01 00:55"]),
    ],
)
def test_the_next_times_are_those_of_crontab(schedule: str, found: list[str]) -> None:
    assert following(schedule, "2026-01-01 00:00", 2) == found


def test_a_fixed_time_that_is_jumped_over_is_due_at_the_jump_and_one_that_comes_twice_once() -> None:
    spring = following("30 2 * * *", "2026-03-28 12:00", 2, BERLIN)
    assert spring == ["2026-03-29 03:00", "2026-03-30 02:30"]
    assert following("0,30 2 * * *", "2026-03-29 00:00", 2, BERLIN) == [
        "2026-03-29 03:00",
        "2026-03-30 02:00",
    ]
    schedule, first = Schedule.parse("30 2 * * *"), at("2026-10-25 02:30", BERLIN)
    assert schedule.next(first - 1, BERLIN) == first
    assert schedule.next(first, BERLIN) == at("2026-10-26 02:30", BERLIN)


@pytest.mark.parametrize(
    ("schedule", "zone", "after", "found"),
    [
        ("30 2 * * *", "America/New_York", "2026-03-07 12:00", ["2026-03-08 03:00", "2026-03-09 02:30"]),
        ("30 1 * * *", "America/New_York", "2026-10-31 12:00", ["2026-11-01 01:30", "2026-11-02 01:30"]),
        # half an hour
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03 12:00", ["2026-10-04 02:30", "2026-10-05 02:15"]),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04 12:00", ["2026-04-05 01:45", "2026-04-06 01:45"]),
        # at midnight
        ("0 0 * * *", "America/Havana", "2026-03-07 12:00", ["2026-03-08 01:00", "2026-03-09 00:00"]),
        ("30 23 * * *", "America/Santiago", "2026-04-04 12:00", ["2026-04-04 23:30", "2026-04-05 23:30"]),
        # a whole day, the 30th
        ("30 12 * * *", "Pacific/Apia", "2011-12-29 13:00", ["2011-12-31 00:00", "2011-12-31 12:30"]),
        ("0 0 * * *", "Pacific/Apia", "2011-12-29 13:00", ["2011-12-31 00:00", "2012-01-01 00:00"]),
        ("0 */12 * * *", "Pacific/Apia", "2011-12-29 13:00", ["2011-12-31 00:00", "2011-12-31 12:00"]),
    ],
)
def test_each_day_has_its_one_run_wherever_clocks_jump(
    schedule: str, zone: str, after: str, found: list[str]
) -> None:
    assert following(schedule, after, 2, ZoneInfo(zone)) == found


def test_where_the_hour_is_any_the_clock_on_the_wall_is_followed() -> None:
    schedule = Schedule.parse("*/30 * * * *")
    for day in ("2026-03-29", "2026-10-25"):
        now = at(f"{day} 00:00", BERLIN)
        for _ in range(12):
            assert schedule.next(now, BERLIN) == now + 1800
            now += 1800
    assert following("*/30 2 * * *", "2026-03-28 12:00", 1, BERLIN) == ["2026-03-30 02:00"]
    twice = [
        Schedule.parse("*/30 2 * * *").next(at("2026-10-25 01:00", BERLIN) + n * 1800, BERLIN)
        for n in (1, 2, 3)
    ]
    assert [b - a for a, b in pairwise(twice)] == [1800, 1800]
    assert (
        following("*/15 * * * *", "2026-04-05 01:30", 4, ZoneInfo("Australia/Lord_Howe"))[0]
        == "2026-04-05 01:45"
    )


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ("", "0 fields, not 5"),
        ("0 3 * *", "4 fields, not 5"),
        ("60 3 * * *", "'60' is no minute; there are 0 to 59"),
        ("0 3 * foo *", "'foo' is no month; there are 1 to 12 or jan to dec"),
        ("0 5-3 * * *", "'5-3' of the hour ends before it begins"),
        ("*/0 * * * *", "'0' is no step of the minute"),
        ("*/60 * * * *", "'60' is no step of the minute"),
        (f"*/{'9' * 5000} * * * *", "is no step of the minute"),
        ("0 0 31 2,4 *", "no month of it has such a day"),
        ("@reboot", "@reboot is none of @hourly"),
        ("@every", "one duration"),
        ("@every 1x", "cannot read duration '1x'"),
        ("@every 0s", "at least 1s"),
        ("CRON_TZ=Mars/Base 0 3 * * *", "there is no time zone 'Mars/Base'"),
        ("CRON_TZ=../../etc/passwd 0 3 * * *", "there is no time zone"),
        ("CRON_TZ=Europe/Berlin @every 6h", "@every counts from the time before, in every time zone"),
        ("TZ=UTC @EVERY 6h", "leave TZ=UTC out"),
        ("٣ * * * *", "is no minute"),
    ],
)
def test_what_cannot_be_read_is_said(schedule: str, said: str) -> None:
    with pytest.raises(ValueError, match="schedule") as caught:
        Schedule.parse(schedule)
    assert said in str(caught.value)


minutes = st.sampled_from(["*", "0", "30", "*/7", "5,55"])
hours = st.sampled_from(["*", "2", "0", "1-3", "*/5", "23"])
days = st.sampled_from(["*", "1", "29-31", "*/3"])
weekdays = st.sampled_from(["*", "0", "1-5"])


@given(
    st.tuples(minutes, hours, days, st.just("*"), weekdays).map(" ".join),
    st.integers(1_700_000_000, 1_900_000_000),
    st.sampled_from(["Europe/Berlin", "America/Santiago", "Australia/Lord_Howe", "Asia/Kolkata"]),
)
def test_times_go_on_and_none_that_the_clock_shows_is_left_out(text: str, begin: int, zone: str) -> None:
    """Against a walk over every minute of two days; a jump may put a fixed time beside what was written."""
    schedule, local = Schedule.parse(text), ZoneInfo(zone)
    fields = [_plain(word, size) for word, size in zip(text.split(), (60, 24, 32, 13, 7), strict=True)]
    found = schedule.next(begin, local)
    assert found > begin
    assert found % 60 == 0
    minute = begin // 60 * 60 + 60
    either = not text.split()[2].startswith("*") and not text.split()[4].startswith("*")
    while minute < min(found, begin + 2 * 86_400):
        shown = datetime.fromtimestamp(minute, local)
        on = [shown.day in fields[2], (shown.weekday() + 1) % 7 in fields[4]]
        due = shown.minute in fields[0] and shown.hour in fields[1] and (any(on) if either else all(on))
        assert not due or (schedule.fixed and shown.fold), shown
        minute += 60


def _plain(word: str, size: int) -> set[int]:
    if word.startswith("*"):
        low = 1 if size in (32, 13) else 0
        return set(range(low, size, int(word[2:] or "1")))
    found: set[int] = set()
    for part in word.split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def test_a_time_zone_without_a_change_is_as_utc() -> None:
    assert following("15 6 * * *", "2026-05-05 00:00", 2) == ["2026-05-05 06:15", "2026-05-06 06:15"]
    assert timedelta(seconds=Schedule.parse("@every 1h30m").every) == timedelta(minutes=90)
