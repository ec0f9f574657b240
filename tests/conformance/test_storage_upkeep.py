"""Promote and purge: on time by the database's clock, each row once, whoever else does it."""

import time
from functools import partial

import pytest

from scheduler.job import FINISHED, JobState
from scheduler.storage import Storage, open_storage
from scheduler.storage.records import Outcome
from tests.conformance.stores import (
    HOUR,
    RACERS,
    A,
    Racers,
    at_once,
    claimed,
    events,
    failure,
    force,
    job,
    put,
    retry,
    row,
    rows,
    some_jobs,
    standing_still,
    success,
)

NOON = 1_700_000_000_000_000


def url_of(storage: Storage) -> str:
    return storage.engine.url.render_as_string(hide_password=False)


def schedule(storage: Storage, number: int, due_at: int) -> list[bytes]:
    """So many jobs that are due one microsecond after the other."""
    offered = some_jobs(number)
    put(storage, offered)
    for place, one in enumerate(offered):
        force(storage, one.id, state="SCHEDULED", due_at=due_at + place)
    return [one.id for one in offered]


def test_the_clock_is_utc_and_can_be_replaced_as_a_whole(storage: Storage) -> None:
    """Microseconds since 1970; a test's clock stands in every column that tells a time."""
    assert abs(storage.clock() / 1e6 - time.time()) < 60
    still = open_storage(url_of(storage), options=standing_still(NOON))
    assert still.clock() == NOON
    still.insert_if_absent(some_jobs(2), token=1)
    held, other = still.claim(A, ["h"], 2)
    still.finish([success(held, HOUR), retry(other, HOUR)])
    still.register(A, host="h", pid=1, interval_us=1, status="{}")
    still.beat(A, "{}")
    stands = row(storage, held.key)
    assert [stands[name] for name in ("created_at", "started_at", "finished_at")] == [NOON] * 3
    assert (stands["due_at"], row(storage, other.key)["due_at"]) == (NOON + HOUR, NOON + HOUR)
    assert still.job_events(other.key)[0]["at"] == NOON
    assert (still.servers()[0].started_at, still.servers()[0].last_heartbeat, still.servers()[0].age_us) == (
        NOON,
        NOON,
        0,
    )
    still.close()


def test_nothing_is_promoted_early_and_all_that_is_due_is(storage: Storage) -> None:
    """To the microsecond of the database's clock; the lane is that of the rescues."""
    ids = schedule(storage, 9, NOON)
    force(storage, ids[1], rescues=1)
    force(storage, ids[2], rescues=5)
    for now, expected in ((NOON - 1, 0), (NOON, 1), (NOON + 3, 3), (NOON + 3, 0), (NOON + HOUR, 5)):
        still = open_storage(url_of(storage), options=standing_still(now))
        assert still.promote() == expected
        still.close()
    stands = [row(storage, key) for key in ids]
    assert {one["state"] for one in stands} == {"ENQUEUED"}
    assert [one["lane"] for one in stands] == [0, 1, 2, 0, 0, 0, 0, 0, 0]
    assert {one["version"] for one in stands} == {1}
    assert [one["due_at"] for one in stands] == list(range(NOON, NOON + 9))


def test_the_real_clock_promotes_a_job_at_its_time(storage: Storage) -> None:
    """Never while the clock shows less, always once it shows as much."""
    (held,) = claimed(storage)
    storage.finish([retry(held, 60_000)])
    due = row(storage, held.key)["due_at"]
    while True:
        before = storage.clock()
        promoted = storage.promote()
        after = storage.clock()
        assert promoted or before < due
        if promoted:
            assert after >= due
            break
    assert [one.key for one in storage.claim(A, ["h"], 1)] == [held.key]


def test_next_due_tells_the_seconds_until_the_first(storage: Storage) -> None:
    """None without a scheduled job, nought for one that is overdue."""
    assert storage.next_due() is None
    schedule(storage, 3, NOON)
    for now, left in ((NOON - 2_500_000, 2.5), (NOON, 0.0), (NOON + HOUR, 0.0)):
        still = open_storage(url_of(storage), options=standing_still(now))
        assert still.next_due() == left
        still.close()


def promote_all(storage: Storage, _: int) -> int:
    """Promote by small batches until nothing is due; how many."""
    total = 0
    while storage.next_due() == 0:
        total += storage.promote(7)
    return total


def test_racing_promoters_promote_each_job_once(storage: Storage, racers: Racers) -> None:
    """Six processes, then six threads: each job moves by one version."""
    ids = schedule(storage, 150, NOON)
    assert sum(racers.race(promote_all, url_of(storage), range(RACERS))) == 150
    for key in ids:
        force(storage, key, state="SCHEDULED")
    assert sum(at_once([partial(promote_all, storage, place) for place in range(6)])) == 150
    assert {one["version"] for one in rows(storage)} == {2}


@pytest.mark.parametrize("state", list(JobState))
def test_only_finished_jobs_whose_time_is_over_are_purged(storage: Storage, state: JobState) -> None:
    """To the microsecond; a job in any other state stays, however old its due time."""
    offered = some_jobs(3)
    put(storage, offered)
    for place, one in enumerate(offered):
        force(storage, one.id, state=state.value, due_at=NOON + place)
    still = open_storage(url_of(storage), options=standing_still(NOON + 1))
    assert still.purge() == (2 if state in FINISHED else 0)
    still.close()
    assert [one["id"] for one in rows(storage)] == [
        one.id for place, one in enumerate(offered) if place == 2 or state not in FINISHED
    ]


def test_a_purge_takes_the_history_along_and_forgets_the_id(storage: Storage) -> None:
    """The events of that job alone; the same ID is then a new job."""
    first, second = claimed(storage, 2)
    storage.insert_if_absent([job("job-0", body=b"other")], token=2)
    storage.finish([failure(first, 0), failure(second, HOUR)])
    assert storage.purge() == 1
    assert (storage.job_events(first.key), events(storage, second.key)) == ([], ["FAILED"])
    assert storage.list_conflicts() == []
    again = storage.insert_if_absent(some_jobs(2), token=3)
    assert [one.outcome for one in again] == [Outcome.NEW, Outcome.DUPLICATE]


def purge_all(storage: Storage, _: int) -> int:
    """Purge by small batches until nothing is left; how many."""
    total = 0
    while storage.count_by_state()[JobState.FAILED]:
        total += storage.purge(20)
    return total


def test_racing_purgers_purge_each_job_once(storage: Storage, racers: Racers) -> None:
    """Six processes over 300 jobs: the sum is right and no event stays behind."""
    jobs = claimed(storage, 300)
    storage.finish([failure(held, 0) for held in jobs])
    assert sum(racers.race(purge_all, url_of(storage), range(RACERS))) == 300
    assert rows(storage) == []
    assert [storage.job_events(held.key) for held in jobs[::30]] == [[]] * 10
