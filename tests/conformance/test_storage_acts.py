"""What operators do: to one job and to all that match, never to one that moved on; and what they pause."""

import contextlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, event

from scheduler.job import FINISHED, JobState, NewJob
from scheduler.limits import Limit, limit_key, lock_key
from scheduler.storage import Act, Storage, open_storage
from scheduler.storage.acts import CANCEL, DELETE, REQUEUE, RUN_NOW, VERBS, Doing, Verb
from scheduler.storage.execution import Waiting
from scheduler.storage.gates import LIMITED, LOCKED
from tests.conformance.stores import (
    HOUR,
    A,
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
    success,
)

WHO = "ann@desk"


def in_state(storage: Storage, state: JobState, name: str = "job") -> bytes:
    """A job in this state."""
    key = job(name).id
    put(storage, [job(name)])
    finished = storage.clock() if state in FINISHED else None
    force(storage, key, state=state.value, owner=A, version=1, finished_at=finished)
    return key


def sweep(storage: Storage, verb: Verb, began: int | None = None, *, batch: int = 500, **wanted: Any) -> Counter[Act]:
    """What became of all that match."""
    began = storage.clock() if began is None else began
    became: Counter[Act] = Counter()
    for one in storage.act_on_matching(Doing(verb, WHO), began, batch=batch, **wanted):
        became += one
    return became


@pytest.mark.parametrize("state", list(JobState))
def test_run_now_lets_a_scheduled_job_wait_for_a_worker(storage: Storage, state: JobState) -> None:
    """In the lane of its rescues, in the order of now; a job in another state is left alone."""
    key = in_state(storage, state)
    force(storage, key, due_at=storage.clock() + HOUR, attempts=3, rescues=1)
    before = row(storage, key)
    if state is not JobState.SCHEDULED:
        assert storage.run_now(key) is Act.WRONG_STATE
        assert (row(storage, key), events(storage, key)) == (before, [])
        return
    assert storage.run_now(key, by=WHO) is Act.DONE
    stands = row(storage, key)
    assert (stands["state"], stands["version"], stands["lane"]) == ("ENQUEUED", before["version"] + 1, 1)
    assert (stands["attempts"], stands["rescues"]) == (3, 1)
    assert stands["due_at"] <= storage.clock()
    assert events(storage, key) == ["RUN-NOW"]
    assert [held.key for held in storage.claim(A, ["h"], 9, 1)] == [key]


@pytest.mark.parametrize("state", list(JobState))
def test_cancel_ends_a_job_that_runs(storage: Storage, state: JobState) -> None:
    """Its result is refused; a job that does not run is left alone."""
    key = in_state(storage, state)
    before = row(storage, key)
    if state is not JobState.PROCESSING:
        assert storage.cancel(key) is Act.WRONG_STATE
        assert (row(storage, key), events(storage, key)) == (before, [])
        return
    (held,) = storage.held(A, [key])
    assert storage.cancel(key, HOUR, by=WHO) is Act.DONE
    stands = row(storage, key)
    assert (stands["state"], stands["version"]) == ("DELETED", before["version"] + 1)
    assert stands["due_at"] == stands["finished_at"] + HOUR
    assert events(storage, key) == ["CANCELLED"]
    assert (storage.standing(A), storage.finish([success(held)])) == ([], set())


@pytest.mark.parametrize("verb", VERBS.values(), ids=list(VERBS))
def test_an_act_says_who_did_it(storage: Storage, verb: Verb) -> None:
    """In its one line, with the state that it found."""
    state = min(verb.possible)
    key = in_state(storage, state)
    assert storage.act(Doing(verb, WHO), b"?" * 16) is Act.NOT_FOUND
    assert storage.act(Doing(verb, WHO), key) is Act.DONE
    (line,) = storage.job_events(key)
    assert (line["kind"], line["detail"]) == (verb.event, f"by {WHO}; it was {state.value}")


def test_a_requeue_of_all_that_match_is_written_in_batches(storage: Storage) -> None:
    """Each once, with one line; what does not match, or lacks its body, is left alone."""
    failed = claimed(storage, 9)
    storage.finish([failure(held) for held in failed])
    dropped, good = claimed(storage, 2, prefix="good")
    storage.finish([success(dropped, drop_body=True), success(good)])
    other = claimed(storage, 1, prefix="other", route="other")
    storage.finish([failure(held) for held in other])
    put(storage, some_jobs(3, "waiting"))
    began = storage.clock()
    assert storage.count_matching(REQUEUE, began, route="r") == {JobState.FAILED: 9, JobState.SUCCEEDED: 2}
    assert storage.count_matching(REQUEUE, began, route="r", state=JobState.FAILED) == {JobState.FAILED: 9}
    assert storage.count_matching(REQUEUE, began, state=JobState.ENQUEUED) == {}
    assert sweep(storage, REQUEUE, began, batch=2, route="r") == {Act.DONE: 10, Act.BODY_DROPPED: 1}
    for held in (*failed, good):
        stands = row(storage, held.key)
        assert (stands["state"], stands["attempts"], stands["finished_at"]) == ("ENQUEUED", 0, None)
        assert events(storage, held.key).count("REQUEUED") == 1
    assert [row(storage, one.key)["state"] for one in (dropped, *other)] == ["SUCCEEDED", "FAILED"]
    assert sweep(storage, REQUEUE, began, route="r") == {Act.BODY_DROPPED: 1}


@pytest.mark.parametrize(
    ("verb", "state"),
    [(DELETE, JobState.ENQUEUED), (CANCEL, JobState.PROCESSING), (RUN_NOW, JobState.SCHEDULED)],
)
def test_all_acts_may_be_done_to_all_that_match(storage: Storage, verb: Verb, state: JobState) -> None:
    """By the transition table."""
    keys = [in_state(storage, state, f"k{k}") for k in range(3)]
    left = in_state(storage, JobState.SUCCEEDED)
    assert sweep(storage, verb) == {Act.DONE: 3}
    assert {row(storage, key)["state"] for key in keys} == {verb.target}
    assert [events(storage, key) for key in (*keys, left)] == [[verb.event]] * 3 + [[]]


def test_a_deleted_id_is_remembered_as_long_as_its_route_says(storage: Storage) -> None:
    """By route; else by the act."""
    put(storage, [job("a", route="r1"), job("b", route="r2"), job("c", route="r3")])
    doing = Doing(DELETE, WHO, 2 * HOUR, {"r1": HOUR, "r2": 5_000_000_000_000})
    list(storage.act_on_matching(doing, storage.clock()))
    kept = {one["correlation_id"]: one["due_at"] - one["finished_at"] for one in rows(storage)}
    assert kept == {"a": HOUR, "b": 5_000_000_000_000, "c": 2 * HOUR}


def test_what_came_or_failed_again_since_is_not_touched(storage: Storage) -> None:
    """It acts on what matched when it began: nothing is requeued twice."""
    first, second = claimed(storage, 2)
    storage.finish([failure(first), failure(second)])
    began = storage.clock()
    storage.requeue(second.key)
    force(storage, second.key, due_at=0)
    while storage.clock() <= began:
        pass
    (again,) = storage.claim(A, ["h"], 1)
    storage.finish([failure(again)])
    late = claimed(storage, 1, prefix="late")
    storage.finish([failure(held) for held in late])
    assert storage.count_matching(REQUEUE, began) == {JobState.FAILED: 1}
    assert sweep(storage, REQUEUE, began) == {Act.DONE: 1}
    assert events(storage, second.key).count("REQUEUED") == 1
    assert row(storage, late[0].key)["state"] == "FAILED"


def test_jobs_that_move_on_under_a_batch_are_left_alone(storage: Storage) -> None:
    """Between its read and its write others win two of nine: they are told of, the other seven are done."""
    failed = claimed(storage, 9)
    storage.finish([failure(held) for held in failed])
    moving = [failed[2].key, failed[7].key]
    with contextlib.closing(open_storage(storage.engine.url.render_as_string(hide_password=False))) as other:

        def intrude(connection: Connection, cursor: object, statement: str, *_: object) -> None:
            if statement.startswith("BEGIN"):
                while moving:
                    force(other, moving.pop(), version=9)

        event.listen(storage.engine, "before_cursor_execute", intrude)
        assert sweep(storage, REQUEUE) == {Act.DONE: 7, Act.LOST_RACE: 2}
    for place, held in enumerate(failed):
        stands = (row(storage, held.key)["state"], row(storage, held.key)["version"], events(storage, held.key))
        assert stands == (("FAILED", 9, ["FAILED"]) if place in (2, 7) else ("ENQUEUED", 3, ["FAILED", "REQUEUED"]))


def test_operators_who_race_for_all_do_each_job_once(storage: Storage) -> None:
    """And claims that race with them: a job has one line for each time that it was requeued."""
    for turn in range(4):
        failed = claimed(storage, 40, prefix=f"turn-{turn}")
        storage.finish([failure(held) for held in failed])
        began = storage.clock()
        calls: list[Callable[[], Any]] = [
            partial(sweep, storage, REQUEUE, began, batch=15, state=JobState.FAILED) for _ in range(3)
        ]
        *told, taken = at_once([*calls, partial(storage.claim, A, ["h"], 40)])
        assert sum((one[Act.DONE] for one in told), 0) == 40
        assert {tuple(events(storage, held.key)) for held in failed} == {("FAILED", "REQUEUED")}
        storage.finish([success(held) for held in taken])
        sweep(storage, DELETE)


RED = lock_key("n", b"red")
FEW = Limit(limit_key("few"), concurrency=3)


def test_acts_pass_a_lock_on(storage: Storage) -> None:
    """What was cancelled lets go of its key; what is requeued waits behind the others; one act or all that match."""
    put(storage, some_jobs(3, "red", lock_key=RED))
    (first,) = storage.claim(A, ["h"], 9)
    assert storage.cancel(first.key) is Act.DONE
    (second,) = storage.claim(A, ["h"], 9)
    assert second.correlation_id == "red-1"
    assert storage.requeue(first.key) is Act.DONE
    assert (row(storage, first.key)["lane"], storage.claim(A, ["h"], 9)) == (LOCKED, [])
    assert sweep(storage, CANCEL) == {Act.DONE: 1}
    assert [held.correlation_id for held in storage.claim(A, ["h"], 9)] == ["red-2"]
    assert sweep(storage, REQUEUE, state=JobState.DELETED) == {Act.DONE: 1}
    assert sweep(storage, CANCEL) == {Act.DONE: 1}
    assert [held.correlation_id for held in storage.claim(A, ["h"], 9)] == ["red-0"]


def test_run_now_keeps_a_limited_job_in_its_lanes(storage: Storage) -> None:
    """And a paused route is passed over there too."""
    put(storage, [job("few", limit_key=FEW.key)])
    (held,) = storage.claim_limited(A, ["h"], 1, LIMITED, FEW)
    storage.finish([retry(held)])
    assert storage.run_now(held.key) is Act.DONE
    assert row(storage, held.key)["lane"] == LIMITED
    assert storage.peek(["h"], [FEW.key]) == Waiting((False, False, False), (LIMITED,), None)
    assert storage.peek(["h"], [FEW.key], ["r"]) == Waiting((False, False, False), (None,), None)
    assert storage.claim_limited(A, ["h"], 1, LIMITED, FEW, ["r"]) == []
    assert len(storage.claim_limited(A, ["h"], 1, LIMITED, FEW, ["other"])) == 1


def failing(storage: Storage, name: str, *details: str) -> bytes:
    """A job that failed so, the last time for good."""
    put(storage, [job(name)])
    for detail in details[:-1]:
        (held,) = storage.claim(A, ["h"], 1)
        storage.finish([retry(held, 0, detail)])
        storage.run_now(held.key)
    (held,) = storage.claim(A, ["h"], 1)
    storage.finish([failure(held, detail=details[-1])])
    return held.key


def test_jobs_are_found_by_their_last_failure(storage: Storage) -> None:
    """In capitals or not; a pattern's characters stand for themselves; an orphan's last rescue counts."""
    failing(storage, "a", "ValueError: no", "TimeoutError: Ünder 5% at_all")
    failing(storage, "b", "TimeoutError", "ValueError: no")
    orphan = failing(storage, "c", "ValueError: no")
    storage.requeue(orphan)
    storage.claim(A, ["h"], 1)
    storage.rescue(A, max_rescues=0, retention_us=HOUR)
    put(storage, [job("d")])

    def found(**wanted: Any) -> set[object]:
        return {one["correlation_id"] for one in storage.list_jobs(**wanted)}

    assert found(error="timeouterror") == {"a"}
    assert found(error="5% AT_ALL") == {"a"}
    assert found(error="5_ at%all") == set()
    assert found(error="ValueError") == {"b"}
    assert found(error="no rescue") == {"c"}
    assert found(error="", state=JobState.FAILED) == {"a", "b", "c"}
    assert storage.count_matching(REQUEUE, storage.clock(), error="valueerror") == {JobState.FAILED: 1}


def test_jobs_are_found_by_when_they_ended_or_came(storage: Storage) -> None:
    """A job of old that failed a moment ago is a thing of now."""
    now = storage.clock()
    (ended,) = claimed(storage, prefix="ended")
    storage.finish([failure(ended)])
    old, new = job("old"), job("new")
    put(storage, [old, new])
    force(storage, ended.key, created_at=now - 3 * HOUR)
    force(storage, old.id, created_at=now - 3 * HOUR)
    found = {one["correlation_id"] for one in storage.list_jobs(since=now - HOUR)}
    assert found == {"ended-0", "new"}
    assert storage.states([old.id, ended.key, b"?" * 16]) == {old.id: JobState.ENQUEUED, ended.key: JobState.FAILED}
    assert storage.states([]) == {}


def test_a_pause_is_kept_with_who_and_when_and_may_be_done_twice(storage: Storage) -> None:
    """The first one stands; a source and a route may have the same name."""
    before = storage.clock()
    storage.pause("source", "orders", WHO)
    storage.pause("route", "orders", WHO)
    storage.pause("source", "orders", "bob@desk")
    route, source = storage.pauses()
    assert (route.kind, source.kind, source.name, source.by) == ("route", "source", "orders", WHO)
    assert before <= source.at <= storage.clock()
    storage.resume("source", "orders")
    storage.resume("source", "orders")
    assert storage.pauses() == [route]


def routed(name: str, route: str) -> NewJob:
    return job(name, route=route)


def test_claims_pass_over_paused_routes(storage: Storage) -> None:
    """In each lane, and a peek says the same; exactly by the name."""
    offered = [routed("1", "slow"), routed("2", "r"), routed("3", "slow"), routed("4", "Slow"), routed("5", "other")]
    put(storage, offered)
    assert storage.peek(["h"], paused=["slow", "r", "Slow", "other"]) == Waiting((False, False, False), (), None)
    assert storage.peek(["h"], paused=["slow"]) == Waiting((True, False, False), (), None)
    assert [one.correlation_id for one in storage.claim(A, ["h"], 9, 0, ["slow", "other"])] == ["2", "4"]
    assert storage.claim(A, ["h"], 9, 0, ["slow", "other"]) == []
    force(storage, offered[0].id, lane=1, rescues=1)
    assert storage.peek(["h"], paused=["slow"]) == Waiting((True, False, False), (), None)
    assert storage.claim(A, ["h"], 9, 1, ["slow"]) == []
    assert [one.correlation_id for one in storage.claim(A, ["h"], 9, 1)] == ["1"]
    assert [one.correlation_id for one in storage.claim(A, ["h"], 9)] == ["3", "5"]
