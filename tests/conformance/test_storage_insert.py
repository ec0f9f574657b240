"""Insert if absent: one id, one row, and an honest answer, whoever races and whatever reply is lost."""

import random
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from scheduler.job import JobState, NewJob, headers_json, preview
from scheduler.storage import Storage
from scheduler.storage.intake import Answer, Placed
from scheduler.storage.records import Inserted, Outcome
from tests.conformance.stores import (
    RACERS,
    A,
    B,
    Racers,
    at_once,
    claimed,
    job,
    letter,
    letters,
    put,
    row,
    rows,
    some_jobs,
    success,
)

NEW = Inserted(Outcome.NEW, False)
NEW_CLAIMED = Inserted(Outcome.NEW, True)
DUPLICATE = Inserted(Outcome.DUPLICATE, False)
CONFLICT = Inserted(Outcome.CONFLICT, False)
COLLISION = Inserted(Outcome.COLLISION, False)

BOTH_WAYS = pytest.mark.parametrize("look_first", [False, True], ids=["insert-first", "look-first"])


class RollBack(Exception):
    """Ends an open transaction."""


def test_a_new_job_stands_as_it_was_given(storage: Storage) -> None:
    """Every column is what was offered; nothing is set that a run would set."""
    before = storage.clock()
    offered = job("k", body=b"\x00\xffbody", headers=headers_json({"a": "\0", "b": "\ud800", "é": "ü"}), retries=3)
    assert storage.insert_if_absent([offered], token=-(2**63)) == [NEW]
    stands = row(storage, offered.id)
    kept = [name for name in offered._fields if name in stands]
    assert {name: stands[name] for name in kept} == {name: getattr(offered, name) for name in kept}
    assert (stands["state"], stands["version"], stands["lane"], stands["owner"]) == ("ENQUEUED", 0, 0, None)
    assert (stands["attempts"], stands["rescues"], stands["token"]) == (0, 0, -(2**63))
    assert (stands["started_at"], stands["finished_at"]) == (None, None)
    assert before <= stands["created_at"] == stands["due_at"] <= storage.clock()


def test_nothing_offered_is_answered_with_nothing(storage: Storage) -> None:
    """An empty batch is no error."""
    assert storage.insert_if_absent([], token=1) == []
    assert rows(storage) == []


@BOTH_WAYS
def test_answers_tell_new_duplicate_conflict_and_collision_apart(storage: Storage, look_first: bool) -> None:
    """One batch may hold all four, each answered in its place, and only the new one makes a row."""
    first, second, third = some_jobs(3)
    put(storage, [first, second, third])
    offered = [
        first,
        second._replace(body=b"[]", digest=job("x", body=b"[]").digest),
        job("fresh"),
        third._replace(correlation_bytes=b"another"),
    ]
    foreseen = [storage.foresee(one) for one in offered]
    assert len(rows(storage)) == 3 and storage.list_conflicts() == []
    answers = storage.insert_if_absent(offered, token=2, look_first=look_first)
    assert answers == [DUPLICATE, CONFLICT, NEW, COLLISION]
    assert [outcome for outcome, _ in foreseen] == [answer.outcome for answer in answers]
    assert [standing and standing["correlation_id"] for _, standing in foreseen] == ["job-0", "job-1", None, "job-2"]
    assert len(rows(storage)) == 4
    assert row(storage, second.id)["body"] == b"{}"  # the first wins


@BOTH_WAYS
def test_a_longer_id_with_the_same_kept_bytes_is_a_collision_too(storage: Storage, look_first: bool) -> None:
    """The length is compared, since only 255 bytes are kept."""
    long = job(b"x" * 300)
    put(storage, [long])
    forged = job(b"x" * 301)._replace(id=long.id)
    assert storage.insert_if_absent([forged], token=2, look_first=look_first) == [COLLISION]


def test_a_conflict_is_counted_and_listed(storage: Storage) -> None:
    """One line for each other body, with how often it came."""
    put(storage, [job("k", body=b"first")])
    for body in (b"second", b"second", b"third", b"second"):
        assert storage.insert_if_absent([job("k", body=body)], token=2) == [CONFLICT]
    assert storage.insert_if_absent([job("k", body=b"first")], token=2) == [DUPLICATE]
    listed = storage.list_conflicts()
    assert Counter({bytes(one["digest"]): one["times"] for one in listed}) == {  # type: ignore[call-overload]
        job("k", body=b"second").digest: 3,
        job("k", body=b"third").digest: 1,
    }
    assert {(one["correlation_id"], one["namespace"], one["state"]) for one in listed} == {("k", "n", "ENQUEUED")}


def test_racing_conflicts_are_each_counted(storage: Storage) -> None:
    """Six writers of another body count six."""
    put(storage, [job("k", body=b"first")])
    offer = partial(storage.insert_if_absent, [job("k", body=b"second")], token=2)
    assert at_once([offer] * 6) == [[CONFLICT]] * 6
    assert [one["times"] for one in storage.list_conflicts()] == [6]


def test_the_first_in_order_of_arrival_are_inserted_claimed(storage: Storage) -> None:
    """They stand as PROCESSING, version 1, with the owner; the rest waits for anybody."""
    offered = some_jobs(20)
    answers = storage.insert_if_absent(offered, token=1, owner=A, claimed=7)
    assert answers == [NEW_CLAIMED] * 7 + [NEW] * 13
    for place, one in enumerate(offered):
        stands = row(storage, one.id)
        held = place < 7
        assert (stands["state"], stands["version"], stands["owner"]) == (
            ("PROCESSING", 1, A) if held else ("ENQUEUED", 0, None)
        )
        assert (stands["started_at"] is not None) == held
    assert {key for key, _ in storage.standing(A)} == {one.id for one in offered[:7]}


def test_the_order_of_arrival_is_kept_though_ids_are_random(storage: Storage) -> None:
    """`due_at` grows by a microsecond from row to row, and a claim follows it."""
    offered = some_jobs(200)
    put(storage, offered)
    due = [row(storage, one.id)["due_at"] for one in offered]
    assert due == list(range(due[0], due[0] + 200))
    assert [held.key for held in storage.claim(A, ["h"], 200)] == [one.id for one in offered]


@BOTH_WAYS
def test_a_lost_reply_is_answered_again_under_its_token(storage: Storage, look_first: bool) -> None:
    """NEW, and claimed while it stands so; another token hears that the row was there."""
    offered = some_jobs(4)
    first = storage.insert_if_absent(offered, token=7, owner=A, claimed=3)
    again = partial(storage.insert_if_absent, offered, owner=A, claimed=3, look_first=look_first)
    assert again(token=7) == first == [NEW_CLAIMED] * 3 + [NEW]
    assert again(token=8) == [DUPLICATE] * 4
    (held,) = storage.held(A, [offered[1].id])
    storage.finish([success(held)])
    assert again(token=7) == [NEW_CLAIMED, NEW, NEW_CLAIMED, NEW]
    assert storage.insert_if_absent(offered, token=7, owner=B, claimed=3, look_first=look_first) == [NEW] * 4


def test_ids_that_a_text_key_would_fold_are_different_jobs(storage: Storage) -> None:
    """Case, trailing blanks, NUL, accents and bytes that are no UTF-8 all make another ID, also in the namespace."""
    raw = [
        b"order",
        b"Order",
        b"order ",
        b" order",
        b"order\0",
        b"order\0\0",
        b"order\xff",
        "ordér".encode(),
        "orde\u0301r".encode(),
        "order\u200b".encode(),
        "straße".encode(),
        b"strasse",
        b"\0",
        b" ",
        b"%",
    ]
    offered = [job(one) for one in raw]
    offered += [job("order", namespace=name) for name in ("N", "n ", "ñ", "")]
    assert storage.insert_if_absent(offered, token=1) == [NEW] * len(offered)
    assert storage.insert_if_absent(offered, token=2) == [DUPLICATE] * len(offered)
    assert [row(storage, one.id)["correlation_bytes"] for one in offered[: len(raw)]] == raw
    for one in raw:
        assert one in [found["correlation_bytes"] for found in storage.find_jobs(preview(one))]


@pytest.mark.parametrize("raw", [b"x" * 255, b"\0" * 255, b"\xff" * 255, "\u2028".encode() * 85, "😀".encode() * 64])
def test_a_full_correlation_id_is_kept_whole_and_shown(storage: Storage, raw: bytes) -> None:
    """255 bytes, printable or not, fit with their preview; of what is longer the head and the length are kept."""
    offered = job(raw)
    put(storage, [offered])
    stands = row(storage, offered.id)
    assert (stands["correlation_bytes"], stands["correlation_length"]) == (raw[:255], len(raw))
    assert stands["correlation_id"].isprintable()
    assert stands["correlation_id"] == preview(raw[:255])


def test_long_ids_with_one_head_are_different_jobs(storage: Storage) -> None:
    """The whole ID counts, though only its head is kept."""
    head = b"x" * 255
    offered = [job(head), job(head + b"1"), job(head + b"2"), job(head * 400)]
    assert storage.insert_if_absent(offered, token=1) == [NEW] * 4
    assert [row(storage, one.id)["correlation_length"] for one in offered] == [255, 256, 256, 255 * 400]


def test_a_key_that_is_too_long_is_refused_and_never_cut(storage: Storage) -> None:
    """20 bytes are not the 16 they begin with, neither to a row that stands nor to a new one."""
    known, fresh = job("known"), job("fresh")
    put(storage, [known])
    for one in (known, fresh):
        with pytest.raises(DBAPIError):
            storage.insert_if_absent([one._replace(id=one.id + b"more")], token=2)
    assert [stands["id"] for stands in rows(storage)] == [known.id]


def test_dead_letters_are_committed_with_their_batch_once(storage: Storage) -> None:
    """One call stores both; the same letter again, or twice in one batch, is one letter."""
    one, two = letter("one"), letter("two", body=b"\0\xff", detail="NUL: \\x00")
    assert storage.insert_if_absent([job("k")], token=1, rejected=[two, one, two]) == [NEW]
    assert storage.insert_if_absent([], token=2, rejected=[one]) == []
    storage.insert_dead_letters([two, one])
    assert {stands["id"] for stands in letters(storage)} == {one.id, two.id}
    assert storage.count_dead_letters() == 2
    assert storage.dead_letter(two.id) is not None


def test_jobs_and_dead_letters_stand_together_or_not_at_all(storage: Storage) -> None:
    """A letter that the database refuses takes the batch's jobs with it, and the other way round."""
    good, bad = letter("good"), letter("bad", body=None)
    with pytest.raises(DBAPIError):
        storage.insert_if_absent(some_jobs(3), token=1, rejected=[good, bad])
    with pytest.raises(DBAPIError):
        storage.insert_if_absent([job("k")._replace(id=b"x" * 20)], token=1, rejected=[good])
    assert (rows(storage), letters(storage)) == ([], [])


def test_a_duplicate_is_told_only_once_the_row_is_committed(storage: Storage) -> None:
    """A writer that meets an open transaction's row waits for its end, also when it looks first."""
    offered = some_jobs(5)
    with ThreadPoolExecutor(2) as pool:
        with storage.transaction() as open_one:
            storage._insert(open_one, sorted(enumerate(offered), key=lambda placed: placed[1].id), 1, None, 0)
            waiting = [
                pool.submit(storage.insert_if_absent, offered, token=2),
                pool.submit(storage.insert_if_absent, offered, token=3, look_first=True),
            ]
            assert not wait(waiting, timeout=0.2).done
        assert [one.result(30) for one in waiting] == [[DUPLICATE] * 5] * 2


def test_a_first_writer_that_rolls_back_leaves_each_job_to_one_of_those_who_wait(storage: Storage) -> None:
    """Of three that wait each id is NEW for exactly one, whatever deadlocks the roll-back causes."""
    for turn in range(6):
        offered = some_jobs(20, f"turn-{turn}")
        placed = sorted(enumerate(offered), key=lambda one: one[1].id)
        barrier = threading.Barrier(4)

        def offer(token: int, offered: list[NewJob] = offered, barrier: threading.Barrier = barrier) -> list[Inserted]:
            barrier.wait(30)
            return storage.insert_if_absent(offered, token=token)

        with ThreadPoolExecutor(3) as pool:
            with pytest.raises(RollBack), storage.transaction() as open_one:
                storage._insert(open_one, placed, 1, None, 0)
                waiting = [pool.submit(offer, token) for token in (2, 3, 4)]
                barrier.wait(30)
                wait(waiting, timeout=0.03)
                raise RollBack
            answers = [one.result(60) for one in waiting]
        for told in zip(*answers, strict=True):
            assert sorted(one.outcome.name for one in told) == ["DUPLICATE", "DUPLICATE", "NEW"]
    assert len(rows(storage)) == 6 * 20


def opposite_writers(storage: Storage, place: int) -> tuple[list[int], int]:
    """Offer the same 1,000 ids, every other writer in the opposite order; how many were NEW, and the retries."""
    retries: list[float] = []
    storage.sleep = retries.append
    new = []
    for turn in range(4):
        offered = sorted(some_jobs(1000, f"turn-{turn}"), key=lambda one: one.id, reverse=place % 2 == 0)
        answers = storage.insert_if_absent(offered, token=place + 1)
        new.append(sum(one.outcome is Outcome.NEW for one in answers))
    return new, len(retries)


def test_writers_of_the_same_ids_in_opposite_order_never_wait_in_a_circle(storage: Storage, racers: Racers) -> None:
    """Threads and processes: each id is NEW once, and no deadlock had to be resolved."""
    store_url = storage.engine.url.render_as_string(hide_password=False)
    told = racers.race(opposite_writers, store_url, range(RACERS))
    assert [sum(new) for new in zip(*(new for new, _ in told), strict=True)] == [1000] * 4
    assert len(rows(storage)) == 4000
    assert [retries for _, retries in told] == [0] * RACERS


def test_rows_are_written_in_the_order_of_their_ids(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever order they came in, also where some stand already: the circles of the races below can't begin."""
    sent: list[list[bytes]] = []
    insert = storage._insert

    def noting(connection: Connection, placed: Sequence[Placed], *more: Any) -> Answer:
        sent.append([one.id for _, one in placed])
        return insert(connection, placed, *more)

    monkeypatch.setattr(storage, "_insert", noting)
    forth = sorted(some_jobs(20), key=lambda one: one.id)
    for offered in (forth[::-1][::2], forth[::-1]):
        storage.insert_if_absent(offered, token=1, look_first=True)
    assert [len(ids) for ids in sent] == [10, 10]
    assert all(ids == sorted(ids) for ids in sent)


def test_two_threads_in_opposite_order_never_wait_in_a_circle(storage: Storage) -> None:
    """Two threads of one pod: each id is NEW once, and no deadlock had to be resolved."""
    retries: list[float] = []
    storage.sleep = retries.append
    forth = sorted(some_jobs(1000), key=lambda one: one.id)
    answers = at_once(
        [
            lambda: storage.insert_if_absent(forth, token=1),
            lambda: storage.insert_if_absent(forth[::-1], token=2),
        ]
    )
    assert sum(one.outcome is Outcome.NEW for told in answers for one in told) == len(rows(storage)) == 1000
    assert retries == []


def same_ids(storage: Storage, place: int) -> list[list[str]]:
    """Offer the same 200 ids in many rounds, in an order of one's own, part of them claimed."""
    chance = random.Random(place)
    told = []
    for turn in range(12):
        offered = some_jobs(200, f"turn-{turn}")
        order = list(range(200))
        chance.shuffle(order)
        answers = storage.insert_if_absent(
            [offered[k] for k in order],
            token=place * 100 + turn,
            owner=bytes([place]) * 16,
            claimed=50,
            look_first=turn % 3 == 2,
        )
        by_place = dict(zip(order, answers, strict=True))
        told.append(["claimed" if by_place[k].claimed else by_place[k].outcome.name for k in range(200)])
    return told


def test_many_writers_of_the_same_ids_make_one_row_each(storage: Storage, racers: Racers) -> None:
    """Each id of each round is NEW for exactly one process, and who heard `claimed` owns the row."""
    store_url = storage.engine.url.render_as_string(hide_password=False)
    told = racers.race(same_ids, store_url, range(RACERS))
    assert len(rows(storage)) == 12 * 200
    for turn in range(12):
        for k, one in enumerate(some_jobs(200, f"turn-{turn}")):
            answers = [writer[turn][k] for writer in told]
            assert answers.count("DUPLICATE") == RACERS - 1
            stands = row(storage, one.id) if k % 40 == 0 else None
            if stands is not None:
                owner = answers.index("claimed") if "claimed" in answers else None
                assert stands["owner"] == (None if owner is None else bytes([owner]) * 16)
                assert (stands["state"] == JobState.PROCESSING) == (owner is not None)


def test_threads_that_race_for_one_id_make_one_row(storage: Storage) -> None:
    """Eight threads, forty ids one after the other: each is NEW for one."""
    for k in range(40):
        told = at_once([partial(storage.insert_if_absent, [job(k)], token=token) for token in range(8)])
        assert Counter(one.outcome for (one,) in told) == {Outcome.NEW: 1, Outcome.DUPLICATE: 7}
    assert len(rows(storage)) == 40


def test_a_duplicate_that_meets_a_purge_is_told_one_or_the_other(storage: Storage) -> None:
    """A row that goes away between the insert and the look-up is inserted again; nothing is lost or doubled."""
    for turn in range(30):
        held = claimed(storage, 5, prefix=f"turn-{turn}")
        storage.finish([success(one, window=0) for one in held])
        offered = some_jobs(5, f"turn-{turn}")
        _, answers = at_once(
            [partial(storage.purge, 10), partial(storage.insert_if_absent, offered, token=1000 + turn)]
        )
        assert isinstance(answers, list)
        storage.purge()
        stands = {one["id"] for one in rows(storage)}
        assert stands == {one.id for one, told in zip(offered, answers, strict=True) if told.outcome is Outcome.NEW}
        storage.finish([success(one, window=0) for one in storage.claim(A, ["h"], 10)])
        while storage.purge():
            pass
