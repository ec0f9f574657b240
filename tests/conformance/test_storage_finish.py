"""Finish: one result for each (id, version, owner); who lost is told so and changes nothing."""

from functools import partial

import pytest

from scheduler.job import Job, JobState
from scheduler.storage import Act, Storage
from scheduler.storage.records import Finish
from tests.conformance.stores import (
    DAY,
    HOUR,
    RACERS,
    A,
    B,
    Racers,
    at_once,
    claimed,
    events,
    failure,
    force,
    handed_back,
    retry,
    row,
    success,
)


def test_a_success_ends_the_job_and_keeps_its_row_for_the_window(storage: Storage) -> None:
    """SUCCEEDED, one version on, to be purged a window after its end; no failure, no event, the owner stays."""
    (held,) = claimed(storage)
    before = storage.clock()
    assert storage.finish([success(held, DAY)]) == {held.key}
    stands = row(storage, held.key)
    assert (stands["state"], stands["version"], stands["owner"], stands["attempts"]) == ("SUCCEEDED", 2, A, 0)
    assert before <= stands["finished_at"] <= storage.clock()
    assert stands["due_at"] == stands["finished_at"] + DAY
    assert (stands["body"], stands["lane"], events(storage, held.key)) == (b"{}", 0, [])


def test_a_failure_is_scheduled_again_with_its_event_in_one_write(storage: Storage) -> None:
    """SCHEDULED after the delay, one attempt more, and the stack trace in the job's history."""
    (held,) = claimed(storage)
    before = storage.clock()
    assert storage.finish([retry(held, HOUR, "Trace\u00e9\U0001f600")]) == {held.key}
    stands = row(storage, held.key)
    assert (stands["state"], stands["version"], stands["attempts"]) == ("SCHEDULED", 2, 1)
    assert before + HOUR <= stands["due_at"] <= storage.clock() + HOUR
    assert stands["finished_at"] is None
    (event,) = storage.job_events(held.key)
    assert (event["kind"], event["detail"], event["version"]) == ("FAILED", "Trace\u00e9\U0001f600", 1)


def test_a_final_failure_is_failed_and_kept_for_its_retention(storage: Storage) -> None:
    """FAILED, with its end and its purge time; the attempts before it are counted on."""
    (held,) = claimed(storage)
    force(storage, held.key, attempts=10)
    assert storage.finish([failure(held, 30 * DAY)]) == {held.key}
    stands = row(storage, held.key)
    assert (stands["state"], stands["attempts"]) == ("FAILED", 11)
    assert stands["due_at"] == stands["finished_at"] + 30 * DAY
    assert events(storage, held.key) == ["FAILED"]


@pytest.mark.parametrize(("rescues", "lane"), [(0, 0), (1, 1), (2, 2), (3, 2)])
def test_a_job_that_is_handed_back_keeps_its_place(storage: Storage, rescues: int, lane: int) -> None:
    """ENQUEUED at its old due time, in the lane of its rescues; no failure is counted."""
    (held,) = claimed(storage)
    force(storage, held.key, rescues=rescues)
    before = row(storage, held.key)
    assert storage.finish([handed_back(held)]) == {held.key}
    stands = row(storage, held.key)
    assert stands == {**before, "state": "ENQUEUED", "version": 2, "lane": lane}
    (again,) = storage.claim(B, ["h"], 1, lane)
    assert (again.key, again.version, again.attempts, again.rescues) == (held.key, 3, 0, rescues)


def test_a_snoozed_job_is_scheduled_without_a_failure(storage: Storage) -> None:
    """SCHEDULED without an event and without an attempt."""
    (held,) = claimed(storage)
    assert storage.finish([Finish(held.key, held.version, A, JobState.SCHEDULED, HOUR)]) == {held.key}
    stands = row(storage, held.key)
    assert (stands["state"], stands["attempts"], events(storage, held.key)) == ("SCHEDULED", 0, [])


def test_the_body_is_dropped_where_that_is_asked_for(storage: Storage) -> None:
    """Of that job alone, in the same write."""
    first, second = claimed(storage, 2)
    storage.finish([success(first, drop_body=True), success(second)])
    assert (row(storage, first.key)["body"], row(storage, second.key)["body"]) == (None, b"{}")


@pytest.mark.parametrize("result", [success, retry, failure, handed_back])
def test_a_result_of_another_version_or_owner_changes_nothing(storage: Storage, result: partial[Finish]) -> None:
    """Stale version, later version, other owner: refused, without an event."""
    (held,) = claimed(storage)
    before = row(storage, held.key)
    for forged in (held._replace(version=0), held._replace(version=2), held._replace(owner=B)):
        assert storage.finish([result(forged)]) == set()
    assert row(storage, held.key) == before
    assert events(storage, held.key) == []
    assert storage.finish([result(held)]) == {held.key}


@pytest.mark.parametrize("result", [success, retry, failure, handed_back])
def test_the_same_version_given_out_twice_is_told_apart_by_the_owner(storage: Storage, result: partial[Finish]) -> None:
    """A fail-over to a lagging replica issues a version again; the first holder's result is refused."""
    (lost,) = claimed(storage)
    force(storage, lost.key, state="ENQUEUED", version=0, owner=None, started_at=None)  # the replica's older row
    (held,) = storage.claim(B, ["h"], 1)
    assert (lost.key, lost.version) == (held.key, held.version)
    before = row(storage, held.key)
    assert storage.finish([result(lost)]) == set()
    assert row(storage, held.key) == before
    assert events(storage, held.key) == []
    assert storage.finish([result(held)]) == {held.key}


def test_a_job_that_is_gone_is_refused(storage: Storage) -> None:
    """A result for a row that was purged or never was is told apart from those that were written."""
    (held,) = claimed(storage)
    assert storage.finish([success(held._replace(key=b"?" * 16)), success(held)]) == {held.key}
    assert storage.finish([failure(held._replace(key=b"?" * 16))]) == set()
    assert storage.job_events(b"?" * 16) == []
    assert storage.finish([]) == set()


def test_of_a_mixed_batch_the_good_are_written_and_the_stale_are_not(storage: Storage) -> None:
    """Each result stands for itself, with and without an event."""
    jobs = claimed(storage, 12)
    results = [success(jobs[0]), success(jobs[1]), success(jobs[2]), retry(jobs[3]), retry(jobs[4]), failure(jobs[5])]
    results += [handed_back(jobs[6]), handed_back(jobs[7]), failure(jobs[8]), success(jobs[9], HOUR)]
    results += [success(jobs[10], drop_body=True), success(jobs[11])]
    stale = {1, 4, 7, 8, 11}
    for k in stale:
        force(storage, jobs[k].key, version=7)
    before = {k: row(storage, jobs[k].key) for k in stale}
    written = storage.finish(results)
    assert written == {held.key for k, held in enumerate(jobs) if k not in stale}
    assert {k: row(storage, jobs[k].key) for k in stale} == before
    assert [events(storage, held.key) for held in jobs] == [["FAILED"] if k in (3, 5) else [] for k in range(len(jobs))]


@pytest.mark.parametrize("result", [success, retry, failure, handed_back])
def test_a_result_whose_reply_was_lost_counts_as_written(storage: Storage, result: partial[Finish]) -> None:
    """Offered again it is told as written, and written no second time."""
    (held,) = claimed(storage)
    assert storage.finish([result(held)]) == {held.key}
    before, lines = row(storage, held.key), events(storage, held.key)
    assert storage.finish([result(held)]) == {held.key}
    assert (row(storage, held.key), events(storage, held.key)) == (before, lines)
    storage.promote()
    force(storage, held.key, state="ENQUEUED", lane=0)
    storage.claim(B, ["h"], 1)
    assert storage.finish([result(held)]) == set()


def test_another_result_than_the_recorded_one_is_refused(storage: Storage) -> None:
    """A success that was recorded is not answered to a late failure of the same run."""
    (held,) = claimed(storage)
    storage.finish([success(held)])
    assert storage.finish([failure(held)]) == storage.finish([handed_back(held)]) == set()
    assert (row(storage, held.key)["state"], events(storage, held.key)) == ("SUCCEEDED", [])


def test_a_deleted_job_refuses_its_runs_result(storage: Storage) -> None:
    """An operator's delete while it runs wins; DELETED is left by a requeue alone."""
    (held,) = claimed(storage)
    assert storage.delete(held.key) is Act.DONE
    assert storage.finish([success(held)]) == storage.finish([retry(held)]) == set()
    assert row(storage, held.key)["state"] == "DELETED"
    assert events(storage, held.key) == ["DELETED"]


def test_a_large_batch_of_all_kinds_is_written_at_once(storage: Storage) -> None:
    """500 results of five kinds, each as it should be."""
    jobs = claimed(storage, 500)
    kinds = (success, partial(success, drop_body=True), retry, failure, handed_back)
    results = [kinds[k % 5](held) for k, held in enumerate(jobs)]
    assert storage.finish(results) == {held.key for held in jobs}
    counted = {state.value: number for state, number in storage.count_by_state().items() if number}
    assert counted == {"SUCCEEDED": 200, "SCHEDULED": 100, "FAILED": 100, "ENQUEUED": 100}
    assert {row(storage, held.key)["version"] for held in jobs[::31]} == {2}


def race_results(storage: Storage, run: tuple[int, list[Job]]) -> list[bool]:
    """Offer a result for each job, a success or a failure by one's place; which were told as written."""
    place, jobs = run
    told = []
    for k, held in enumerate(jobs):
        result = (success, failure, retry)[(place + k) % 3](held, DAY + place)
        told.append(bool(storage.finish([result])))
    return told


def assert_one_result_each(storage: Storage, jobs: list[Job], told: list[list[bool]]) -> None:
    """The row moved on by one version, to one state, with that state's event alone, and its writers were told."""
    for k, held in enumerate(jobs):
        stands = row(storage, held.key)
        assert stands["version"] == 2
        won = ("SUCCEEDED", "FAILED", "SCHEDULED").index(stands["state"])
        assert events(storage, held.key) == ([] if won == 0 else ["FAILED"])
        assert stands["attempts"] == (0 if won == 0 else 1)
        assert [writer[k] for writer in told] == [(place + k) % 3 == won for place in range(len(told))]


def test_racing_threads_record_one_result(storage: Storage) -> None:
    """Six threads offer success, failure and retry of the same runs: one is recorded, the others are refused."""
    jobs = claimed(storage, 30)
    told = at_once([partial(race_results, storage, (place, jobs)) for place in range(6)])
    assert_one_result_each(storage, jobs, told)


def test_racing_processes_record_one_result(storage: Storage, racers: Racers) -> None:
    """Six processes offer success, failure and retry of the same runs: one is recorded, the others are refused."""
    jobs = claimed(storage, 60)
    store_url = storage.engine.url.render_as_string(hide_password=False)
    told = racers.race(race_results, store_url, [(place, jobs) for place in range(RACERS)])
    assert_one_result_each(storage, jobs, told)


def test_racing_batches_in_opposite_order_end(storage: Storage) -> None:
    """Two threads that offer the same 300 results in opposite order, events among them, neither fail nor hang."""
    jobs = claimed(storage, 300)
    results = [(success, retry, handed_back)[k % 3](held) for k, held in enumerate(jobs)]
    told = at_once([partial(storage.finish, results), partial(storage.finish, results[::-1])])
    assert told == [{held.key for held in jobs}] * 2
    assert {row(storage, held.key)["version"] for held in jobs[::17]} == {2}
    assert [events(storage, held.key) for held in jobs[1::51]] == [["FAILED"]] * 6
