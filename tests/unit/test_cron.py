"""Cron over both changes of the clock in 2026, and against an oracle that looks at every minute."""

import itertools
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from scheduler.instants import rfc3339
from scheduler.recurring import Recurring

MINUTE = timedelta(minutes=1)


def recurring(cron: str, timezone: str = "UTC", fold: str = "once") -> Recurring:
    return Recurring.model_validate({"name": "n", "handler": "h", "cron": cron, "timezone": timezone, "fold": fold})


def local(cron: str, timezone: str, first: str, last: str, fold: str = "once") -> list[str]:
    """The ticks from one UTC time to another, by the clock on the wall and its offset."""
    ticks = recurring(cron, timezone, fold).between(datetime.fromisoformat(first), datetime.fromisoformat(last), 1000)
    return [f"{tick.astimezone(ZoneInfo(timezone)):%d %H:%M%z}" for tick in ticks]


AMSTERDAM, NEW_YORK, LORD_HOWE = "Europe/Amsterdam", "America/New_York", "Australia/Lord_Howe"

GAPS = {
    "a time in the gap, Amsterdam": (
        ("30 2 * * *", AMSTERDAM, "2026-03-28T00:00Z", "2026-03-30T12:00Z"),
        ["28 02:30+0100", "29 03:00+0200", "30 02:30+0200"],
    ),
    "several in the gap are one": (
        ("*/15 2 * * *", AMSTERDAM, "2026-03-29T00:00Z", "2026-03-29T12:00Z"),
        ["29 03:00+0200"],
    ),
    "and one with the first after it": (
        ("0 2,3 * * *", AMSTERDAM, "2026-03-29T00:00Z", "2026-03-29T12:00Z"),
        ["29 03:00+0200"],
    ),
    "hourly, Amsterdam": (
        ("0 * * * *", AMSTERDAM, "2026-03-28T23:30Z", "2026-03-29T02:30Z"),
        ["29 01:00+0100", "29 03:00+0200", "29 04:00+0200"],
    ),
    "hourly by ranges leaves none out, the gap is one tick": (
        ("30 0-23 * * *", AMSTERDAM, "2026-03-28T23:45Z", "2026-03-29T02:30Z"),
        ["29 01:30+0100", "29 03:00+0200", "29 03:30+0200", "29 04:30+0200"],
    ),
    "each quarter of an hour": (
        ("*/15 * * * *", AMSTERDAM, "2026-03-29T00:30Z", "2026-03-29T01:15Z"),
        ["29 01:30+0100", "29 01:45+0100", "29 03:00+0200", "29 03:15+0200"],
    ),
    "a time in the gap, New York": (
        ("30 2 * * *", NEW_YORK, "2026-03-07T12:00Z", "2026-03-09T12:00Z"),
        ["08 03:00-0400", "09 02:30-0400"],
    ),
    "a gap of half an hour, Lord Howe": (
        ("15 2 * * *", LORD_HOWE, "2026-10-03T00:00Z", "2026-10-05T00:00Z"),
        ["04 02:30+1100", "05 02:15+1100"],
    ),
    "each quarter, Lord Howe": (
        ("*/15 * * * *", LORD_HOWE, "2026-10-03T15:15Z", "2026-10-03T15:45Z"),
        ["04 01:45+1030", "04 02:30+1100", "04 02:45+1100"],
    ),
    "a Sunday's job on the day of the gap": (
        ("0 2 * * 0", AMSTERDAM, "2026-03-28T00:00Z", "2026-04-05T12:00Z"),
        ["29 03:00+0200", "05 02:00+0200"],
    ),
    "UTC has no gap": (
        ("30 2 * * *", "UTC", "2026-03-28T00:00Z", "2026-03-30T00:00Z"),
        ["28 02:30+0000", "29 02:30+0000"],
    ),
}

FOLDS = {
    "a time that comes twice ticks once, Amsterdam": (
        ("30 2 * * *", AMSTERDAM, "2026-10-24T12:00Z", "2026-10-26T12:00Z"),
        ["25 02:30+0200", "26 02:30+0100"],
    ),
    "or twice": (
        ("30 2 * * *", AMSTERDAM, "2026-10-24T12:00Z", "2026-10-26T12:00Z", "twice"),
        ["25 02:30+0200", "25 02:30+0100", "26 02:30+0100"],
    ),
    "several, in the order of time": (
        ("*/30 2 * * *", AMSTERDAM, "2026-10-24T12:00Z", "2026-10-25T12:00Z", "twice"),
        ["25 02:00+0200", "25 02:30+0200", "25 02:00+0100", "25 02:30+0100"],
    ),
    "several, once": (
        ("*/30 2,3 * * *", AMSTERDAM, "2026-10-24T12:00Z", "2026-10-25T12:00Z"),
        ["25 02:00+0200", "25 02:30+0200", "25 03:00+0100", "25 03:30+0100"],
    ),
    "hourly runs on, Amsterdam": (
        ("0 * * * *", AMSTERDAM, "2026-10-24T23:30Z", "2026-10-25T02:30Z"),
        ["25 02:00+0200", "25 02:00+0100", "25 03:00+0100"],
    ),
    "each quarter runs on": (
        ("*/15 * * * *", AMSTERDAM, "2026-10-25T00:45Z", "2026-10-25T01:15Z"),
        ["25 02:45+0200", "25 02:00+0100", "25 02:15+0100"],
    ),
    "New York": (
        ("30 1 * * *", NEW_YORK, "2026-10-31T12:00Z", "2026-11-02T12:00Z"),
        ["01 01:30-0400", "02 01:30-0500"],
    ),
    "New York, twice": (
        ("30 1 * * *", NEW_YORK, "2026-10-31T12:00Z", "2026-11-01T12:00Z", "twice"),
        ["01 01:30-0400", "01 01:30-0500"],
    ),
    "half an hour comes twice, Lord Howe": (
        ("45 1 * * *", LORD_HOWE, "2026-04-03T20:00Z", "2026-04-05T20:00Z", "twice"),
        ["05 01:45+1100", "05 01:45+1030", "06 01:45+1030"],
    ),
    "each quarter, Lord Howe": (
        ("*/15 * * * *", LORD_HOWE, "2026-04-04T14:30Z", "2026-04-04T15:30Z"),
        ["05 01:30+1100", "05 01:45+1100", "05 01:30+1030", "05 01:45+1030", "05 02:00+1030"],
    ),
    "UTC has no fold": (
        ("30 2 * * *", "UTC", "2026-10-25T00:00Z", "2026-10-26T00:00Z", "twice"),
        ["25 02:30+0000"],
    ),
}


@pytest.mark.parametrize("name", [*GAPS, *FOLDS])
def test_both_changes_of_the_clock(name: str) -> None:
    asked, expected = (GAPS | FOLDS)[name]
    assert local(*asked) == expected


def test_every_counts_from_1970_through_all_changes() -> None:
    every = Recurring(name="n", handler="h", every="45m", timezone=AMSTERDAM)
    first = datetime(2026, 3, 28, 23, tzinfo=UTC)
    ticks = every.between(first, first + timedelta(hours=30), 1000)
    assert {later - tick for tick, later in itertools.pairwise(ticks)} == {timedelta(minutes=45)}
    assert ticks[0].timestamp() % 2700 == 0
    half = Recurring(name="n", handler="h", every=1.5).between(first, first + timedelta(seconds=3), 9)
    assert [rfc3339(tick)[17:] for tick in half] == ["00Z", "01.500000Z", "03Z"]


def test_rare_dates_and_none() -> None:
    day = datetime(2026, 1, 1, tzinfo=UTC)
    assert recurring("0 0 29 2 *").after(day) == datetime(2028, 2, 29, tzinfo=UTC)
    assert recurring("0 0 L * *").after(day) == datetime(2026, 1, 31, tzinfo=UTC)
    assert recurring("0 12 * * FRI#2").after(day) == datetime(2026, 1, 9, 12, tzinfo=UTC)
    assert recurring("0 0 13 * FRI").after(day) == datetime(2026, 1, 2, tzinfo=UTC), "either day will do, as in cron"
    assert recurring("0 0 1 1 *").after(datetime(9999, 6, 1, tzinfo=UTC)) is None
    until = Recurring(name="n", handler="h", cron="0 0 * * *", until=datetime(2026, 1, 3, tzinfo=UTC))
    assert [tick.day for tick in until.between(day, day + timedelta(days=30), 99)] == [1, 2, 3]
    assert until.after(datetime(2026, 1, 3, tzinfo=UTC)) is None


ZONES = [
    *(AMSTERDAM, NEW_YORK, LORD_HOWE, "UTC", "Asia/Kolkata", "America/St_Johns", "Africa/Casablanca", "Asia/Gaza"),
    *("America/Santiago", "Pacific/Chatham", "Europe/Dublin", "Antarctica/Troll", "America/Havana"),
]


def changes(zone: ZoneInfo) -> list[datetime]:
    """The hours of 2026 in which the clock is changed."""
    hours = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hour) for hour in range(8760)]
    return [
        hour
        for hour in hours
        if hour.astimezone(zone).utcoffset() != (hour + timedelta(hours=1)).astimezone(zone).utcoffset()
    ]


class Field:
    """A field of a cron in simple form, and what it matches."""

    def __init__(self, text: str, low: int, high: int) -> None:
        self.any = text == "*"
        span, _, step = text.partition("/")
        values: set[int] = set()
        for part in span.split(","):
            first, _, last = (f"{low}-{high}" if part == "*" else part).partition("-")
            values.update(range(int(first), int(last or first) + 1, int(step or 1)))
        self.values = values


def oracle(cron: str, zone: ZoneInfo, fold: str, first: datetime, minutes: int) -> list[datetime]:
    """Look at each minute that passes, and at each that the wall's clock leaves out."""
    texts = cron.split()
    minute, hour, day, month, weekday = (
        Field(text, *bounds) for text, bounds in zip(texts, [(0, 59), (0, 23), (1, 31), (1, 12), (0, 6)], strict=True)
    )

    def fits(at: datetime) -> bool:
        of_month, of_week = at.day in day.values, at.isoweekday() % 7 in weekday.values
        date_fits = (of_month or of_week) if not day.any and not weekday.any else (of_month and of_week)
        return at.minute in minute.values and at.hour in hour.values and at.month in month.values and date_fits

    found: list[datetime] = []
    elapsed = texts[1] == "*"
    for number in range(minutes):
        now = first + number * MINUTE
        here, before = now.astimezone(zone), (now - MINUTE).astimezone(zone)
        skipped = here.replace(tzinfo=None, fold=0) - before.replace(tzinfo=None, fold=0) - MINUTE
        left_out = [before.replace(tzinfo=None) + k * MINUTE for k in range(1, max(0, skipped // MINUTE) + 1)]
        if (fits(here) and (elapsed or fold == "twice" or here.fold == 0)) or (
            not elapsed and any(fits(wall) for wall in left_out)
        ):
            found.append(now)
    return found


def field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    return st.one_of(
        st.just("*"),
        number.map(str),
        st.sampled_from([2, 3, 7, 15]).map(lambda step: f"*/{step}"),
        st.lists(number, min_size=2, max_size=3, unique=True).map(lambda some: ",".join(map(str, sorted(some)))),
        st.tuples(number, number).filter(lambda two: two[0] < two[1]).map(lambda two: f"{two[0]}-{two[1]}"),
    )


crons = st.tuples(
    field(0, 59),
    st.one_of(field(0, 4), field(0, 23)),
    *(st.one_of(st.just("*"), field(*b)) for b in [(1, 31), (1, 12), (0, 6)]),
).map(" ".join)


@settings(deadline=None, max_examples=80, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(crons, st.sampled_from(ZONES), st.sampled_from(["once", "twice"]), st.data())
def test_ticks_are_those_of_an_oracle_minute_by_minute(
    cron: str, timezone: str, fold: str, data: st.DataObject
) -> None:
    """A day and a half around a change of the clock, or any other: all ticks, none twice, from any instant on."""
    zone = ZoneInfo(timezone)
    around = data.draw(st.sampled_from([*changes(zone), datetime(2026, 2, 28, 12, tzinfo=UTC)]))
    first = around - data.draw(st.integers(0, 1440)) * MINUTE
    try:
        job = recurring(cron, timezone, fold)
    except ValueError:
        return  # no date fits it
    expected = oracle(cron, zone, fold, first, 2160)
    assert job.between(first, first + 2159 * MINUTE, 5000) == expected
    since = first + data.draw(st.integers(-60, 2159 * 60)) * timedelta(seconds=1)
    assert (
        job.between(since + timedelta(microseconds=1), first + 2159 * MINUTE, 1)
        == [tick for tick in expected if tick > since][:1]
    )


def test_a_whole_day_that_a_zone_left_out_is_one_tick() -> None:
    """Samoa went over the date line: there was no 30 December 2011."""
    ticks = recurring("0 */6 * * *", "Pacific/Apia").between(
        datetime(2011, 12, 30, 0, tzinfo=UTC), datetime(2011, 12, 30, 17, tzinfo=UTC), 99
    )
    days = [tick.astimezone(ZoneInfo("Pacific/Apia")) for tick in ticks]
    assert [(day.date(), day.hour) for day in days] == [
        (date(2011, 12, 29), 18),
        (date(2011, 12, 31), 0),
        (date(2011, 12, 31), 6),
    ]
