"""Recurring jobs: each tick makes one job or one reason, whoever fires it, and every verb may be done twice."""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, update

from scheduler.instants import instant_of, rfc3339
from scheduler.maintenance.recurring import Declared, Fire
from scheduler.recurring import Recurring, following, triggered
from scheduler.storage import Storage, open_storage
from scheduler.storage.records import Outcome
from scheduler.storage.tables import recurring
from tests.conformance.stores import DAY, A, at_once, force, retry, row, rows, standing_still, success
from tests.conformance.test_storage_upkeep import NOON, url_of

SECOND = 1_000_000
MINUTE = 60 * SECOND
START = NOON // MINUTE * MINUTE
"""A whole minute."""


def minutely(name: str = "tick", **more: Any) -> Recurring:
    given = {"name": name, "handler": "h", "every": "1m", "overlap": "allow", "misfire_grace": "30s"}
    return Recurring.model_validate(given | more)


@contextmanager
def at(storage: Storage, now: int) -> Iterator[Storage]:
    """The same store, with a clock that shows this time."""
    still = open_storage(url_of(storage), options=standing_still(now))
    try:
        yield still
    finally:
        still.close()


def declare(storage: Storage, *jobs: Recurring, now: int = START) -> None:
    with at(storage, now) as still:
        Declared(jobs).declare(still)


def fire(storage: Storage, now: int) -> list[str]:
    """Fire all that is due; the ticks that became jobs so far."""
    with at(storage, now) as still:
        duty = Fire(still)
        while still.next_tick() == 0:
            assert duty.step() == 0.0
    return ticks(storage)


def ticks(storage: Storage) -> list[str]:
    return sorted(str(one["correlation_id"]) for one in rows(storage))


def tick(number: int, name: str = "tick") -> str:
    """The correlation ID of the tick so many minutes after the start."""
    return f"{name}@{rfc3339(instant_of(START + number * MINUTE))}"


def stands(storage: Storage, name: str = "tick") -> dict[str, Any]:
    return next(one for one in storage.list_recurring() if one["name"] == name)


def test_declared_again_nothing_moves_and_changed_it_starts_anew(storage: Storage) -> None:
    """The same keeps its overdue tick; another spec counts from now; a pause outlives both."""
    declare(storage, minutely())
    assert stands(storage)["next_at"] == START + MINUTE
    declare(storage, minutely(), now=START + 10 * MINUTE)
    assert (stands(storage)["next_at"], stands(storage)["declared_at"]) == (START + MINUTE, START + 10 * MINUTE)
    storage.pause_recurring("tick")
    declare(storage, minutely(every="10m"), minutely("other"), now=START + 10 * MINUTE)
    changed = stands(storage)
    assert changed["next_at"] == following(str(changed["spec"]), START + 10 * MINUTE)
    assert changed["paused_at"] is not None and Recurring.loads(str(changed["spec"])).every == 600
    assert stands(storage, "other")["next_at"] == START + 11 * MINUTE


def test_pods_that_declare_at_once_enter_each_once(storage: Storage) -> None:
    jobs = [minutely(f"job-{number}") for number in range(50)]
    at_once([partial(Declared(jobs).declare, storage) for _ in range(4)])
    assert len(storage.list_recurring()) == 50


def test_a_tick_becomes_a_job_when_it_is_due_and_not_before(storage: Storage) -> None:
    """To the microsecond; the job says what it is of, and waits for a worker."""
    declare(storage, minutely(body='{"id": 7}'))
    assert fire(storage, START + MINUTE - 1) == []
    assert fire(storage, START + MINUTE) == [tick(1)]
    made = rows(storage)[0]
    assert [made[name] for name in ("namespace", "route", "source", "handler", "body", "state")] == [
        *("recurring:tick", "recurring:tick", "recurring", "h", b'{"id": 7}', "ENQUEUED")
    ]
    after = stands(storage)
    assert (after["next_at"], after["last_at"], after["skipped"]) == (START + 2 * MINUTE, START + MINUTE, 0)
    assert (after["last_job"], after["note"]) == (UUID(bytes=made["id"]), "")
    with at(storage, START + MINUTE + 15 * SECOND) as still:
        assert still.next_tick() == 45.0


def test_the_last_tick_is_the_end(storage: Storage) -> None:
    declare(storage, minutely(until=rfc3339(instant_of(START + 2 * MINUTE))))
    assert fire(storage, START + DAY) == [tick(2)], "both are late, and once is the default"
    assert stands(storage)["next_at"] is None and storage.next_tick() is None


def test_two_masters_at_once_make_each_tick_once(storage: Storage) -> None:
    """Forty jobs of four ticks each: each is a job once, is reported once, and `last_job` is the newest."""
    jobs = [minutely(f"job-{number}", misfire="all") for number in range(40)]
    declare(storage, *jobs)
    for minute in range(1, 5):
        reported: Counter[str] = Counter()
        with at(storage, START + minute * MINUTE) as one, at(storage, START + minute * MINUTE) as other:

            def master(still: Storage) -> list[str]:
                made: list[str] = []
                duty = Fire(still)
                while fired := still.fire(duty.decide, limit=7):
                    made += [job.correlation_id for each in fired.values() for job in each.jobs]
                return made

            for made in at_once([partial(master, one), partial(master, other), partial(master, one)]):
                reported.update(made)
            while fired := one.fire(Fire(one).decide):  # a lock passed over at the very end
                reported.update(job.correlation_id for each in fired.values() for job in each.jobs)
        assert reported == Counter(tick(minute, one.name) for one in jobs)
    assert ticks(storage) == sorted(tick(minute, one.name) for one in jobs for minute in range(1, 5))
    newest = {str(one["correlation_id"]): one["id"] for one in rows(storage)}
    assert all(stands(storage, one.name)["last_job"] == UUID(bytes=newest[tick(4, one.name)]) for one in jobs)


SKIPPED = {"skip": [tick(1)], "queue-one": [tick(1), tick(2)], "allow": [tick(1), tick(2), tick(3)]}


@pytest.mark.parametrize("overlap", SKIPPED)
def test_what_happens_while_an_earlier_one_is_unfinished(
    storage: Storage, overlap: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each tick that makes no job is counted and logged with its reason; a run that waits for its retry still runs."""
    caplog.set_level(logging.INFO, "jobbridge.recurring")
    declare(storage, minutely(overlap=overlap))
    for number in (1, 2, 3):
        made = fire(storage, START + number * MINUTE)
    assert made == SKIPPED[overlap]
    passed = 3 - len(made)
    assert stands(storage)["skipped"] == passed
    lines = [line.message for line in caplog.records if "unfinished" in line.message]
    assert len(lines) == passed and (not lines or stands(storage)["note"] in lines[-1])
    held = storage.claim(A, ["h"], 9)
    storage.finish([retry(one) for one in held])
    assert {one["state"] for one in rows(storage)} == {"SCHEDULED"}
    assert len(fire(storage, START + 4 * MINUTE)) == len(made) + (overlap == "allow")
    for one in rows(storage):
        force(storage, one["id"], state="SUCCEEDED")
    assert tick(5) in fire(storage, START + 5 * MINUTE), "finished: the next runs"


@pytest.mark.parametrize(("overlap", "number"), [("skip", 1), ("queue-one", 2), ("allow", 3)])
def test_overlap_holds_among_the_ticks_of_one_round(storage: Storage, overlap: str, number: int) -> None:
    declare(storage, minutely(overlap=overlap, misfire="all"))
    assert fire(storage, START + 3 * MINUTE) == [tick(one) for one in range(1, number + 1)]
    assert (stands(storage)["skipped"], stands(storage)["next_at"]) == (3 - number, START + 4 * MINUTE)


def test_a_finished_and_a_forgotten_job_is_no_overlap(storage: Storage) -> None:
    declare(storage, minutely(overlap="skip"))
    fire(storage, START + MINUTE)
    (held,) = storage.claim(A, ["h"], 1)
    storage.finish([success(held, 0)])
    assert fire(storage, START + 2 * MINUTE) == [tick(1), tick(2)]
    (held,) = storage.claim(A, ["h"], 1)
    storage.finish([success(held, 0)])
    assert storage.purge() == 2
    assert fire(storage, START + 3 * MINUTE) == [tick(3)]


MISSED = {"skip": [10], "once": [9, 10], "all": list(range(1, 11))}


@pytest.mark.parametrize("misfire", MISSED)
def test_ticks_that_come_late(storage: Storage, misfire: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nine are late by more than the grace of half a minute, the tenth is not: it runs in any case."""
    caplog.set_level(logging.INFO, "jobbridge.recurring")
    declare(storage, minutely(misfire=misfire))
    assert fire(storage, START + 10 * MINUTE + 30 * SECOND) == sorted(tick(number) for number in MISSED[misfire])
    assert stands(storage)["skipped"] == 10 - len(MISSED[misfire])
    assert stands(storage)["next_at"] == START + 11 * MINUTE
    assert ("missed" in caplog.text) == (misfire != "all") == ("missed" in stands(storage)["note"])


def test_a_long_outage_is_caught_up_with_in_rounds_that_hold_up_no_other(storage: Storage) -> None:
    declare(storage, minutely("long", misfire="all"), minutely("short"))
    now = START + 130 * MINUTE
    with at(storage, now) as still:
        assert Fire(still).step() == 0.0
    assert {tick(129, "short"), tick(130, "short")} < set(ticks(storage)) and len(ticks(storage)) < 60
    assert len(fire(storage, now)) == 132


def test_a_pause_makes_nothing_and_a_resume_makes_nothing_up(storage: Storage) -> None:
    declare(storage, minutely(misfire="all"))
    with at(storage, START) as still:
        assert (still.pause_recurring("tick"), still.pause_recurring("tock")) == (True, False)
        assert (still.next_tick(), stands(storage)["paused_at"]) == (None, START)
    assert fire(storage, START + 5 * MINUTE) == []
    with at(storage, START + 5 * MINUTE + SECOND) as still:
        assert (still.resume_recurring("tick", following), still.resume_recurring("tock", following)) == (True, False)
    assert (stands(storage)["paused_at"], stands(storage)["next_at"]) == (None, START + 6 * MINUTE)
    with at(storage, START + 7 * MINUTE) as still:
        still.resume_recurring("tick", following)
    assert fire(storage, START + 7 * MINUTE) == [tick(6), tick(7)], "a resume of what is not paused moves nothing"


def test_a_trigger_makes_one_job_that_counts_as_its_last(storage: Storage) -> None:
    declare(storage, minutely(overlap="skip"))
    with at(storage, START + 5) as still:
        job = still.trigger_recurring("tick", triggered)
        assert still.trigger_recurring("tock", triggered) is None
    assert job is not None and ticks(storage) == [f"tick!{rfc3339(instant_of(START + 5))}"]
    assert row(storage, job.id)["route"] == "recurring:tick"
    assert (stands(storage)["last_job"], stands(storage)["last_at"]) == (UUID(bytes=job.id), None)
    assert len(fire(storage, START + MINUTE)) == 1, "it runs still"


def test_jobs_made_for_the_past_are_those_of_its_ticks(storage: Storage) -> None:
    """A tick that ran is a duplicate, before and after."""
    job = minutely()
    declare(storage, job)
    fire(storage, START + MINUTE)
    jobs = [job.job_of(one) for one in job.between(instant_of(START), instant_of(START + 3 * MINUTE), 99)]
    answers = storage.insert_if_absent(jobs, token=9)
    assert [one.outcome for one in answers] == [Outcome.NEW, Outcome.DUPLICATE, Outcome.NEW, Outcome.NEW]
    assert fire(storage, START + 2 * MINUTE) == [tick(number) for number in range(4)]


def test_what_nobody_declares_is_forgotten_unless_it_was_declared_since(storage: Storage) -> None:
    declare(storage, minutely("kept"), minutely("over"))
    declare(storage, minutely("late"), now=START + 5)
    assert storage.prune_recurring(["kept"], START) == []
    assert storage.prune_recurring(["kept"], START + 5) == ["over"]
    assert [one["name"] for one in storage.list_recurring()] == ["kept", "late"]


def test_a_row_that_cannot_be_read_holds_up_no_other_and_waits(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    declare(storage, minutely("odd"), minutely())
    good = stands(storage, "odd")["spec"]
    with storage.engine.connect() as connection:
        odd = update(recurring).where(recurring.c.name == "odd")
        connection.execute(odd.values(spec='{"name": "odd", "handler": "h", "moon": "full"}'))
    with at(storage, START + MINUTE) as still:
        duty = Fire(still)
        assert (duty.step(), duty.step(), duty.step()) == (0.0, 1.0, 1.0)
    assert ticks(storage) == [tick(1)]
    assert caplog.text.count("odd: this version can't read it") == 1
    with storage.engine.connect() as connection:
        connection.execute(odd.values(spec=good))
    assert tick(1, "odd") in fire(storage, START + MINUTE)


def test_names_of_one_letter_apart_are_apart(storage: Storage) -> None:
    """By case, and by accents; a name that does not fit is not the one that nearly does."""
    declare(storage, minutely("tick"), minutely("Tick"), minutely("tíck"))
    assert len(storage.list_recurring()) == 3
    assert storage.pause_recurring("tick ") is False
    assert fire(storage, START + MINUTE) == sorted(tick(1, name) for name in ("tick", "Tick", "tíck"))


def test_the_tick_is_found_by_the_index(postgresql_url: str) -> None:
    """Nothing to fire costs one look at the first tick, as PostgreSQL's plan tells."""
    storage = open_storage(postgresql_url)
    storage.migrate()
    declare(storage, *[minutely(f"job-{number}") for number in range(2000)])
    with storage.engine.connect() as connection:
        connection.exec_driver_sql("ANALYZE jobbridge_recurring")
        first = select(recurring.c.next_at).where(recurring.c.paused_at.is_(None), recurring.c.next_at.is_not(None))
        text = first.order_by(recurring.c.next_at).limit(1).compile(connection)
        plan = "\n".join(str(line) for (line,) in connection.exec_driver_sql(f"EXPLAIN {text}", {"param_1": 1}))
    storage.close()
    assert "jobbridge_recurring_next" in plan
