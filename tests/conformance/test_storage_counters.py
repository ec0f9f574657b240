"""Counters and the public view of what waits: the same sums on every database, and nothing counted twice."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text

from scheduler.counts import Counted, Counts, Key
from scheduler.storage import Storage, open_storage
from scheduler.storage.counters import MINUTE_US, Point
from scheduler.storage.recurring import Declaration
from tests.conformance.stores import (
    HOUR,
    A,
    B,
    at_once,
    claimed,
    force,
    job,
    letter,
    put,
    some_jobs,
    standing_still,
    success,
)

CREATED = Key("orders", "placed", "created")
REJECTED = Key("orders", "", "rejected")


def at(storage: Storage, now: int) -> Storage:
    """Open the same database at another time."""
    return open_storage(storage.engine.url.render_as_string(hide_password=False), options=standing_still(now))


def view(storage: Storage, order: str = "route") -> Sequence[Mapping[str, Any]]:
    """The view as whoever scales reads it."""
    with storage.engine.connect() as connection:
        return list(connection.execute(text(f"SELECT * FROM jobbridge_backlog ORDER BY {order}")).mappings())


def test_the_sum_of_a_minute_stands_whatever_is_done_twice(storage: Storage) -> None:
    """A heartbeat whose reply was lost writes the same again; a later one of the minute puts more in its place."""
    counts = Counts()
    minute = storage.clock() // MINUTE_US
    counts.add({CREATED: 2, REJECTED: 1})
    for _ in range(2):
        storage.record(A, counts.unwritten(minute))
    counts.written()
    assert counts.unwritten(minute) == []
    counts.add({CREATED: 3})
    storage.record(A, counts.unwritten(minute))
    storage.record(B, [Counted(minute, *CREATED, 10)])
    assert storage.totals(60) == {CREATED: 15, REJECTED: 1}


def test_a_series_has_steps_of_its_length_over_its_window(storage: Storage) -> None:
    """Each begins at a multiple of the step; what is older than the window's first step is left out."""
    now = 1_000_000 * MINUTE_US + 7
    store = at(storage, now)
    minutes = (999_939, 999_940, 999_944, 999_945, 1_000_000)
    store.record(A, [Counted(minute, *CREATED, 1) for minute in minutes])
    store.record(A, [Counted(999_940, *REJECTED, 4)])
    assert store.series(60, 5) == [
        Point(999_940 * MINUTE_US, *REJECTED, 4),
        Point(999_940 * MINUTE_US, *CREATED, 2),
        Point(999_945 * MINUTE_US, *CREATED, 1),
        Point(1_000_000 * MINUTE_US, *CREATED, 1),
    ]
    assert [point.at // MINUTE_US for point in store.series(1, 1)] == [1_000_000]
    assert store.totals(1) == {CREATED: 1}
    assert store.totals(60) == {CREATED: 3}
    assert store.totals(61) == {CREATED: 4, REJECTED: 4}
    store.close()


def test_counts_are_kept_for_seven_days(storage: Storage) -> None:
    """And no minute longer."""
    now = storage.clock() // MINUTE_US
    week = 7 * 24 * 60
    storage.record(A, [Counted(minute, *CREATED, 1) for minute in (now - week - 1, now - week + 1, now)])
    storage.forget_counts()
    assert sum(point.n for point in storage.series(2 * week, 1)) == 2


@pytest.mark.parametrize("name", ["", "a b", "é", "x" * 255], ids=["none", "blank", "accent", "long"])
def test_names_are_kept_as_they_are(storage: Storage, name: str) -> None:
    """Of sources and routes."""
    storage.record(A, [Counted(storage.clock() // MINUTE_US, name, name, "created", 1)])
    (point,) = storage.series(5, 5)
    assert (point.source, point.route, point.n) == (name, name, 1)


def test_servers_that_write_at_once_lose_nothing(storage: Storage) -> None:
    """Each has rows of its own."""
    minute = storage.clock() // MINUTE_US
    servers = [bytes([number]) * 16 for number in range(6)]
    rows = [Counted(minute, "s", f"route-{number}", "created", 1) for number in range(50)]
    at_once([partial(storage.record, server, rows) for server in servers])
    assert sum(point.n for point in storage.series(5, 5)) == 300


def test_a_rescue_tells_what_became_of_whose_jobs(storage: Storage) -> None:
    """By source and route: those that run again, and those that failed for good."""
    claimed(storage, 3)
    claimed(storage, 2, prefix="other", route="q")
    counted: Counter[Key] = Counter()
    assert storage.rescue(A, max_rescues=3, retention_us=HOUR, counted=counted) == 5
    assert counted == {Key("s", "r", "rescued"): 3, Key("s", "q", "rescued"): 2}
    storage.claim(A, ["h"], 5, lane=1)
    storage.rescue(A, max_rescues=1, retention_us=HOUR, counted=counted)
    assert counted[Key("s", "r", "failed")] == 3


def test_the_view_counts_what_a_worker_would_take_now(storage: Storage) -> None:
    """By route: no job that runs, has ended, is due later, waits for a lock, is paused or is over its time."""
    held = claimed(storage, 2, prefix="run", route="a")
    storage.finish([success(held[0])])
    assert view(storage) == []
    put(storage, some_jobs(3, route="a"))
    force(storage, job("job-0").id, due_at=storage.clock() - 90 * 1_000_000)
    put(storage, [job("late", route="a", delay_us=HOUR), job("expired", route="a", expires_us=1)])
    put(storage, some_jobs(2, "locked", route="b", lock_key=bytes(16)))
    storage.pass_on([bytes(16)])
    put(storage, some_jobs(4, "limited", route="c", limit_key=bytes(16)))
    put(storage, some_jobs(5, "paused", route="d"))
    storage.pause("route", "d", "me")
    storage.pause("source", "a", "me")
    rows = view(storage)
    assert {row["route"]: row["waiting"] for row in rows} == {"a": 3, "b": 1, "c": 4}
    assert 90 <= rows[0]["oldest_seconds"] < 100
    assert 0 <= rows[1]["oldest_seconds"] < 10
    assert storage.backlog_by_route()[0][:2] == ("a", 3)
    storage.resume("route", "d")
    assert {row["route"]: row["waiting"] for row in view(storage)}["d"] == 5


def test_a_scaler_gets_numbers(storage: Storage) -> None:
    """The sum over all routes, and the age of the oldest, from no rows too."""
    query = text("SELECT coalesce(sum(waiting), 0), coalesce(max(oldest_seconds), 0) FROM jobbridge_backlog")
    with storage.engine.connect() as connection:
        assert list(map(float, connection.execute(query).one())) == [0, 0]
        put(storage, some_jobs(2))
        force(storage, job("job-1").id, due_at=storage.clock() + HOUR)  # the clock went back
        assert float(connection.execute(query).one()[0]) == 2


def test_a_clock_that_goes_back_takes_nothing_away() -> None:
    """A smaller sum of an earlier minute never takes the place of a larger one."""
    counts = Counts()
    counts.add({CREATED: 5})
    assert counts.unwritten(10) == [Counted(10, *CREATED, 5)]
    counts.written()
    counts.add({CREATED: 1})
    assert counts.unwritten(9) == [Counted(10, *CREATED, 6)]
    counts.add({CREATED: 2})
    assert counts.unwritten(11) == [Counted(10, *CREATED, 6), Counted(11, *CREATED, 2)]


def test_a_survey_is_of_all_that_has_not_ended(storage: Storage) -> None:
    """Jobs by state, what waits by route, dead letters by source, the last tick of each recurring job."""
    states = ("SCHEDULED", "ENQUEUED", "PROCESSING")
    assert {tuple(one) for one in storage.survey()} == {("jobs", state, 0, 0) for state in states}
    held = claimed(storage, 3)
    storage.finish([success(held[0])])
    put(storage, [*some_jobs(2, "waits", route="a"), job("later", delay_us=HOUR)])
    storage.insert_dead_letters([letter("one"), letter("two"), letter("three", source="t")])
    storage.declare_recurring([Declaration(name, "{}", bytes(16)) for name in "xy"], lambda *_: None)
    with storage.engine.connect() as connection:
        connection.execute(text("UPDATE jobbridge_recurring SET last_at = 1500000 WHERE name = 'x'"))
    found = {(one.kind, one.name): (one.number, one.seconds) for one in storage.survey()}
    number, seconds = found.pop(("backlog", "a"))
    assert (number, 0 <= seconds < 10) == (2, True)
    assert found == {
        ("jobs", "PROCESSING"): (2, 0),
        ("jobs", "ENQUEUED"): (2, 0),
        ("jobs", "SCHEDULED"): (1, 0),
        ("dead_letters", "s"): (2, 0),
        ("dead_letters", "t"): (1, 0),
        ("recurring", "x"): (1, 1.5),
    }
