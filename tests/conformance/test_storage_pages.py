"""Pages of lists, and rows with the head of their body, on every database."""

import pytest

from scheduler.job import JobState
from scheduler.storage import Storage, pages
from scheduler.storage.acts import REQUEUE
from scheduler.storage.matching import Wanted
from scheduler.storage.pages import HEAD
from tests.conformance.stores import claimed, failure, force, job, put, retry, some_jobs, success


def walked(storage: Storage, state: JobState, wanted: Wanted | None = None) -> list[str]:
    """The correlation IDs of all pages, seven a page."""
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        page = storage.page_of_jobs(state, wanted or {}, after, limit=7)
        found += [str(one["correlation_id"]) for one in page.rows]
        after = page.after
    return found


def test_pages_follow_each_other_in_every_state(storage: Storage) -> None:
    """Each row once, in the order of the turn or of the end; rows that share a time are told apart by their id."""
    names = [f"job-{k}" for k in range(20)]
    held = claimed(storage, 20)
    assert walked(storage, JobState.PROCESSING) == names
    storage.finish([success(one) for one in held])
    assert sorted(walked(storage, JobState.SUCCEEDED)) == sorted(names)
    for one in some_jobs(20):
        storage.requeue(one.id)
    for k, one in enumerate(some_jobs(20)):
        force(storage, one.id, lane=k % 3, due_at=5)
    enqueued = walked(storage, JobState.ENQUEUED)
    assert sorted(enqueued) == sorted(names)
    assert [int(name[4:]) % 3 for name in enqueued] == [0] * 7 + [1] * 7 + [2] * 6
    for one in some_jobs(20):
        storage.delete(one.id, by="x")
    assert sorted(walked(storage, JobState.DELETED)) == sorted(names)
    assert walked(storage, JobState.FAILED) == walked(storage, JobState.SCHEDULED) == []


def test_the_last_that_ended_comes_first(storage: Storage) -> None:
    held = claimed(storage, 3)
    for k, one in enumerate(held):
        storage.finish([failure(one, retention=(k + 1) * 1_000_000_000)])
    assert walked(storage, JobState.FAILED) == ["job-2", "job-1", "job-0"]
    put(storage, some_jobs(2, "later"))
    for k, one in enumerate(storage.claim(b"r" * 16, ["h"], 2)):
        storage.finish([retry(one, delay=(k + 1) * 1_000_000_000)])
    assert walked(storage, JobState.SCHEDULED) == ["later-0", "later-1"]


def test_a_filter_finds_all_by_going_on(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each page looks through a part and says so."""
    monkeypatch.setattr(pages, "LOOKED", 10)
    put(storage, [job(f"job-{k}", route="rare" if k % 15 == 0 else "r") for k in range(60)])
    first = storage.page_of_jobs(JobState.ENQUEUED, {"route": "rare"})
    assert ([one["correlation_id"] for one in first.rows], first.filled) == (["job-0"], False)
    assert walked(storage, JobState.ENQUEUED, {"route": "rare"}) == [f"job-{k}" for k in (0, 15, 30, 45)]
    assert walked(storage, JobState.ENQUEUED, {"route": "none"}) == []


@pytest.mark.parametrize("after", ["x", "1-2", "-1-" + "0" * 32, "1-" + "0" * 31, "9" * 19 + "-" + "0" * 32])
def test_a_place_that_is_none_is_the_begin(storage: Storage, after: str) -> None:
    put(storage, some_jobs(1))
    storage.finish([failure(one) for one in storage.claim(b"f" * 16, ["h"], 1)])
    assert len(storage.page_of_jobs(JobState.FAILED, {}, after).rows) == 1


def test_counts_end_at_their_bound(storage: Storage) -> None:
    storage.finish([failure(one) for one in claimed(storage, 9)])
    assert [storage.count_some(JobState.FAILED, bound) for bound in (5, 50)] == [5, 9]
    began = storage.clock()
    assert [storage.count_some_matching(REQUEUE, began, bound, error="trace") for bound in (5, 50)] == [5, 9]
    assert storage.count_some_matching(REQUEUE, began, 50, route="none") == 0
    assert storage.count_some_dead_letters(5) == 0


def test_of_a_body_the_head_is_read(storage: Storage) -> None:
    """And its whole length is told; a body that was dropped has none."""
    put(storage, [job("large", body=b"\xff" * (HEAD + 10)), job("none")])
    storage.finish([success(one, drop_body=True) for one in storage.claim(b"s" * 16, ["h"], 2)[1:]])
    found = {str(one["correlation_id"]): one for one in storage.job_heads([job("large").id, job("none").id])}
    assert (found["large"]["body"], found["large"]["size"]) == (b"\xff" * HEAD, HEAD + 10)
    assert (found["none"]["body"], found["none"]["size"]) == (None, None)
    assert storage.job_heads([]) == []
