"""Handlers whose writes and whose jobs' success are one commit, messages and logs that go with it, and filters."""

import contextlib
import json
from collections.abc import Callable, Iterator
from random import Random

import pytest
from sqlalchemy import Connection, text

from scheduler import Asked, Backoff, JobContext, Scheduler, on
from scheduler.filters import EVENTS, Filters
from scheduler.handlers import HandlerError, HandlerRegistry, describe, job
from scheduler.outbox import PREFIX
from scheduler.retry import Policies, PolicyOverride
from scheduler.server import Server
from scheduler.storage import Storage, open_storage
from scheduler.testing import Bench
from tests.conformance.stores import A, events, row, rows
from tests.unit import test_worker
from tests.unit.test_worker import Clock


@pytest.fixture
def storage(sqlite_url: str) -> Iterator[Storage]:
    opened = open_storage(sqlite_url)
    opened.migrate()
    with opened.engine.connect() as connection:
        connection.execute(text("CREATE TABLE ledger (name TEXT)"))
    yield opened
    opened.close()


def ledger(storage: Storage) -> list[str]:
    with storage.engine.connect() as connection:
        return list(connection.execute(text("SELECT name FROM ledger")).scalars())


class One:
    """A server without threads, with one handler, that runs one job."""

    def __init__(self, storage: Storage, handle: Callable[..., object], filters: Filters | None = None) -> None:
        self.storage = storage
        self.clock = Clock()
        self.server = Server(
            storage,
            storage,
            HandlerRegistry([describe(handle, "h")]),
            Policies(PolicyOverride(), {}),
            monotonic=self.clock,
            filters=filters,
            destinations={"answers": f"{PREFIX}answers", "demo": "demo"},
        )
        self.server.membership.step()

    def run(self, name: str = "a", **terms: object) -> str:
        """Run the job; its state afterwards."""
        offered = test_worker.job(name)._replace(**terms)
        self.storage.insert_if_absent([offered], token=1)
        self.server.claimer.step()
        assert self.server.worker.executors.run_one()
        self.server.finisher.step()
        return str(row(self.storage, offered.id)["state"])


def test_what_a_handler_writes_is_committed_with_its_success(storage: Storage) -> None:
    """And the job leaves the map at once."""

    @job(transactional=True)
    def handle(context: JobContext) -> None:
        context.connection.execute(text("INSERT INTO ledger VALUES ('mine')"))

    one = One(storage, handle)
    assert (one.run(), ledger(storage)) == ("SUCCEEDED", ["mine"])
    assert len(one.server.worker.inflight) == 0


def test_one_that_waited_for_its_transaction_past_the_end_of_trust_does_not_start(storage: Storage) -> None:
    """It is given back, and no failure."""
    started: list[str] = []

    @job(transactional=True)
    def handle(context: JobContext) -> None:
        started.append("handler")

    one = One(storage, handle)
    finishing = storage.finishing

    @contextlib.contextmanager
    def slow(timeout: float) -> Iterator[Connection]:
        with finishing(timeout) as connection:
            one.clock.time += timeout - 0.4 * timeout / 4
            yield connection

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "finishing", slow)
        assert (one.run(), started) == ("ENQUEUED", [])
    assert row(storage, test_worker.job("a").id)["attempts"] == 0


def test_what_a_failed_handler_wrote_is_gone(storage: Storage, sqlite_url: str) -> None:
    """Its failure counts as any other."""

    @job(name="h", transactional=True)
    def handle(context: JobContext) -> None:
        context.connection.execute(text("INSERT INTO ledger VALUES ('mine')"))
        raise ValueError("no")

    with Bench(handle, url=sqlite_url) as bench:
        bench.enqueue(handle, correlation_id="a")
        with pytest.raises(ValueError, match="no"):
            bench.run_until_idle()
        assert bench.assert_job(state="SCHEDULED")["attempts"] == 1
    assert ledger(storage) == []


def test_a_fenced_run_leaves_nothing(storage: Storage) -> None:
    """Its job was rescued meanwhile: the rescuer's run will write."""

    @job(transactional=True)
    def handle(context: JobContext) -> None:
        context.connection.execute(text("INSERT INTO ledger VALUES ('mine')"))
        context.connection.execute(
            text("UPDATE jobbridge_jobs SET owner = :other, version = version + 1"), {"other": A}
        )

    one = One(storage, handle)
    assert (one.run(), ledger(storage)) == ("ENQUEUED", [])  # the theft was rolled back as well
    assert len(one.server.worker.inflight) == 0


def test_a_transactional_handler_is_no_coroutine_and_others_have_no_connection() -> None:
    """Both are said with what to change."""

    @job(transactional=True)
    async def handle() -> None: ...

    with pytest.raises(HandlerError, match="a transactional handler is a plain function"):
        describe(handle, "h")

    def plain(context: JobContext) -> object:
        return context.connection

    with Bench() as bench, pytest.raises(RuntimeError, match="transactional=True"):
        bench.call(plain)


@pytest.mark.parametrize("transactional", [False, True])
def test_messages_and_logs_are_written_with_the_result(storage: Storage, transactional: bool) -> None:
    """To a local source at once, to a broker's through its outbox; the message IDs are the job's."""

    @job(transactional=transactional)
    def handle(context: JobContext) -> None:
        context.publish("answers", {"n": 1}, headers={"a": "b"}, key="k")
        context.publish("demo", b"raw", correlation_id="mine")
        context.log.warning("half %s", "done")
        with pytest.raises(ValueError, match="no source is called 'nobody': configured are answers, demo"):
            context.publish("nobody", 1)

    one = One(storage, handle)
    assert one.run() == "SUCCEEDED"
    key = test_worker.job("a").id
    name = key.hex()
    (first,) = storage.receive(f"{PREFIX}answers", token=1, limit=9, max_bytes=99, visibility_us=1)
    (second,) = storage.receive("demo", token=2, limit=9, max_bytes=99, visibility_us=1)
    told = json.loads(first.envelope)
    assert (first.body, told["headers"], told["key"]) == (b'{"n":1}', [["a", "b"]], "k")
    assert told["message_id"].replace("-", "") == told["correlation"].replace("-", "") == name
    again = json.loads(second.envelope)
    assert (second.body, again["correlation"], again["message_id"][-2:]) == (b"raw", "mine", "/2")
    (line,) = [event for event in storage.job_events(key) if event["kind"] == "LOG"]
    assert str(line["detail"]).endswith("WARNING half done")


def test_a_failed_job_sends_nothing_and_keeps_its_log(storage: Storage) -> None:
    def handle(context: JobContext) -> None:
        context.publish("demo", 1)
        context.log.info("not logged at this level anywhere")
        context.log.error("so far")
        raise ValueError("no")

    assert One(storage, handle).run() == "SCHEDULED"
    assert storage.depth("demo") == 0
    assert events(storage, test_worker.job("a").id) == ["FAILED", "LOG"]


def test_filters_are_told_in_order_and_one_that_raises_hurts_nobody(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    """A job that fails for good: all events but those of its creation."""
    told: list[str] = []

    def listener(event: str) -> Callable[..., None]:
        @on(event)
        def tell(*what: object) -> None:
            told.append(event)
            raise RuntimeError("a filter's own fault")

        return tell

    def handle() -> None:
        raise ValueError("no")

    one = One(storage, handle, Filters(map(listener, EVENTS)))
    assert one.run(retries=0) == "FAILED"
    assert told == ["processing", "processed", "failed", "changing", "changed"]
    offered = test_worker.job("b")
    one.server.offers.insert(one.server.offers.make([offered], [None]))
    assert told[5:] == ["creating", "created"]
    assert "the filter test_filters" in caplog.text
    with pytest.raises(ValueError, match="no event is called 'done'"):
        on("done")


def test_a_program_enqueues_in_its_own_transaction(storage: Storage, sqlite_url: str) -> None:
    """The job is there if, and only if, that commits; many are answered one by one."""
    scheduler = Scheduler(sqlite_url)
    for commits in (False, True):
        with storage.engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            made = scheduler.enqueue("tests.unit.test_transactions:nothing", correlation_id="x", connection=connection)
            connection.exec_driver_sql("COMMIT" if commits else "ROLLBACK")
        assert made.outcome == "created"
        assert len(rows(storage)) == int(commits)
    asked = [Asked("x"), Asked("y", {"a": 1}), Asked("y", {"a": 1}), Asked("y", {"a": 2}), Asked("z")]
    answers = scheduler.enqueue_many("tests.unit.test_transactions:nothing", asked)
    assert [one.outcome for one in answers] == ["duplicate", "created", "duplicate", "conflict", "created"]
    scheduler.close()


def nothing(body: object = None) -> None:
    """A handler."""


def test_a_listed_delay_is_taken_as_it_is() -> None:
    """Given the first failures, the last delay again and again."""
    backoff = Backoff(delays=(1.0, 10.0))
    assert [backoff.delay(failures, Random(1)) for failures in (1, 2, 3)] == [1.0, 10.0, 10.0]
