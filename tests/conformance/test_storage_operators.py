"""What people look at and do: counts and lists that are right, acts that are guarded and leave a line."""

import contextlib
from collections import Counter
from functools import partial
from uuid import UUID

import pytest
from sqlalchemy import Connection, event

from scheduler.job import FINISHED, JobState, job_id, preview
from scheduler.storage import Act, Storage, open_storage
from scheduler.storage.records import Event, Finish
from tests.conformance.stores import (
    DAY,
    HOUR,
    A,
    at_once,
    claimed,
    events,
    failure,
    force,
    job,
    letter,
    put,
    row,
    rows,
    some_jobs,
    success,
)


def in_state(storage: Storage, state: JobState) -> bytes:
    """A job in this state."""
    (held,) = claimed(storage, prefix=f"in-{state.value}")
    finished = storage.clock() if state in FINISHED else None
    force(storage, held.key, state=state.value, finished_at=finished, attempts=3, rescues=2)
    return held.key


@pytest.mark.parametrize("state", list(JobState))
def test_requeue_lets_a_finished_job_run_again_with_all_its_tries(storage: Storage, state: JobState) -> None:
    """Failures and rescues are reset, a line is left; a job that is not finished is left alone."""
    key = in_state(storage, state)
    before = row(storage, key)
    if state not in FINISHED:
        assert storage.requeue(key) is Act.WRONG_STATE
        assert (row(storage, key), events(storage, key)) == (before, [])
        return
    now = storage.clock()
    assert storage.requeue(key) is Act.DONE
    stands = row(storage, key)
    assert (stands["state"], stands["version"], stands["lane"]) == ("ENQUEUED", before["version"] + 1, 0)
    assert (stands["attempts"], stands["rescues"], stands["finished_at"]) == (0, 0, None)
    assert now <= stands["due_at"] <= storage.clock()
    assert events(storage, key) == ["REQUEUED"]
    assert state.value in str(storage.job_events(key)[0]["detail"])
    assert [held.key for held in storage.claim(A, ["h"], 9)] == [key]


@pytest.mark.parametrize("state", list(JobState))
def test_delete_ends_a_job_that_has_not_succeeded(storage: Storage, state: JobState) -> None:
    """Its ID is remembered for the retention; SUCCEEDED and DELETED are left alone."""
    key = in_state(storage, state)
    before = row(storage, key)
    if state in (JobState.SUCCEEDED, JobState.DELETED):
        assert storage.delete(key) is Act.WRONG_STATE
        assert (row(storage, key), events(storage, key)) == (before, [])
        return
    assert storage.delete(key, HOUR) is Act.DONE
    stands = row(storage, key)
    assert (stands["state"], stands["version"], stands["lane"]) == ("DELETED", before["version"] + 1, 0)
    assert stands["due_at"] == stands["finished_at"] + HOUR
    assert events(storage, key) == ["DELETED"]
    assert [storage.claim(A, ["h"], 9, lane) for lane in (0, 1, 2)] == [[], [], []]
    assert (storage.promote(), storage.rescue(A, max_rescues=3, retention_us=1)) == (0, 0)


def test_acts_on_a_job_that_is_not_there_say_so(storage: Storage) -> None:
    """And leave no line."""
    assert storage.requeue(b"?" * 16) is storage.delete(b"?" * 16) is Act.NOT_FOUND
    assert storage.job_events(b"?" * 16) == []


def test_a_job_whose_body_was_dropped_is_not_requeued(storage: Storage) -> None:
    """There is nothing left to give to its handler."""
    (held,) = claimed(storage)
    storage.finish([success(held, drop_body=True)])
    assert storage.requeue(held.key) is Act.BODY_DROPPED
    assert (row(storage, held.key)["state"], events(storage, held.key)) == ("SUCCEEDED", [])


@pytest.mark.parametrize("act", ["requeue", "delete"])
@pytest.mark.parametrize("url_name", ["postgresql_url", "mariadb_url"])
def test_an_act_on_a_job_that_moves_on_meanwhile_changes_nothing(
    request: pytest.FixtureRequest, url_name: str, act: str
) -> None:
    """Between its read and its write another wins. (On SQLite nobody can come in between.)"""
    url = request.getfixturevalue(url_name)
    with contextlib.closing(open_storage(url)) as storage, contextlib.closing(open_storage(url)) as other:
        storage.migrate()
        (held,) = claimed(storage)
        storage.finish([failure(held)])

        def intrude(connection: Connection, cursor: object, statement: str, *_: object) -> None:
            if statement.startswith("UPDATE jobbridge_jobs"):
                force(other, held.key, version=9)

        event.listen(storage.engine, "before_cursor_execute", intrude)
        assert getattr(storage, act)(held.key) is Act.LOST_RACE
        assert (row(other, held.key)["state"], row(other, held.key)["version"]) == ("FAILED", 9)
        assert events(other, held.key) == ["FAILED"]


def test_racing_operators_requeue_a_job_once(storage: Storage) -> None:
    """One of four is told DONE and leaves its line; the others hear that they lost."""
    for turn in range(12):
        (held,) = claimed(storage, prefix=f"turn-{turn}")
        storage.finish([failure(held)])
        told = Counter(at_once([partial(storage.requeue, held.key)] * 4))
        assert told[Act.DONE] == 1
        assert told[Act.WRONG_STATE] + told[Act.LOST_RACE] == 3
        assert events(storage, held.key) == ["FAILED", "REQUEUED"]
        assert row(storage, held.key)["version"] == 3
        storage.delete(held.key)


def test_a_delete_and_a_result_that_race_have_one_winner(storage: Storage) -> None:
    """Either the job is DELETED and the result refused, or it is SUCCEEDED and stays so."""
    for turn in range(12):
        (held,) = claimed(storage, prefix=f"turn-{turn}")
        act, written = at_once([partial(storage.delete, held.key), partial(storage.finish, [success(held)])])
        assert (row(storage, held.key)["state"], bool(written)) == (
            ("DELETED", False) if act is Act.DONE else ("SUCCEEDED", True)
        )


def test_counts_are_exact_and_name_every_state(storage: Storage) -> None:
    """All six states, with noughts; the backlog is counted no further than its bound."""
    assert storage.count_by_state() == dict.fromkeys(JobState, 0)
    assert (storage.backlog(10), storage.count_dead_letters()) == (0, 0)
    storage.finish([success(held) for held in claimed(storage, 3)])
    put(storage, some_jobs(7, "waiting"))
    assert storage.count_by_state() == dict.fromkeys(JobState, 0) | {JobState.SUCCEEDED: 3, JobState.ENQUEUED: 7}
    assert [storage.backlog(bound) for bound in (1, 6, 7, 8, 1000)] == [1, 6, 7, 7, 7]


def test_the_handlers_of_what_is_left_to_do_are_counted(storage: Storage) -> None:
    """By state, without what ended well, and of each state no further than the bound, the oldest first."""
    assert storage.count_by_handler(10) == {}
    for state in JobState:
        force(storage, in_state(storage, state), handler="gone")
    put(storage, some_jobs(5, handler="new"))
    undone = (JobState.SCHEDULED, JobState.ENQUEUED, JobState.PROCESSING, JobState.FAILED)
    assert storage.count_by_handler(10) == dict.fromkeys(((state, "gone") for state in undone), 1) | {
        (JobState.ENQUEUED, "new"): 5
    }
    assert storage.count_by_handler(1) == dict.fromkeys(((state, "gone") for state in undone), 1)


def test_lists_filter_and_leave_the_bodies_out(storage: Storage) -> None:
    """By state, route, handler and source; the newest first, up to the limit."""
    put(storage, [job(k, route=f"r{k % 2}", handler=f"h{k % 3}", source=f"s{k % 5}") for k in range(30)])
    storage.claim(A, ["h0"], 4)
    assert [one["correlation_id"] for one in storage.list_jobs(limit=3)] == ["29", "28", "27"]
    assert {one["correlation_id"] for one in storage.list_jobs(state=JobState.PROCESSING)} == {"0", "3", "6", "9"}
    assert [one["correlation_id"] for one in storage.list_jobs(route="r1", handler="h2", source="s1")] == ["11"]
    assert storage.list_jobs(route="none") == []
    (first,) = storage.list_jobs(limit=1)
    assert isinstance(first["id"], UUID)
    assert not {"body", "token"} & set(first)


def test_a_job_is_found_by_its_id_and_by_its_correlation_id(storage: Storage) -> None:
    """With its body; by key where the namespace is known, by text otherwise, by the printable form of any bytes."""
    mine, other = job("order-7"), job("order-7", namespace="other")
    odd = job(b"\xff\0")
    put(storage, [mine, other, odd])
    (by_uuid,) = storage.find_jobs(str(UUID(bytes=mine.id)))
    assert (by_uuid["id"], by_uuid["body"]) == (UUID(bytes=mine.id), b"{}")
    assert [one["namespace"] for one in storage.find_jobs("order-7", ["n", "unknown"])] == ["n"]
    assert {one["namespace"] for one in storage.find_jobs("order-7")} == {"n", "other"}
    assert [one["id"] for one in storage.find_jobs(preview(b"\xff\0"))] == [UUID(bytes=odd.id)]
    assert storage.find_jobs("Order-7", ["n"]) == storage.find_jobs("nothing") == storage.find_jobs("") == []
    assert storage.find_jobs(str(UUID(bytes=b"?" * 16))) == []


@pytest.mark.parametrize("text", ["\udcff", "a\0b", "%", "'", "\U0001f600"])
def test_any_text_may_be_looked_for(storage: Storage, text: str) -> None:
    """What a command line hands over need be neither UTF-8 nor printable."""
    put(storage, [job("k")])
    assert storage.find_jobs(text, ["n"]) == storage.find_jobs(text) == []
    wanted = job(text.encode("utf-8", "surrogateescape"))
    put(storage, [wanted])
    assert [one["id"] for one in storage.find_jobs(text, ["n"])] == [UUID(bytes=wanted.id)]
    assert [one["id"] for one in storage.find_jobs(text)] == [UUID(bytes=wanted.id)]
    assert wanted.id == job_id("n", text.encode("utf-8", "surrogateescape"))


def test_a_history_is_told_in_order(storage: Storage) -> None:
    """Each line with its kind, version and owner."""
    (held,) = claimed(storage)
    storage.finish([Finish(held.key, 1, A, JobState.FAILED, DAY, failures=1, events=(Event("FAILED", "one"),))])
    storage.requeue(held.key)
    storage.delete(held.key)
    storage.requeue(held.key)
    told = storage.job_events(held.key)
    assert [one["kind"] for one in told] == ["FAILED", "REQUEUED", "DELETED", "REQUEUED"]
    assert [one["version"] for one in told] == [1, 2, 3, 4]
    assert [one["owner"] for one in told] == [UUID(bytes=A), None, None, None]
    assert {one["job_id"] for one in told} == {UUID(bytes=held.key)}
    assert row(storage, held.key)["version"] == 5


def test_dead_letters_are_listed_shown_and_dropped(storage: Storage) -> None:
    """Lists leave the bodies out; one letter is told whole; a second drop says that it was not there."""
    one = letter("one", source="s1", body=b"\0\xff", envelope='{"headers": {"x": "\\ud800"}}')
    storage.insert_dead_letters([one, letter("two", reason="too-large"), letter("three", source="s3")])
    assert {found["correlation_id"] for found in storage.list_dead_letters()} == {"one", "two", "three"}
    assert [found["correlation_id"] for found in storage.list_dead_letters(reason="too-large")] == ["two"]
    assert [found["correlation_id"] for found in storage.list_dead_letters(source="s3")] == ["three"]
    assert len(storage.list_dead_letters(limit=2)) == 2
    assert all("body" not in found for found in storage.list_dead_letters())
    whole = storage.dead_letter(one.id)
    assert whole is not None
    assert (whole["body"], whole["envelope"], whole["size"]) == (one.body, one.envelope, 4)
    assert storage.dead_letter(b"?" * 16) is None
    assert [storage.drop_dead_letter(one.id) for _ in range(2)] == [True, False]
    assert storage.count_dead_letters() == 2
    assert rows(storage) == []
