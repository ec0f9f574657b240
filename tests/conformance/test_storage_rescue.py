"""Rescue: a dead server's jobs run again, each counted once, and no live server loses one."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast

import pytest

from scheduler.job import Job
from scheduler.maintenance.rescue import MAX_RESCUES, Rescue
from scheduler.membership import Membership
from scheduler.storage import Storage
from scheduler.storage.records import ServerRow
from tests.conformance.stores import (
    DAY,
    HOUR,
    RACERS,
    A,
    B,
    C,
    Racers,
    at_once,
    claimed,
    events,
    put,
    row,
    rows,
    some_jobs,
    success,
)


class Seen:
    """A membership that holds these servers for dead."""

    interval = 15.0

    def __init__(self, silent: Sequence[ServerRow] = ()) -> None:
        self.silent = silent


def duty(storage: Storage, silent: Sequence[ServerRow] = ()) -> Rescue:
    return Rescue(storage, cast(Membership, Seen(silent)), retention=86400.0)


def register(storage: Storage, server: bytes) -> ServerRow:
    storage.register(server, host="h", pid=1, interval_us=1_000_000, status="{}")
    return next(one for one in storage.servers() if one.id == server)


def rescue(storage: Storage, owner: bytes, limit: int = 1000) -> int:
    return storage.rescue(owner, max_rescues=MAX_RESCUES, retention_us=DAY, limit=limit)


def test_a_rescued_job_keeps_its_place_and_waits_in_lane_one(storage: Storage) -> None:
    """ENQUEUED at its old due time, one rescue and no failure counted, one event; the owner stays in the row."""
    (held,) = claimed(storage)
    before = row(storage, held.key)
    assert rescue(storage, A) == 1
    assert row(storage, held.key) == {**before, "state": "ENQUEUED", "version": 2, "lane": 1, "rescues": 1}
    (event,) = storage.job_events(held.key)
    assert (event["kind"], event["version"]) == ("RESCUED", 1)
    assert rescue(storage, A) == 0
    assert storage.finish([success(held)]) == set()


def test_only_what_that_server_holds_is_rescued(storage: Storage) -> None:
    """Not what it finished, not what others hold, not what waits."""
    finished, held = claimed(storage, 2)
    storage.finish([success(finished)])
    (others,) = claimed(storage, 1, B, "other")
    put(storage, some_jobs(1, "waiting"))
    assert storage.owners() == {A, B}
    assert rescue(storage, A) == 1
    assert storage.owners() == {B}
    assert storage.standing(B) == [(others.key, 1)]
    assert [one["id"] for one in rows(storage) if one["rescues"]] == [held.key]


def test_the_fourth_orphaning_is_the_last(storage: Storage) -> None:
    """Lanes 1, 2 and 2; then FAILED, to be purged after the retention, though it never failed."""
    (held,) = claimed(storage)
    for rescues, lane in ((1, 1), (2, 2), (3, 2)):
        assert rescue(storage, A) == 1
        stands = row(storage, held.key)
        assert (stands["state"], stands["lane"], stands["rescues"]) == ("ENQUEUED", lane, rescues)
        assert stands["finished_at"] is None
        assert storage.claim(A, ["h"], 1, 0) == []
        assert len(storage.claim(A, ["h"], 1, lane)) == 1
    before = storage.clock()
    assert rescue(storage, A) == 1
    stands = row(storage, held.key)
    assert (stands["state"], stands["lane"], stands["rescues"], stands["attempts"]) == ("FAILED", 0, 4, 0)
    assert before <= stands["finished_at"] <= storage.clock()
    assert stands["due_at"] == stands["finished_at"] + DAY
    assert events(storage, held.key) == ["RESCUED"] * 4
    assert "no rescue is left" in str(storage.job_events(held.key)[-1]["detail"])
    assert (rescue(storage, A), storage.purge()) == (0, 0)


def test_a_silent_server_is_struck_off_and_its_jobs_are_rescued(storage: Storage) -> None:
    """One round of the duty; jobs of the registered stay where they are."""
    silent, alive = register(storage, A), register(storage, B)
    (orphan,) = claimed(storage)
    (held,) = claimed(storage, 1, B, "other")
    duty(storage, [silent]).step()
    assert [one.id for one in storage.servers()] == [alive.id]
    assert (row(storage, orphan.key)["rescues"], row(storage, held.key)["rescues"]) == (1, 0)


def test_a_server_that_beats_in_between_loses_nothing(storage: Storage) -> None:
    """It was seen silent, then beat: neither its row nor its jobs are touched."""
    silent = register(storage, A)
    (held,) = claimed(storage)
    storage.beat(A, "{}")
    duty(storage, [silent]).step()
    assert storage.beat(A, "{}")
    assert storage.finish([success(held)]) == {held.key}


def test_a_claim_that_lands_after_its_server_was_struck_off_is_found_by_the_next_round(storage: Storage) -> None:
    """The owners are read from the jobs, not from the servers that were just struck off."""
    silent = register(storage, A)
    register(storage, B)
    duty(storage, [silent]).step()
    (late,) = claimed(storage)
    duty(storage).step()
    assert (row(storage, late.key)["state"], row(storage, late.key)["rescues"]) == ("ENQUEUED", 1)


def test_a_crash_between_striking_off_and_rescuing_is_made_good(storage: Storage) -> None:
    """What one rescuer left half done, another pod's round ends."""
    silent = register(storage, A)
    (orphan,) = claimed(storage)
    assert storage.remove_silent(silent.id, silent.beat)
    duty(storage).step()
    assert row(storage, orphan.key)["rescues"] == 1


class Between:
    """A storage where something happens between the duty's two reads, in whichever order it reads."""

    def __init__(self, storage: Storage, happens: Callable[[], object]) -> None:
        self._storage = storage
        self._happens: Callable[[], object] | None = happens

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._storage, name)
        if name not in ("owners", "servers"):
            return verb

        def read() -> object:
            found = verb()
            happens, self._happens = self._happens, None
            if happens is not None:
                happens()
            return found

        return read


def test_a_server_that_registers_and_claims_between_the_two_reads_loses_nothing(storage: Storage) -> None:
    """Owners are read first and servers then: who is not yet among the owners can't be missed among the servers."""
    put(storage, some_jobs(2))
    storage.claim(C, ["h"], 1)  # so that there is an owner at all
    held: list[Job] = []

    def arrive() -> None:
        register(storage, B)
        held.extend(storage.claim(B, ["h"], 1))

    duty(cast(Storage, Between(storage, arrive))).step()
    assert storage.finish([success(held[0])]) == {held[0].key}


def test_pods_that_come_and_claim_while_all_rescue_lose_nothing(storage: Storage) -> None:
    """Many rounds by threads: each result of a registered pod is written, and each orphan is rescued once."""
    over = threading.Event()

    def keep_rescuing() -> None:
        while not over.is_set():
            duty(storage).step()

    def live(place: int) -> tuple[int, int]:
        written = orphaned = 0
        for turn in range(25):
            server = bytes([place, turn]) * 8
            register(storage, server)
            prefix = f"{place}-{turn}"
            answers = storage.insert_if_absent(some_jobs(2, prefix), token=turn + 1, owner=server, claimed=2)
            assert [one.claimed for one in answers] == [True, True]
            jobs = storage.held(server, [key for key, _ in storage.standing(server)])
            written += len(storage.finish([success(held) for held in jobs[:1]]))
            orphaned += len(jobs[1:])
            storage.unregister(server)
        return written, orphaned

    with ThreadPoolExecutor(4) as pool:
        rescuers = [pool.submit(keep_rescuing) for _ in range(2)]
        try:
            lives = [pool.submit(live, place) for place in (1, 2)]
            assert [one.result(60) for one in lives] == [(25, 25)] * 2
        finally:
            over.set()
        for one in rescuers:
            one.result(30)
    duty(storage).step()
    counted: dict[tuple[str, int], int] = {}
    for one in rows(storage):
        counted[one["state"], one["rescues"]] = counted.get((one["state"], one["rescues"]), 0) + 1
    assert counted == {("SUCCEEDED", 0): 50, ("ENQUEUED", 1): 50}


def rescue_all(storage: Storage, owners: list[bytes]) -> int:
    """Rescue these servers' jobs by small batches until nothing is left; how many were taken."""
    total = 0
    for owner in owners:
        while taken := rescue(storage, owner, 13):
            total += taken
    return total


def assert_rescued_once(storage: Storage, jobs: list[Job], told: list[int]) -> None:
    assert sum(told) == len(jobs)
    assert {(one["state"], one["rescues"], one["version"]) for one in rows(storage)} == {("ENQUEUED", 1, 2)}
    assert [events(storage, held.key) for held in jobs[::9]] == [["RESCUED"]] * len(jobs[::9])


def test_racing_processes_count_each_rescue_once(storage: Storage, racers: Racers) -> None:
    """Six processes over the 180 jobs of two dead servers."""
    jobs = claimed(storage, 120) + claimed(storage, 60, B, "other")
    url = storage.engine.url.render_as_string(hide_password=False)
    assert_rescued_once(storage, jobs, racers.race(rescue_all, url, [[A, B], [B, A]] * (RACERS // 2)))


def test_racing_threads_count_each_rescue_once(storage: Storage) -> None:
    """Six threads over the 100 jobs of a dead server."""
    jobs = claimed(storage, 100)
    assert_rescued_once(storage, jobs, at_once([partial(rescue_all, storage, [A])] * 6))


def test_a_result_and_a_rescue_that_race_have_one_winner(storage: Storage) -> None:
    """Each job is either finished, and its writer told so, or rescued, and its writer refused."""
    for turn in range(8):
        jobs = claimed(storage, 10, prefix=f"turn-{turn}")
        written, _ = at_once(
            [partial(storage.finish, [success(held, HOUR) for held in jobs]), partial(rescue, storage, A)]
        )
        assert isinstance(written, set)
        for held in jobs:
            stands = row(storage, held.key)
            assert stands["version"] == 2
            assert (stands["state"], stands["rescues"]) == (
                ("SUCCEEDED", 0) if held.key in written else ("ENQUEUED", 1)
            )


@pytest.mark.parametrize("number", [0, 1000, 1001])
def test_a_round_of_the_duty_takes_all_jobs_of_a_dead_server(storage: Storage, number: int) -> None:
    """Also more than one batch of them."""
    if number:
        claimed(storage, number)
    duty(storage).step()
    assert storage.owners() == set()
    assert len([one for one in rows(storage) if one["rescues"] == 1]) == number
