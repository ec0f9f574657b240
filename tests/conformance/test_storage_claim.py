"""Claim: each waiting job to one server, the oldest first, lane by lane, and never more than asked for."""

from collections import Counter
from functools import partial

import pytest

from scheduler.job import Job, JobState
from scheduler.storage import Storage
from scheduler.storage.execution import Waiting
from tests.conformance.stores import (
    HOUR,
    RACERS,
    A,
    B,
    Racers,
    at_once,
    claimed,
    force,
    job,
    put,
    row,
    rows,
    some_jobs,
    success,
)


def untimed(held: Job) -> Job:
    """A job as it is whenever it is looked at."""
    return held._replace(waited_us=0, age_us=0)


def test_a_claimed_job_is_told_whole_and_stands_as_processing(storage: Storage) -> None:
    """The answer is the row, with the version and owner that it has now."""
    offered = job("k\xff", body=b"\0body", headers='{"a": "b"}', retries=4, route="route", source="source")
    put(storage, [offered])
    force(storage, offered.id, created_at=storage.clock() - HOUR, due_at=storage.clock() - HOUR // 2)
    before = storage.clock()
    (held,) = storage.claim(A, ["h"], 1)
    assert 0 <= held.age_us - HOUR < HOUR // 10
    assert 0 <= held.waited_us - HOUR // 2 < HOUR // 10
    assert untimed(held) == Job(
        offered.id,
        1,
        A,
        "n",
        offered.correlation_bytes,
        offered.correlation_id,
        "route",
        "h",
        "source",
        '{"a": "b"}',
        b"\0body",
        0,
        0,
        4,
    )
    stands = row(storage, held.key)
    assert (stands["state"], stands["version"], stands["owner"], stands["lane"]) == ("PROCESSING", 1, A, 0)
    assert before <= stands["started_at"] <= storage.clock()
    assert storage.standing(A) == [(held.key, 1)]
    assert [*map(untimed, storage.held(A, [held.key]))] == [untimed(held)]
    assert storage.held(B, [held.key]) == storage.standing(B) == []


def test_the_oldest_are_taken_first_and_no_more_than_the_limit(storage: Storage) -> None:
    """Claims of 7 walk through 30 jobs in order of arrival."""
    offered = some_jobs(30)
    put(storage, offered)
    taken = []
    while batch := storage.claim(A, ["h"], 7):
        assert len(batch) <= 7
        taken += [held.key for held in batch]
    assert taken == [one.id for one in offered]


def test_only_jobs_of_these_handlers_are_taken(storage: Storage) -> None:
    """Others are passed over, by the exact name, also where nobody has them."""
    put(storage, [job(k, handler=name) for k, name in enumerate(["a", "A", "a ", "b", "nobody's", "a"])])
    assert [held.handler for held in storage.claim(A, ["a", "c", "b"], 10)] == ["a", "b", "a"]
    assert storage.claim(A, ["unknown"], 10) == storage.claim(A, [], 10) == []
    assert {one["handler"] for one in rows(storage) if one["state"] == "ENQUEUED"} == {"A", "a ", "nobody's"}


def test_each_lane_is_a_pass_of_its_own(storage: Storage) -> None:
    """A claim takes the lane it asks for; the row then has none."""
    offered = some_jobs(6)
    put(storage, offered)
    for place, one in enumerate(offered):
        force(storage, one.id, lane=place % 3, rescues=place)
    for lane in (2, 1, 0):
        (first,) = storage.claim(A, ["h"], 1, lane)
        (second,) = storage.claim(A, ["h"], 5, lane)
        assert [first.key, second.key] == [offered[lane].id, offered[lane + 3].id]
        assert [first.rescues, second.rescues] == [lane, lane + 3]
        assert row(storage, first.key)["lane"] == 0
        assert storage.claim(A, ["h"], 5, lane) == []


def test_peek_tells_what_claim_and_promote_would_find(storage: Storage) -> None:
    """Each lane by itself, for these handlers; what is due, for any handler."""
    nothing = Waiting((False, False, False), (), None)
    assert storage.peek(["h"]) == nothing
    offered = [job("a"), job("b", handler="other"), job("c")]
    put(storage, offered)
    force(storage, offered[0].id, lane=1)
    assert storage.peek(["h", "none"]) == Waiting((True, True, False), (), None)
    assert storage.peek(["other"]) == Waiting((True, False, False), (), None)
    assert storage.peek(["none"]) == storage.peek([]) == nothing
    force(storage, offered[0].id, state="SCHEDULED", due_at=storage.clock() + 3_600_000_000)
    later = storage.peek(["none"])
    assert later.lanes == nothing.lanes
    assert later.left is not None
    assert 3500 < later.left <= 3600
    force(storage, offered[0].id, due_at=1)
    overdue = storage.peek(["none"]).left
    assert overdue is not None
    assert overdue < 0


@pytest.mark.parametrize("state", [one for one in JobState if one is not JobState.ENQUEUED])
def test_only_enqueued_jobs_are_claimed(storage: Storage, state: JobState) -> None:
    """A job in any other state is left alone, whatever its lane."""
    put(storage, [job("k")])
    force(storage, job("k").id, state=state.value, owner=B)
    assert [storage.claim(A, ["h"], 5, lane) for lane in (0, 1, 2)] == [[], [], []]
    assert row(storage, job("k").id)["owner"] == B


def claim_all(storage: Storage, place: int) -> list[tuple[bytes, int]]:
    """Claim by batches of various sizes until there is nothing left; (id, size of the answer over the limit)."""
    owner = bytes([place + 1]) * 16
    taken = []
    limit = 1
    while True:
        limit = limit % 37 + 5
        batch = storage.claim(owner, ["h"], limit)
        assert len(batch) <= limit
        assert {held.owner for held in batch} <= {owner}
        taken += [(held.key, held.version) for held in batch]
        if not batch and not storage.peek(["h"]).lanes[0]:
            return taken


def assert_each_claimed_once(storage: Storage, told: list[list[tuple[bytes, int]]]) -> None:
    """Nothing twice, nothing lost, and each claimer owns what it was told."""
    assert set(Counter(key for taken in told for key, _ in taken).values()) == {1}
    assert sum(map(len, told)) == 2000
    for place, taken in enumerate(told):
        assert sorted(storage.standing(bytes([place + 1]) * 16)) == sorted(taken)


def test_racing_threads_claim_each_job_once(storage: Storage) -> None:
    """Six threads over 2,000 jobs."""
    put(storage, some_jobs(2000))
    assert_each_claimed_once(storage, at_once([partial(claim_all, storage, place) for place in range(6)]))


def test_racing_processes_claim_each_job_once(storage: Storage, racers: Racers) -> None:
    """Six processes over 2,000 jobs."""
    put(storage, some_jobs(2000))
    store_url = storage.engine.url.render_as_string(hide_password=False)
    assert_each_claimed_once(storage, racers.race(claim_all, store_url, range(RACERS)))


def live(storage: Storage, place: int) -> tuple[int, int, int]:
    """Insert, claim and finish as a pod does, among others that do; how many were new, run and recorded."""
    owner = bytes([place + 1]) * 16
    new = run = recorded = 0
    for turn in range(6):
        answers = storage.insert_if_absent(
            some_jobs(60, f"turn-{turn}"), token=place * 100 + turn, owner=owner, claimed=20
        )
        new += sum(one.outcome.name == "NEW" for one in answers)
        mine = storage.held(owner, [key for key, _ in storage.standing(owner)])
        while mine:
            run += len(mine)
            recorded += len(storage.finish([success(held) for held in mine]))
            mine = storage.claim(owner, ["h"], 25)
    return new, run, recorded


def test_a_storm_of_inserts_claims_and_finishes_runs_each_job_once(storage: Storage, racers: Racers) -> None:
    """Six processes offer the same messages and work on them: one row, one run, one result for each."""
    store_url = storage.engine.url.render_as_string(hide_password=False)
    told = racers.race(live, store_url, range(RACERS))
    assert [sum(column) for column in zip(*told, strict=True)] == [360, 360, 360]
    assert {(one["state"], one["version"]) for one in rows(storage)} <= {("SUCCEEDED", 2)}
    assert len(rows(storage)) == 360


def test_held_and_standing_tell_only_what_is_processing(storage: Storage) -> None:
    """A finished row keeps its owner, and is held no more."""
    first, second = claimed(storage, 2)
    storage.finish([success(first)])
    assert storage.standing(A) == [(second.key, second.version)]
    assert [*map(untimed, storage.held(A, [first.key, second.key]))] == [untimed(second)]
    assert storage.held(A, []) == []
    assert row(storage, first.key)["owner"] == A
