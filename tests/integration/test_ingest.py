"""From a source into a real store: what is acked when, and what becomes of batches that the store refuses."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
from sqlalchemy.exc import DBAPIError

from bridge.backpressure import Backpressure
from bridge.config.routes import Route
from bridge.dead_letters import Replay, replay
from bridge.decode import Decoder
from bridge.ingest import AHEAD_FROM, Ingest
from bridge.message import Message
from bridge.routing import rule
from bridge.sources.source import Batch, Source, SourceStatus
from scheduler.claimer import Claimer
from scheduler.finisher import Finisher
from scheduler.handlers import HandlerRegistry, describe
from scheduler.job import JobState
from scheduler.maintenance.count import Count
from scheduler.membership import Membership
from scheduler.offers import Offers
from scheduler.retry import Policies, PolicyOverride
from scheduler.storage import Storage, StoreUnavailable, open_storage
from scheduler.worker import Worker
from tests.servers.processes import wait_until

RAN: list[bytes] = []


def keep(body: bytes) -> None:
    """Remember what ran."""
    RAN.append(body)


class Given(Source):
    """A source of what a test gives it; it hands out again what was not acked."""

    name = "given"

    def __init__(self, *batches: Sequence[Message]) -> None:
        self.batches = [list(batch) for batch in batches]
        self.acked: list[int] = []
        self.paused: str | None = None
        self.handed_out = 0

    def run(self) -> None:
        return

    def receive(self, timeout: float) -> Batch | None:
        if self.handed_out == len(self.batches):
            return None
        self.handed_out += 1
        return Batch(self.batches[self.handed_out - 1], self.handed_out - 1)

    def ack(self, batch: Batch) -> None:
        assert isinstance(batch.receipt, int)
        self.acked.append(batch.receipt)

    def pause(self, reason: str) -> None:
        self.paused = reason

    def resume(self) -> None:
        self.paused = None

    def drained(self) -> bool:
        return True

    def close(self) -> None:
        return

    def status(self) -> SourceStatus:
        return SourceStatus(True)


class Pod:
    """The loops of a pod around one source, each step taken by the test."""

    def __init__(self, storage: Storage, source: Source, **dedupe: object) -> None:
        RAN.clear()
        handler = describe(keep, "tests:keep")
        registry = HandlerRegistry([handler])
        policies = Policies(PolicyOverride(), {})
        self.worker = Worker(storage, registry, policies, 4, random=Random(1))
        self.worker.membership = self.membership = Membership(
            storage, interval=15, status=lambda: "{}", on_beat=lambda: None, on_fenced=self.worker.fence
        )
        self.claimer, self.finisher = Claimer(self.worker), Finisher(self.worker)
        self.offers = Offers(self.worker)
        route = Route.model_validate({"name": "r", "from": "given", "handler": "tests:keep", "dedupe": dedupe})
        self.decoder = Decoder("given", [rule(route, handler)], max_message_bytes=64 * 1024**2)
        self.ingest = Ingest(source, self.decoder, self.offers, storage)
        self.membership.step()
        self.claimer.step()

    def settle(self) -> None:
        """Run all that waits, and write the results."""
        for _ in range(20):
            self.claimer.step()
            while self.worker.executors.run_one():
                pass
            self.finisher.step()


@pytest.fixture
def storage(store_url: str) -> Iterator[Storage]:
    opened = open_storage(store_url)
    opened.migrate()
    yield opened
    opened.close()


def message(name: str, body: bytes = b"x") -> Message:
    return Message(body, correlation=name.encode())


def counts(storage: Storage) -> dict[str, int]:
    return {state.value: number for state, number in storage.count_by_state().items() if number}


def failing(verb: Callable[..., object], times: int, *, after: bool) -> Callable[..., object]:
    """A verb whose first calls fail, before or after they were done."""
    left = [times]

    def fails(*arguments: object, **keywords: object) -> object:
        if left[0] and not after:
            left[0] -= 1
            raise StoreUnavailable("away")
        answer = verb(*arguments, **keywords)
        if left[0]:
            left[0] -= 1
            raise StoreUnavailable("the reply is lost")
        return answer

    return fails


def test_nothing_is_acked_before_the_commit_is_known(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the insert fails, no ack; the same batch goes in later, and is acked then (I1)."""
    source = Given([message("a"), message("b")])
    pod = Pod(storage, source)
    monkeypatch.setattr(storage, "insert_if_absent", failing(storage.insert_if_absent, 3, after=False))
    monkeypatch.setattr(storage, "answers", lambda: False)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            pod.ingest.step()
        assert source.acked == []
        assert counts(storage) == {}
    pod.ingest.step()
    assert source.acked == [0]
    pod.settle()
    assert counts(storage) == {"SUCCEEDED": 2}


def test_a_commit_whose_reply_was_lost_is_done_again(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are known by their token: the jobs run here, each once, and the batch is acked once."""
    source = Given([message("a", b"1"), message("b", b"2")])
    pod = Pod(storage, source)
    monkeypatch.setattr(storage, "insert_if_absent", failing(storage.insert_if_absent, 1, after=True))
    monkeypatch.setattr(storage, "answers", lambda: False)
    with pytest.raises(StoreUnavailable):
        pod.ingest.step()
    assert (source.acked, counts(storage)) == ([], {"PROCESSING": 2})
    pod.claimer.reconcile(pod.membership.registration() or pytest.fail("not registered"))
    pod.ingest.step()
    pod.settle()
    assert (source.acked, sorted(RAN), counts(storage)) == ([0], [b"1", b"2"], {"SUCCEEDED": 2})


def test_duplicates_and_conflicts(storage: Storage) -> None:
    """In one batch and over batches: the first body wins, another one is counted and shown, all is acked."""
    source = Given(
        [message("a", b"1"), message("a", b"1"), message("a", b"2"), message("b", b"1")],
        [message("a", b"1"), message("a", b"3"), message("a", b"2"), message("b", b"1")],
    )
    pod = Pod(storage, source)
    pod.ingest.step()
    pod.ingest.step()
    pod.settle()
    assert source.acked == [0, 1]
    assert pod.ingest.counts == {"created": 2, "duplicate": 3, "conflict": 3}
    Count(storage, pod.membership, pod.worker.counts, bytes(16))()
    assert {(one.source, one.route, one.outcome): one.n for one in storage.series(5, 5)} == {
        **{("given", "r", outcome): number for outcome, number in pod.ingest.counts.items()},
        ("given", "r", "succeeded"): 2,
    }
    assert sorted(RAN) == [b"1", b"1"]
    assert sorted(int(str(conflict["times"])) for conflict in storage.list_conflicts()) == [1, 2]
    assert storage.count_dead_letters() == 0


def test_conflicts_as_dead_letters(storage: Storage) -> None:
    """`on_conflict: dead-letter`: once for each body, however often it comes."""
    source = Given([message("a", b"1"), message("a", b"2")], [message("a", b"2")])
    pod = Pod(storage, source, on_conflict="dead-letter")
    pod.ingest.step()
    pod.ingest.step()
    (letter,) = storage.list_dead_letters()
    assert (letter["reason"], letter["correlation_id"]) == ("conflict", "a")
    assert source.acked == [0, 1]


def test_rejections_are_committed_with_their_batch(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of good and bad: neither is there without the other."""
    source = Given([message("a"), Message(b"no id"), Message(b"no id")])
    pod = Pod(storage, source)
    verb = storage._insert_dead_letters
    monkeypatch.setattr(storage, "_insert_dead_letters", failing(verb, 1, after=True))
    monkeypatch.setattr(storage, "answers", lambda: False)
    with pytest.raises(StoreUnavailable):
        pod.ingest.step()
    assert (counts(storage), storage.count_dead_letters(), source.acked) == ({}, 0, [])
    pod.ingest.step()
    assert (storage.count_dead_letters(), source.acked) == (1, [0])


def test_a_batch_that_the_store_refuses_is_cut(mariadb_url: str) -> None:
    """40 MB in one statement looks to MariaDB's client like a lost connection. All become jobs but the one message
    that is too large by itself: that is a dead letter, and those behind it go on (I5)."""
    storage = open_storage(mariadb_url)
    storage.migrate()
    large = [message(f"m{k}", b"x" * 1_000_000) for k in range(40)]
    large[7] = message("huge", b"y" * 20_000_000)
    source = Given(large, [message("next")])
    pod = Pod(storage, source)
    for _ in range(200):
        with contextlib.suppress(StoreUnavailable, DBAPIError):  # as its thread does, which goes on
            pod.ingest.step()
        if source.acked == [0, 1]:
            break
    assert source.acked == [0, 1]
    pod.settle()
    assert counts(storage) == {"SUCCEEDED": 40}
    (letter,) = storage.list_dead_letters()
    assert (letter["reason"], letter["correlation_id"], letter["size"]) == ("store-refused", "huge", 20_000_000)
    storage.close()


def test_headers_that_the_store_refuses_are_left_out_of_the_dead_letter(mariadb_url: str) -> None:
    """3 MB of them that are no text: 18 MB as the store keeps them. What is behind that message goes on (I5), and a
    replay never takes it for a whole one."""
    storage = open_storage(mariadb_url)
    storage.migrate()
    source = Given([Message(b"x", (("h", b"\xff" * 3_000_000),), b"huge"), message("a")], [message("next")])
    pod = Pod(storage, source)
    deadline = time.monotonic() + 60
    while source.acked != [0, 1] and time.monotonic() < deadline:
        with contextlib.suppress(StoreUnavailable, DBAPIError):
            pod.ingest.step()
    assert source.acked == [0, 1]
    pod.settle()
    assert counts(storage) == {"SUCCEEDED": 2}
    (letter,) = storage.list_dead_letters()
    assert (letter["reason"], letter["correlation_id"], letter["size"]) == ("store-refused", "huge", 1)
    again = replay({"given": pod.decoder}, storage, letter["id"].bytes)  # type: ignore[attr-defined]
    assert (again.outcome, again.detail) == (Replay.STILL_REJECTED, "undecodable: its headers were too large to keep")
    storage.close()


def test_the_next_batch_is_decoded_while_one_is_inserted(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is acked after the one before, and only once its own jobs stand; one that is let go of is not acked."""
    source = Given(*([message(f"{batch}-{k}") for k in range(AHEAD_FROM)] for batch in range(4)))
    pod = Pod(storage, source)
    with ThreadPoolExecutor(1) as pod.ingest.helper:
        monkeypatch.setattr(storage, "insert_if_absent", failing(storage.insert_if_absent, 1, after=False))
        with pytest.raises(StoreUnavailable):
            pod.ingest.step()
        assert wait_until(lambda: source.handed_out == 2, 20)
        assert source.acked == []
        for number in range(3):
            while source.acked != list(range(number + 1)):
                pod.ingest.step()
            assert sum(counts(storage).values()) == (number + 1) * AHEAD_FROM
        assert pod.ingest.busy
        pod.ingest.abandon()
        assert not pod.ingest.busy
    assert source.acked == [0, 1, 2]


@pytest.mark.parametrize(("times", "writes"), [(20, False), (5, True)], ids=["read-only", "bad network"])
def test_a_message_is_not_blamed_for_a_store_that_is_away(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, times: int, writes: bool
) -> None:
    """It takes the row at last, and no dead letter. Found by fault run rabbitmq, postgres, seed 21: read-only."""
    source = Given([message("a")])
    pod = Pod(storage, source)
    monkeypatch.setattr(storage, "insert_if_absent", failing(storage.insert_if_absent, times, after=False))
    monkeypatch.setattr(storage, "answers", lambda: writes)
    for _ in range(times):
        with pytest.raises(StoreUnavailable):
            pod.ingest.step()
    pod.ingest.step()
    assert source.acked == [0]
    assert (storage.list_dead_letters(), sum(counts(storage).values())) == ([], 1)


def test_a_probe_leaves_nothing(storage: Storage) -> None:
    assert storage.answers()
    assert storage.job_events(bytes(16)) == []


def test_sources_pause_above_the_backlog(storage: Storage) -> None:
    """And go on below it."""
    source = Given([message(f"m{k}") for k in range(12)])
    pod = Pod(storage, source)
    pod.worker.draining = True  # nothing is claimed
    pod.ingest.step()
    backpressure = Backpressure([source], storage, 10, 15.0)
    backpressure.step()
    assert source.paused == "more than 10 jobs wait"
    pod.worker.draining = False
    pod.settle()
    backpressure.step()
    assert source.paused is None
    assert storage.count_by_state()[JobState.SUCCEEDED] == 12


def test_no_more_is_inserted_as_claimed_than_there_is_room_for(storage: Storage) -> None:
    """In the order of arrival; the rest waits for a claim, by anybody."""
    source = Given([message(f"m{k}", b"%d" % k) for k in range(10)])
    pod = Pod(storage, source)
    pod.ingest.step()
    assert counts(storage) == {"PROCESSING": 4, "ENQUEUED": 6}
    while pod.worker.executors.run_one():
        pass
    assert RAN == [b"0", b"1", b"2", b"3"]
    pod.finisher.step()
    pod.settle()
    assert counts(storage) == {"SUCCEEDED": 10}
    assert [b"%d" % k for k in range(10)] == RAN
