"""Locks, limits, due times and expiry: what a job waits for before a worker may take it."""

import time
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from itertools import pairwise
from random import Random

import pytest

from scheduler.job import Job, JobState, NewJob
from scheduler.limits import SLACK_US, Limit, Rate, limit_key, lock_key
from scheduler.storage import Storage, open_storage
from scheduler.storage.gates import LIMITED, LOCKED
from scheduler.storage.tables import jobs, locks
from tests.conformance.stores import (
    DAY,
    HOUR,
    RACERS,
    A,
    B,
    Racers,
    at_once,
    events,
    failure,
    force,
    handed_back,
    job,
    put,
    retry,
    row,
    rows,
    some_jobs,
    standing_still,
    success,
)

RED, BLUE = lock_key("n", b"red"), lock_key("n", b"blue")
FEW = Limit(limit_key("few"), concurrency=3)
SLOW = Limit(limit_key("slow"), rate=Rate(4, 10_000_000))


def names(held: list[Job]) -> list[str]:
    return [one.correlation_id for one in held]


def held_locks(storage: Storage) -> int:
    with storage.engine.connect() as connection:
        return len(connection.execute(locks.select()).all())


def locked(prefix: str, number: int, key: bytes) -> list[NewJob]:
    return some_jobs(number, prefix, lock_key=key)


def test_of_the_jobs_with_one_lock_one_is_taken_at_a_time_in_order(storage: Storage) -> None:
    """Others go on beside them; the next is free the moment the one before has ended, well or badly."""
    put(storage, [*locked("red", 3, RED), *locked("blue", 2, BLUE), job("free")])
    assert [one["lane"] for one in rows(storage)] == [0, LOCKED, LOCKED, 0, LOCKED, 0]
    first = storage.claim(A, ["h"], 10)
    assert names(first) == ["red-0", "blue-0", "free"]
    assert storage.claim(B, ["h"], 10) == []
    storage.finish([success(first[0])])
    second = storage.claim(B, ["h"], 10)
    assert names(second) == ["red-1"]
    storage.finish([failure(second[0]), success(first[1])])
    assert names(storage.claim(A, ["h"], 10)) == ["red-2", "blue-1"]


def test_a_lock_that_nobody_wants_any_more_leaves_nothing(storage: Storage) -> None:
    """The table of locks holds those in use alone."""
    put(storage, locked("red", 2, RED))
    for _ in range(2):
        assert held_locks(storage) == 1
        storage.finish([success(held) for held in storage.claim(A, ["h"], 1)])
    assert held_locks(storage) == 0
    put(storage, locked("again", 1, RED))
    assert names(storage.claim(A, ["h"], 1)) == ["again-0"]


def test_a_job_keeps_its_lock_through_its_retries_and_rescues(storage: Storage) -> None:
    """So the order of arrival holds whatever goes wrong."""
    put(storage, locked("red", 2, RED))
    (held,) = storage.claim(A, ["h"], 5)
    storage.finish([retry(held, delay=0)])
    assert storage.claim(A, ["h"], 5) == []
    assert storage.promote() == 1
    (held,) = storage.claim(A, ["h"], 5)
    assert (held.correlation_id, held.attempts) == ("red-0", 1)
    storage.finish([handed_back(held)])
    (held,) = storage.claim(A, ["h"], 5)
    assert held.correlation_id == "red-0"
    assert storage.rescue(A, max_rescues=3, retention_us=DAY) == 1
    assert storage.claim(B, ["h"], 5) == []
    (held,) = storage.claim(B, ["h"], 5, lane=1)
    assert held.correlation_id == "red-0"
    storage.finish([success(held)])
    assert names(storage.claim(B, ["h"], 5)) == ["red-1"]


def test_a_job_that_lets_go_of_its_lock_waits_for_it_again(storage: Storage) -> None:
    """`lock_while_retrying: false`: the next runs meanwhile, and the retry waits for its end."""
    put(storage, locked("red", 2, RED))
    (held,) = storage.claim(A, ["h"], 5)
    storage.finish([retry(held, delay=0, lane=LOCKED)])
    (other,) = storage.claim(A, ["h"], 5)
    assert other.correlation_id == "red-1"
    assert storage.promote() == 1
    assert storage.claim(A, ["h"], 5) == []
    storage.finish([success(other)])
    assert names(storage.claim(A, ["h"], 5)) == ["red-0"]


@pytest.mark.parametrize("act", ["delete", "expire", "fail at the last rescue"])
def test_a_lock_goes_on_when_its_holder_does_not_run(storage: Storage, act: str) -> None:
    """Deleted, expired or given up."""
    put(storage, locked("red", 2, RED))
    first = job("red-0").id
    if act == "delete":
        storage.delete(first)
    elif act == "expire":
        force(storage, first, expires_at=1)
        assert storage.expire(DAY) == 1
    else:
        storage.claim(A, ["h"], 1)
        assert storage.rescue(A, max_rescues=0, retention_us=DAY) == 1
    storage.pass_on_forgotten()
    assert names(storage.claim(B, ["h"], 5)) == ["red-1"]


def test_a_requeued_job_waits_for_its_lock(storage: Storage) -> None:
    """Behind those that came before it, as any other."""
    put(storage, locked("red", 2, RED))
    (first,) = storage.claim(A, ["h"], 5)
    storage.finish([failure(first)])
    storage.requeue(first.key)
    (second,) = storage.claim(A, ["h"], 5)
    assert second.correlation_id == "red-1"
    assert storage.claim(A, ["h"], 5) == []
    storage.finish([success(second)])
    assert names(storage.claim(A, ["h"], 5)) == ["red-0"]


def test_what_a_dead_pod_left_undone_is_found(storage: Storage) -> None:
    """Jobs whose lock nobody was given, and a lock whose holder has ended."""
    put(storage, locked("red", 1, RED))
    put(storage, locked("blue", 2, BLUE))
    with storage.engine.connect() as connection:
        connection.execute(locks.delete().where(locks.c.key == RED))
    force(storage, job("red-0").id, lane=LOCKED)
    force(storage, job("blue-0").id, state="SUCCEEDED", finished_at=1)
    assert storage.claim(A, ["h"], 5) == []
    assert storage.pass_on_forgotten() == 2
    assert sorted(names(storage.claim(A, ["h"], 5))) == ["blue-1", "red-0"]
    assert storage.pass_on_forgotten() == 0


def test_a_lock_does_not_wait_for_a_job_that_came_again_with_another(storage: Storage) -> None:
    """Its holder ended, was purged before anybody looked, and now has a lock of its own."""
    put(storage, locked("red", 2, RED))
    storage.claim(A, ["h"], 1)
    assert storage.rescue(A, max_rescues=0, retention_us=0) == 1
    assert storage.purge() == 1
    put(storage, [job("red-0", lock_key=BLUE)])
    assert storage.pass_on_forgotten() == 1
    assert names(storage.claim(A, ["h"], 5)) == ["red-1", "red-0"]


def test_who_passes_a_lock_on_waits_for_who_is_at_it(storage: Storage) -> None:
    """Meanwhile the next job had the lock and ended, and the one after that has it: it is not given to a second."""
    put(storage, locked("red", 4, RED))
    storage.claim(A, ["h"], 1)
    force(storage, job("red-0").id, state="SUCCEEDED", finished_at=1)
    with ThreadPoolExecutor(1) as pool:
        with storage.transaction() as connection:
            storage._lock(connection, [RED])
            late = pool.submit(storage.pass_on, [RED])
            assert not wait([late], timeout=0.5).done
            of = {one: jobs.c.id == job(one).id for one in ("red-1", "red-2")}
            connection.execute(jobs.update().where(of["red-1"]).values(state="SUCCEEDED", finished_at=1))
            connection.execute(jobs.update().where(of["red-2"]).values(lane=0))
            connection.execute(locks.update().where(locks.c.key == RED).values(job_id=job("red-2").id))
        late.result(30)
    storage.pass_on([RED])
    assert names(storage.claim(B, ["h"], 5)) == ["red-2"]


def work_off(storage: Storage, place: int) -> list[tuple[str, int, int]]:
    """Claim and finish until all is done, with batches that race; which job ran from when to when."""
    server, random = bytes([place + 1]) * 16, Random(place)
    put(storage, [job(f"{place}-{k}", lock_key=lock_key("n", b"%d" % (k % 4))) for k in range(12)])
    ran, idle = [], 0
    while idle < 60:
        held = storage.claim(server, ["h"], random.choice([1, 2, 5]))
        idle = 0 if held else idle + 1
        began = time.monotonic_ns()
        time.sleep(0.002)
        ran += [(str(one.lock_key), began, time.monotonic_ns()) for one in held]
        storage.finish([success(one) for one in held])
    return ran


def test_racing_servers_never_run_two_of_one_lock(storage: Storage, racers: Racers) -> None:
    """Six processes insert, claim and finish at once: each job ran once, and no two of a lock at the same time."""
    url = storage.engine.url.render_as_string(hide_password=False)
    ran = [one for of_one in racers.race(work_off, url, range(RACERS)) for one in of_one]
    assert len(ran) == RACERS * 12
    assert {one["state"] for one in rows(storage)} == {"SUCCEEDED"}
    ordered = sorted(ran)
    for (lock, _, end), (other, begin, _) in pairwise(ordered):
        assert lock != other or end <= begin


def test_a_limit_counts_what_runs_on_all_servers(storage: Storage) -> None:
    """A plain claim never takes such jobs; a place is free once a run has ended, or was taken from its server."""
    put(storage, some_jobs(9, limit_key=FEW.key))
    assert {one["lane"] for one in rows(storage)} == {LIMITED}
    assert storage.claim(A, ["h"], 9) == []
    two = storage.claim_limited(A, ["h"], 2, LIMITED, FEW)
    third = storage.claim_limited(B, ["h"], 9, LIMITED, FEW)
    assert names(two + third) == ["job-0", "job-1", "job-2"]
    assert storage.claim_limited(B, ["h"], 9, LIMITED, FEW) == []
    storage.finish([success(two[0]), retry(two[1])])
    assert names(storage.claim_limited(B, ["h"], 9, LIMITED, FEW)) == ["job-3", "job-4"]
    assert storage.rescue(B, max_rescues=3, retention_us=DAY) == 3
    assert names(storage.claim_limited(A, ["h"], 9, LIMITED + 1, FEW)) == ["job-2", "job-3", "job-4"]
    assert storage.claim_limited(A, ["h"], 9, LIMITED, FEW) == []


def test_a_peek_tells_which_limits_have_jobs(storage: Storage) -> None:
    """The highest lane of each, so that rescued ones are not passed over."""
    assert storage.peek(["h"], [FEW.key, SLOW.key]).limited == (None, None)
    put(storage, some_jobs(2, limit_key=FEW.key))
    assert storage.peek(["h"], [FEW.key, SLOW.key]).limited == (LIMITED, None)
    force(storage, job("job-1").id, lane=LIMITED + 2)
    assert storage.peek(["h"], [FEW.key, SLOW.key]) == ((False,) * 3, (LIMITED + 2, None), None)
    assert storage.peek(["other"], [FEW.key]).limited == (None,)


def test_no_window_sees_more_starts_than_the_rate(storage: Storage) -> None:
    """However the window is laid; what was not used is not saved up."""
    url = storage.engine.url.render_as_string(hide_password=False)
    noon = storage.clock() + HOUR
    put(storage, some_jobs(40, limit_key=SLOW.key))
    starts: list[int] = []
    for now in range(noon, noon + 60_000_000, 700_000):
        with_clock = open_storage(url, options=standing_still(now))
        starts += [now for _ in with_clock.claim_limited(A, ["h"], 3, LIMITED, SLOW)]
        with_clock.close()
    assert len(starts) >= 20
    for start in starts:
        assert sum(start <= other < start + 10_000_000 + SLACK_US for other in starts) <= 4


def claim_few(storage: Storage, place: int) -> list[int]:
    """Claim and finish for a while; how many of the limit ran at each moment of mine, as the rows tell."""
    server, seen = bytes([place + 1]) * 16, []
    for _ in range(25):
        held = storage.claim_limited(server, ["h"], 2, LIMITED, FEW)
        seen.append(sum(one["state"] == "PROCESSING" for one in rows(storage)))
        storage.finish([success(one) for one in held])
    return seen


def test_racing_servers_never_pass_a_limit(storage: Storage, racers: Racers) -> None:
    """Six processes want more than three places."""
    put(storage, some_jobs(400, limit_key=FEW.key))
    url = storage.engine.url.render_as_string(hide_password=False)
    seen = [number for of_one in racers.race(claim_few, url, range(RACERS)) for number in of_one]
    assert 0 < max(seen) <= 3
    assert at_once([partial(storage.claim_limited, bytes([k]) * 16, ["h"], 2, LIMITED, FEW) for k in range(1, 7)])
    assert sum(one["state"] == "PROCESSING" for one in rows(storage)) == 3


def test_a_job_with_a_lock_and_a_limit_waits_for_both(storage: Storage) -> None:
    """First for its lock, then among those of its limit."""
    put(storage, some_jobs(2, lock_key=RED, limit_key=FEW.key))
    assert [one["lane"] for one in rows(storage)] == [LIMITED, LOCKED]
    (held,) = storage.claim_limited(A, ["h"], 9, LIMITED, FEW)
    assert storage.claim_limited(A, ["h"], 9, LIMITED, FEW) == []
    storage.finish([success(held)])
    assert names(storage.claim_limited(A, ["h"], 9, LIMITED, FEW)) == ["job-1"]


def test_a_job_for_later_waits_for_its_time(storage: Storage) -> None:
    """After a delay, or at a time; then for its lock or its limit as any other."""
    now = storage.clock()
    put(
        storage,
        [
            job("delay", delay_us=HOUR),
            job("at", at_us=now + 2 * HOUR),
            job("lock", delay_us=3 * HOUR, lock_key=RED),
            job("limit", delay_us=4 * HOUR, limit_key=FEW.key),
            job("past", at_us=1),
        ],
    )
    assert {one["state"] for one in rows(storage)} == {"SCHEDULED"}
    delayed = row(storage, job("delay").id)
    assert now + HOUR <= delayed["due_at"] <= storage.clock() + HOUR
    assert row(storage, job("at").id)["due_at"] - (now + 2 * HOUR) in range(5)
    assert storage.promote() == 1
    assert names(storage.claim(A, ["h"], 9)) == ["past"]
    later = open_storage(
        storage.engine.url.render_as_string(hide_password=False), options=standing_still(now + 5 * HOUR)
    )
    assert later.promote() == 4
    assert names(later.claim(A, ["h"], 9)) == ["delay", "at", "lock"]
    assert names(later.claim_limited(A, ["h"], 9, LIMITED, FEW)) == ["limit"]
    later.close()


def test_a_job_that_has_not_started_in_time_is_deleted(storage: Storage) -> None:
    """No claim takes it, its end says why, and what has started once may take all its tries."""
    url = storage.engine.url.render_as_string(hide_password=False)
    scheduled = job("scheduled", delay_us=1, expires_us=HOUR)
    put(storage, [job("started", expires_us=HOUR), job("late", expires_us=HOUR), scheduled, job("patient")])
    (held,) = storage.claim(A, ["h"], 1)
    storage.finish([retry(held, delay=0)])
    assert storage.expire(DAY) == 0
    tomorrow = open_storage(url, options=standing_still(storage.clock() + DAY))
    assert tomorrow.promote() == 2
    assert sorted(names(tomorrow.claim(A, ["h"], 9))) == ["patient", "started"]
    assert tomorrow.expire(DAY) == 2
    assert tomorrow.expire(DAY) == 0
    for name in ("late", "scheduled"):
        gone = row(tomorrow, job(name).id)
        assert (gone["state"], events(tomorrow, gone["id"])) == (JobState.DELETED.value, ["EXPIRED"])
        assert gone["due_at"] == gone["finished_at"] + DAY
    tomorrow.close()


def test_a_requeued_job_does_not_expire_again(storage: Storage) -> None:
    """Who requeues it wants it to run."""
    put(storage, [job("late", expires_us=1)])
    time.sleep(0.01)
    assert storage.expire(DAY) == 1
    storage.requeue(job("late").id)
    assert storage.expire(DAY) == 0
    assert names(storage.claim(A, ["h"], 1)) == ["late"]
