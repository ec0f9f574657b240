"""Claim, run, finish on one thread, over a real SQLite store: what is lost is found, and nothing runs twice."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, cast

import pytest

from scheduler.claimer import Claimer
from scheduler.context import JobContext
from scheduler.finisher import Finisher
from scheduler.handlers import HandlerRegistry, describe
from scheduler.inflight import Phase
from scheduler.job import NewJob, new_job
from scheduler.limits import Limit
from scheduler.maintenance.count import Count
from scheduler.membership import Membership
from scheduler.offers import Offers
from scheduler.retry import Policies, PolicyOverride, Snooze
from scheduler.storage import Storage, StoreUnavailable, open_storage
from scheduler.worker import Worker
from tests.conformance.stores import events, force, row, rows

INTERVAL = 15.0


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


class Intruded:
    """A store where something happens once, just before or just after the next call of a verb."""

    def __init__(self, storage: Storage) -> None:
        self.real = storage
        self.before: defaultdict[str, list[Callable[[], object]]] = defaultdict(list)
        self.after: defaultdict[str, list[Callable[[], object]]] = defaultdict(list)

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self.real, name)

        def call(*args: object, **kwargs: object) -> object:
            for happens in self.before.pop(name, []):
                happens()
            answer = verb(*args, **kwargs)
            for happens in self.after.pop(name, []):
                happens()
            return answer

        return call


def lose() -> None:
    raise StoreUnavailable("the reply was lost")


class Pod:
    """A server's parts without its threads; `ran` tells which jobs a handler was called for."""

    def __init__(self, storage: Storage, workers: int = 4) -> None:
        self.clock = Clock()
        self.storage = Intruded(storage)
        self.ran: list[str] = []
        self.in_handler: Callable[[JobContext], object] = lambda _: None

        def handle(context: JobContext) -> None:
            self.ran.append(context.job.correlation_id)
            self.in_handler(context)

        given = cast(Storage, self.storage)
        self.worker = Worker(
            given,
            HandlerRegistry([describe(handle, "h")]),
            Policies(PolicyOverride(), {}),
            workers,
            random=Random(1),
            monotonic=self.clock,
        )
        self.membership = Membership(
            given,
            interval=INTERVAL,
            status=lambda: "{}",
            on_beat=lambda: None,
            on_fenced=self.worker.fence,
            random=Random(2),
            monotonic=self.clock,
        )
        self.worker.membership = self.membership
        self.claimer, self.finisher = Claimer(self.worker), Finisher(self.worker)
        self.offers = Offers(self.worker)
        self.count = Count(given, self.membership, self.worker.counts, bytes(16))

    def beat(self) -> None:
        self.membership.step()

    def claim(self) -> float:
        """A round of the claim thread, long enough after the last to look at all lanes."""
        self.clock.time += 0.5
        return self.claimer.step()

    def run(self) -> int:
        """Run what waits here; how many."""
        count = 0
        while self.worker.executors.run_one():
            count += 1
        return count

    def finish(self) -> None:
        self.finisher.step()

    def offer(self, *jobs: NewJob) -> None:
        self.offers.insert(self.offers.make(jobs, [None] * len(jobs)))

    @property
    def id(self) -> bytes:
        registration = self.membership.registration()
        assert registration is not None
        return registration.id


def job(name: str, handler: str = "h", route: str = "") -> NewJob:
    return new_job(namespace="n", correlation=name.encode(), handler=handler, body=b"{}", route=route)


def state(pod: Pod, name: str) -> str:
    return str(row(pod.storage.real, job(name).id)["state"])


def put(pod: Pod, *names: str) -> None:
    pod.storage.real.insert_if_absent([job(name) for name in names], token=1)


@pytest.fixture
def storage(sqlite_url: str) -> Iterator[Storage]:
    opened = open_storage(sqlite_url)
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture
def pod(storage: Storage) -> Pod:
    """Give a pod that has registered and found nothing to do."""
    made = Pod(storage)
    made.beat()
    made.claim()
    assert made.worker.hungry
    return made


def test_a_job_is_claimed_run_and_finished(pod: Pod) -> None:
    """The whole way, once."""
    put(pod, "a", "b")
    pod.claim()
    assert pod.run() == 2
    pod.finish()
    assert pod.ran == ["a", "b"]
    assert {state(pod, name) for name in "ab"} == {"SUCCEEDED"}
    assert len(pod.worker.inflight) == 0


def test_an_offered_job_starts_here_at_once(pod: Pod) -> None:
    """An idle pod's insert is its claim: no claim is sent."""
    pod.storage.before["claim"].append(lose)
    pod.offer(job("a"))
    assert state(pod, "a") == "PROCESSING"
    pod.run()
    pod.finish()
    assert (pod.ran, state(pod, "a")) == (["a"], "SUCCEEDED")


def test_a_claim_whose_reply_was_lost_is_found_and_run_once(pod: Pod) -> None:
    """By the reconcile after the next beat, and by no later one."""
    put(pod, "a", "b")
    pod.storage.after["claim"].append(lose)
    with pytest.raises(StoreUnavailable):
        pod.claim()
    assert (state(pod, "a"), len(pod.worker.inflight), pod.run()) == ("PROCESSING", 0, 0)
    for _ in range(3):
        pod.beat()
        pod.claim()
        pod.run()
        pod.finish()
    assert sorted(pod.ran) == ["a", "b"]
    assert {state(pod, name) for name in "ab"} == {"SUCCEEDED"}


def test_an_insert_whose_reply_was_lost_is_offered_again_and_run_once(pod: Pod) -> None:
    """Meanwhile the reconcile leaves it alone: its insert is under way."""
    offer = pod.offers.make([job("a")], [None])
    pod.storage.after["insert_if_absent"].append(lose)
    with pytest.raises(StoreUnavailable):
        pod.offers.insert(offer)
    pod.beat()
    pod.claim()
    assert (state(pod, "a"), pod.run()) == ("PROCESSING", 0)
    pod.offers.insert(offer)
    pod.run()
    pod.finish()
    pod.beat()
    pod.claim()
    assert (pod.run(), pod.ran, state(pod, "a")) == (0, ["a"], "SUCCEEDED")


def test_an_insert_that_was_given_up_is_found_and_run_once(pod: Pod) -> None:
    """Its rows may stand: the next reconcile finds them."""
    offer = pod.offers.make([job("a")], [None])
    pod.storage.after["insert_if_absent"].append(lose)
    with pytest.raises(StoreUnavailable):
        pod.offers.insert(offer)
    pod.offers.abandon(offer)
    pod.beat()
    pod.claim()
    pod.run()
    assert pod.ran == ["a"]


def end_what_waits(pod: Pod) -> None:
    pod.run()
    pod.finish()


def test_a_job_that_finishes_between_the_copy_and_the_read_is_not_run_again(pod: Pod) -> None:
    """It stands in the copy, and no more in the database."""
    put(pod, "a")
    pod.claim()
    pod.beat()
    pod.storage.before["standing"].append(lambda: end_what_waits(pod))
    pod.claim()
    assert (pod.run(), pod.ran) == (0, ["a"])
    assert state(pod, "a") == "SUCCEEDED"


def test_a_job_that_finishes_after_the_read_is_not_run_again(pod: Pod) -> None:
    """It stands in the copy and in what was read."""
    put(pod, "a")
    pod.claim()
    pod.beat()
    pod.storage.after["standing"].append(lambda: end_what_waits(pod))
    pod.claim()
    assert (pod.run(), pod.ran) == (0, ["a"])


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_job_that_is_inserted_claimed_while_reconcile_reads_is_run_once(pod: Pod, place: str) -> None:
    """It is in no copy, so that it is neither taken for forgotten nor for gone."""
    pod.beat()
    getattr(pod.storage, place)["standing"].append(lambda: pod.offer(job("a")))
    pod.claim()
    assert pod.run() == 1
    pod.finish()
    pod.beat()
    pod.claim()
    assert (pod.run(), pod.ran, state(pod, "a")) == (0, ["a"], "SUCCEEDED")


def test_a_job_that_starts_while_reconcile_reads_is_not_cancelled(pod: Pod) -> None:
    """The copy is older than the read: what is in the copy had its row before the read."""
    seen: list[bool] = []

    def reconcile_meanwhile(context: JobContext) -> None:
        pod.in_handler = lambda _: None
        pod.beat()
        pod.claim()
        seen.append(context.cancelled)

    pod.in_handler = reconcile_meanwhile
    pod.offer(job("a"))
    pod.run()
    assert seen == [False]


def test_a_job_that_is_inserted_and_finished_around_the_read_is_not_run_again(pod: Pod) -> None:
    """It stood when the rows were read and has left the map since: it is read once more before it is run."""
    pod.beat()
    pod.storage.before["standing"].append(lambda: pod.offer(job("a")))
    pod.storage.after["standing"].append(lambda: end_what_waits(pod))
    pod.claim()
    assert (pod.run(), pod.ran) == (0, ["a"])


def test_a_running_job_that_is_deleted_is_told_so(pod: Pod) -> None:
    """`context.cancelled` turns true at the next beat's reconcile; its result is refused."""
    seen: list[bool] = []

    def look(context: JobContext) -> None:
        pod.storage.real.delete(context.job.id.bytes)
        seen.append(context.cancelled)
        pod.beat()
        pod.claim()
        seen.append(context.cancelled)

    pod.in_handler = look
    put(pod, "a")
    pod.claim()
    pod.run()
    pod.finish()
    assert (seen, state(pod, "a"), len(pod.worker.inflight)) == ([False, True], "DELETED", 0)


def test_a_waiting_job_that_is_deleted_never_starts(pod: Pod) -> None:
    """The reconcile takes it out of the map."""
    put(pod, "a")
    pod.claim()
    pod.storage.real.delete(job("a").id)
    pod.beat()
    pod.claim()
    pod.run()
    assert (pod.ran, len(pod.worker.inflight)) == ([], 0)


def fence(pod: Pod) -> bytes:
    """Strike the pod off and let its next beat find out; the id that ended."""
    ended = pod.id
    pod.storage.real.unregister(ended)
    pod.beat()
    assert pod.id != ended
    return ended


def test_nothing_of_an_ended_registration_starts(pod: Pod) -> None:
    """What waits is dropped; the same pod may then run it as any other, once."""
    put(pod, "a")
    pod.claim()
    ended = fence(pod)
    assert (pod.run(), pod.ran, len(pod.worker.inflight)) == (1, [], 0)
    pod.storage.real.rescue(ended, max_rescues=3, retention_us=1)
    pod.claim()
    pod.run()
    pod.finish()
    assert (pod.ran, state(pod, "a")) == (["a"], "SUCCEEDED")


def test_a_run_of_an_ended_registration_is_cancelled_and_its_result_refused(pod: Pod) -> None:
    """Another has the job by then: one result is recorded, the other's."""
    seen: list[bool] = []

    def be_fenced(context: JobContext) -> None:
        pod.storage.real.rescue(fence(pod), max_rescues=3, retention_us=1)
        assert pod.storage.real.claim(b"X" * 16, ["h"], 1, 1)
        seen.append(context.cancelled)

    pod.in_handler = be_fenced
    put(pod, "a")
    pod.claim()
    pod.run()
    before = row(pod.storage.real, job("a").id)
    pod.finish()
    assert (seen, row(pod.storage.real, job("a").id)) == ([True], before)
    assert before["owner"] == b"X" * 16


def test_a_claim_that_lands_after_its_registration_ended_starts_nothing(pod: Pod) -> None:
    """It carries the registration it was issued under."""
    put(pod, "a")
    pod.storage.before["claim"].append(lambda: fence(pod))
    pod.claim()
    pod.run()
    pod.beat()
    pod.claim()
    assert (pod.run(), pod.ran, len(pod.worker.inflight)) == (0, [], 0)
    assert state(pod, "a") == "PROCESSING"  # until the rescue


def test_an_offer_that_was_made_under_an_ended_registration_claims_nothing(pod: Pod) -> None:
    """Its jobs wait for anybody."""
    offer = pod.offers.make([job("a")], [None])
    assert offer.claimed == 1
    fence(pod)
    pod.offers.insert(offer)
    assert (state(pod, "a"), pod.run(), len(pod.worker.inflight)) == ("ENQUEUED", 0, 0)


def test_without_trust_nothing_starts_and_a_good_beat_resumes_it(pod: Pod) -> None:
    """What was due to start is put aside, claimed is nothing, and after beat and reconcile it runs."""
    put(pod, "a")
    pod.claim()
    put(pod, "b")
    pod.clock.time += 3.5 * INTERVAL
    assert pod.run() == 1
    pod.claim()
    assert (pod.ran, state(pod, "a"), state(pod, "b")) == ([], "PROCESSING", "ENQUEUED")
    assert pod.offers.make([job("c")], [None]).claimed == 0
    pod.beat()
    pod.claim()
    pod.run()
    pod.finish()
    assert (sorted(pod.ran), state(pod, "a"), state(pod, "b")) == (["a", "b"], "SUCCEEDED", "SUCCEEDED")


def test_what_runs_when_trust_is_lost_is_told_and_handed_back(pod: Pod) -> None:
    """The database is away, so no answer of it tells (I10); that it stopped is no failure."""
    told: list[bool] = []

    def lose_trust(context: JobContext) -> None:
        pod.worker.distrust()
        told.append(context.cancelled)
        pod.clock.time += 3.5 * INTERVAL
        pod.worker.distrust()
        told.append(context.cancelled)
        raise InterruptedError("told to stop")

    put(pod, "a")
    pod.claim()
    pod.in_handler = lose_trust
    pod.run()
    pod.finish()
    assert told == [False, True]
    assert (state(pod, "a"), row(pod.storage.real, job("a").id)["attempts"]) == ("ENQUEUED", 0)


def test_trust_lasts_from_the_start_of_the_last_good_beat(pod: Pod) -> None:
    """Timeout less half an interval, however long the beat took."""
    beat_at = pod.clock.time = 5000.0
    pod.storage.after["servers"].append(lambda: setattr(pod.clock, "time", beat_at + 20.0))
    pod.beat()
    registration = pod.membership.registration()
    assert registration is not None
    pod.clock.time = beat_at + 3.5 * INTERVAL - 0.001
    assert pod.membership.trusts(registration)
    pod.clock.time = beat_at + 3.5 * INTERVAL
    assert not pod.membership.trusts(registration)
    assert pod.membership.registration() is None


def in_lane(pod: Pod, lane: int, *names: str) -> None:
    put(pod, *names)
    for name in names:
        force(pod.storage.real, job(name).id, lane=lane, rescues=lane)


def test_jobs_that_were_rescued_twice_run_one_at_a_time(pod: Pod) -> None:
    """The next is taken once the last one's end is known."""
    in_lane(pod, 2, "a", "b", "c")
    for done in range(3):
        for _ in range(3):
            pod.claim()
        assert [one["state"] for one in rows(pod.storage.real)].count("PROCESSING") == 1
        pod.run()
        for _ in range(2):
            pod.claim()
        assert len(pod.ran) == done + 1
        pod.finish()
    assert pod.ran == ["a", "b", "c"]


def test_jobs_that_were_rescued_once_are_taken_for_free_workers_alone(storage: Storage) -> None:
    """No prefetch: two workers hold two, also where others of the pod keep one busy."""
    pod = Pod(storage, workers=2)
    pod.beat()
    pod.claim()
    in_lane(pod, 1, "a", "b", "c", "d")
    pod.worker.inflight._pace = 10_000.0  # would prefetch hundreds
    for _ in range(3):
        pod.claim()
    assert [one["state"] for one in rows(storage)].count("PROCESSING") == 2
    pod.worker.executors.run_one()
    pod.finish()
    for _ in range(3):
        pod.claim()
    assert [one["state"] for one in rows(storage)].count("PROCESSING") == 2
    assert pod.ran == ["a"]


def test_results_that_cannot_be_written_are_held_and_come_before_any_claim(pod: Pod) -> None:
    """Through an outage nothing is claimed, offered as claimed or run again; once the result is in, more comes."""
    put(pod, "a")
    pod.claim()
    pod.run()
    put(pod, "b")
    for _ in range(3):
        pod.storage.before["finish"].append(lose)
        with pytest.raises(StoreUnavailable):
            pod.finish()
        pod.beat()
        pod.claim()
        assert (state(pod, "a"), state(pod, "b"), pod.run()) == ("PROCESSING", "ENQUEUED", 0)
        assert pod.offers.make([job("c")], [None]).claimed == 0
    pod.storage.after["finish"].append(lose)  # written, but its reply was lost
    with pytest.raises(StoreUnavailable):
        pod.finish()
    pod.claim()
    assert state(pod, "b") == "ENQUEUED"
    pod.finish()
    assert (state(pod, "a"), row(pod.storage.real, job("a").id)["version"]) == ("SUCCEEDED", 2)
    pod.claim()
    pod.run()
    pod.finish()
    assert (pod.ran, state(pod, "b")) == (["a", "b"], "SUCCEEDED")


def test_failures_snoozes_and_exits_are_recorded_and_free_their_slots(pod: Pod) -> None:
    """Whatever a handler raises: the slot is free again and the row says what happened."""
    raised: dict[str, BaseException] = {
        "error": ValueError("no"),
        "exit": SystemExit(3),
        "snooze": Snooze("1h"),
        "memory": MemoryError(),
    }

    def fail(context: JobContext) -> None:
        raise raised[context.job.correlation_id]

    pod.in_handler = fail
    put(pod, *raised)
    pod.claim()
    pod.run()
    pod.finish()
    assert {state(pod, name) for name in raised} == {"SCHEDULED"}
    attempts = [row(pod.storage.real, job(name).id)["attempts"] for name in raised]
    assert (attempts, len(pod.worker.inflight)) == ([1, 1, 0, 1], 0)
    assert events(pod.storage.real, job("exit").id) == ["FAILED"]


def test_a_drain_hands_back_what_has_not_started(pod: Pod) -> None:
    """ENQUEUED at its old place, with no failure and no rescue; what comes late does not start."""
    put(pod, "a", "b")
    before = [one["due_at"] for one in rows(pod.storage.real)]
    pod.claim()
    pod.worker.draining = True
    pod.worker.hand_back_waiting()
    pod.run()
    pod.finish()
    pod.claim()
    stands = rows(pod.storage.real)
    assert [(one["state"], one["attempts"], one["rescues"]) for one in stands] == [("ENQUEUED", 0, 0)] * 2
    assert [one["due_at"] for one in stands] == before
    assert (pod.ran, len(pod.worker.inflight)) == ([], 0)


def test_jobs_of_handlers_that_this_pod_lacks_are_left_to_others(pod: Pod) -> None:
    """Neither claimed nor failed, also where an older version of this pod held one."""
    pod.storage.real.insert_if_absent([job("new", "newer:handler"), job("a")], token=1)
    force(pod.storage.real, job("new").id, state="PROCESSING", version=1, owner=pod.id)
    pod.beat()
    pod.claim()
    pod.run()
    pod.finish()
    assert (pod.ran, state(pod, "new"), state(pod, "a")) == (["a"], "PROCESSING", "SUCCEEDED")


def test_a_job_whose_time_has_come_is_promoted_by_the_pod_itself(pod: Pod) -> None:
    """A claim that comes back short looks for what is due: no master is needed."""
    put(pod, "a")
    force(pod.storage.real, job("a").id, state="SCHEDULED", due_at=1)
    pod.claim()
    pod.run()
    assert pod.ran == ["a"]


def test_an_offer_is_claimed_only_as_far_as_there_is_room(pod: Pod) -> None:
    """In order of arrival; what it does not use is given back."""
    names = [f"job-{k}" for k in range(10)]
    pod.offer(*(job(name) for name in names))
    assert [state(pod, name) for name in names] == ["PROCESSING"] * 4 + ["ENQUEUED"] * 6
    assert len(pod.worker.inflight) == 4
    pod.worker.hungry = True
    pod.offer(*(job(name) for name in names))
    assert len(pod.worker.inflight) == 4
    pod.run()
    pod.finish()
    pod.offer(*(job(name) for name in names[:4]))
    assert (pod.ran, len(pod.worker.inflight)) == (names[:4], 0)


def test_an_offer_that_is_split_keeps_its_token_and_what_is_claimed(pod: Pod) -> None:
    """The halves answer as the whole would have: its rows, written by a try whose reply was lost, are NEW."""
    names = [f"job-{k}" for k in range(6)]
    offer = pod.offers.make([job(name) for name in names], [None] * 6)
    pod.storage.after["insert_if_absent"].append(lose)
    with pytest.raises(StoreUnavailable):
        pod.offers.insert(offer)
    answers = [answer for half in offer.split() for answer in pod.offers.insert(half)]
    assert [(one.outcome.name, one.claimed) for one in answers] == [("NEW", k < 4) for k in range(6)]
    pod.run()
    assert pod.ran == names[:4]
    assert len(pod.worker.inflight.in_phase(Phase.PENDING)) == 0


SLOW = frozenset({"slow"})


def test_jobs_of_a_paused_route_are_handed_back_and_left_until_it_is_resumed(pod: Pod) -> None:
    """What waits here goes back without a failure, what runs finishes, nothing of it is claimed; others go on."""
    pod.storage.real.insert_if_absent([job("a", route="slow"), job("b", route="slow"), job("c")], token=1)
    pod.claim()
    pod.in_handler = lambda _: pod.worker.hold_routes(SLOW)
    assert pod.worker.executors.run_one()
    pod.in_handler = lambda _: None
    pod.finish()
    assert (state(pod, "a"), state(pod, "b")) == ("SUCCEEDED", "ENQUEUED")
    pod.claim()
    pod.run()
    pod.finish()
    pod.claim()
    assert (pod.ran, state(pod, "b"), state(pod, "c")) == (["a", "c"], "ENQUEUED", "SUCCEEDED")
    stands = row(pod.storage.real, job("b").id)
    assert (stands["attempts"], stands["rescues"], len(pod.worker.inflight)) == (0, 0, 0)
    pod.worker.claiming.clear()
    pod.worker.hold_routes(frozenset())
    assert pod.worker.claiming.is_set()
    pod.claim()
    pod.run()
    assert pod.ran == ["a", "c", "b"]


def test_a_job_that_is_claimed_while_its_route_is_paused_does_not_start(pod: Pod) -> None:
    """The claim was sent before the pause, and its rows come after."""
    pod.storage.real.insert_if_absent([job("a", route="slow")], token=1)
    pod.storage.after["claim"].append(lambda: pod.worker.hold_routes(SLOW))
    pod.claim()
    pod.run()
    pod.finish()
    assert (pod.ran, state(pod, "a"), len(pod.worker.inflight)) == ([], "ENQUEUED", 0)


def test_an_offer_of_a_paused_route_is_not_claimed(pod: Pod) -> None:
    """Nor what came after the first of its jobs; all become jobs."""
    pod.worker.hold_routes(SLOW)
    pod.offer(job("a"), job("b", route="slow"), job("c"))
    assert [state(pod, name) for name in "abc"] == ["PROCESSING", "ENQUEUED", "ENQUEUED"]
    pod.run()
    pod.finish()
    pod.claim()
    pod.run()
    assert pod.ran == ["a", "c"]


def counted(pod: Pod) -> dict[str, int]:
    """Beat, and read what the store has of runs."""
    pod.beat()
    pod.count()
    sums: Counter[str] = Counter()
    for point in pod.storage.real.series(5, 1):
        sums[point.outcome] += point.n
    return dict(sums)


def test_runs_are_counted_by_how_they_ended(pod: Pod) -> None:
    """Once their results are written, and not before; what never ran is not counted."""

    def end(context: JobContext) -> None:
        name = context.job.correlation_id
        if name == "snoozed":
            raise Snooze(60)
        if name in ("retried", "failed"):
            raise ValueError(name)

    pod.in_handler = end
    pod.storage.real.insert_if_absent(
        [
            job(name)._replace(retries=0 if name == "failed" else None)
            for name in ("ok", "snoozed", "retried", "failed")
        ],
        token=1,
    )
    pod.claim()
    assert pod.run() == 4
    assert counted(pod) == {}
    pod.finish()
    sums = counted(pod)
    assert sums == {"succeeded": 1, "snoozed": 1, "retried": 1, "failed": 1}
    put(pod, "waits")
    pod.claim()
    pod.worker.hand_back_waiting()
    pod.finish()
    assert counted(pod) == sums


def test_a_result_that_is_refused_counts_as_fenced(pod: Pod) -> None:
    """The other server's run is the one that is counted for what it did."""
    put(pod, "a")
    pod.claim()
    pod.run()
    pod.storage.real.rescue(pod.id, max_rescues=3, retention_us=1)
    pod.finish()
    assert counted(pod) == {"fenced": 1}


def test_counts_whose_write_fails_are_written_by_the_next(pod: Pod) -> None:
    """Also where they were written and only the reply was lost."""
    put(pod, "a", "b")
    pod.claim()
    pod.run()
    pod.finish()
    for when in (pod.storage.before, pod.storage.after):
        when["record"].append(lose)
        with pytest.raises(StoreUnavailable):
            pod.count()
    put(pod, "c")
    pod.claim()
    pod.run()
    pod.finish()
    assert counted(pod) == {"succeeded": 3}


@pytest.mark.parametrize("asks", ["lock_key", "limit_key", ""])
def test_a_lock_or_place_that_is_free_again_is_looked_at_at_once(pod: Pod, asks: str) -> None:
    """Also after a claim that found nothing, when plain jobs wait for the next look."""
    pod.storage.real.insert_if_absent([job("a")._replace(**({asks: b"k" * 16} if asks else {}))], token=1)
    pod.worker.limits = [Limit(b"k" * 16, concurrency=1)]
    pod.claimer = Claimer(pod.worker)
    pod.beat()
    pod.claim()
    pod.claim()
    assert pod.worker.hungry and pod.run() == 1
    pod.worker.claiming.clear()
    pod.finish()
    assert pod.worker.claiming.is_set() is bool(asks)
