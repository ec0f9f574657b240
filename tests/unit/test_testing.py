"""The bench for programs: what runs, when, what it says where a test is wrong, and what it lets go wrong."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta

import pytest
from pydantic import BaseModel
from sqlalchemy import text

from scheduler import Asked, Backoff, JobContext, Snooze, job, on, recurring
from scheduler.bodies import InvalidBody
from scheduler.retry import PolicyOverride
from scheduler.storage import StoreUnavailable
from scheduler.testing import Bench

RAN: list[object] = []


class Order(BaseModel):
    id: int
    note: str = ""


def place(order: Order) -> None:
    RAN.append(order.id)


async def place_async(order: Order, context: JobContext) -> int:
    await asyncio.sleep(0)
    RAN.append((order.id, context.job.attempt, context.cancelled))
    return order.id


@job(name="orders.bad", retries=2, no_retry_on=(KeyError,))
def bad(order: Order) -> None:
    RAN.append(order.id)
    raise KeyError("gone") if order.note else ValueError(f"no {order.id}")


@job(backoff=Backoff(delays=(60.0,)))
async def snoozes(context: JobContext) -> None:
    RAN.append(context.job.version)
    if context.job.version < 3:
        raise Snooze("10m")


@recurring(every="10m", name="tick", overlap="allow")
def tick() -> None:
    RAN.append("tick")


@job(transactional=True)
def book(order: Order, context: JobContext) -> None:
    RAN.append("book")
    context.connection.execute(text("INSERT INTO ledger VALUES (:id)"), {"id": order.id})


@pytest.fixture
def bench() -> Iterator[Bench]:
    RAN.clear()
    with Bench(place, place_async, bad, snoozes, book) as bench:
        yield bench


def test_what_is_enqueued_runs(bench: Bench) -> None:
    """In the order of arrival, coroutines too; more than the workers take at once."""
    bench.enqueue(place, Order(id=1), correlation_id="1")
    assert bench.enqueue(place, Order(id=1), correlation_id="1").outcome == "duplicate"
    bench.enqueue(place_async, {"id": 2}, correlation_id="2")
    bench.scheduler.enqueue_many(place, [Asked(f"more-{n}", {"id": n}) for n in range(3, 150)])
    done = bench.run_until_idle()
    assert (done.succeeded, done.failed, done.retried) == (149, 0, 0)
    ran: list[object] = [1, (2, 1, False), *range(3, 150)]
    assert ran == RAN
    assert bench.run_until_idle().jobs == []


def test_time_passes_when_it_is_told_to(bench: Bench) -> None:
    """A schedule, a Snooze; the whole row is by the bench's clock."""
    start = bench.now
    bench.schedule(place, Order(id=1), correlation_id="1", delay="1h")
    bench.schedule(place, Order(id=2), correlation_id="2", at=start + timedelta(hours=2))
    bench.enqueue(snoozes, correlation_id="3")
    assert bench.run_until_idle().retried == 1
    bench.advance("59m")
    assert [ran.job.correlation_id for ran in bench.run_until_idle().jobs] == ["3"]
    bench.advance(timedelta(minutes=1))
    assert bench.run_until_idle().succeeded == 1
    bench.advance(3600.0)
    bench.run_until_idle()
    assert RAN[-2:] == [1, 2]
    assert bench.now - start < timedelta(hours=2, minutes=1)


def test_a_handlers_error_is_raised_as_it_is(bench: Bench) -> None:
    """After all has run; a retry comes at the end of its backoff's range, neither sooner nor later."""
    bench.enqueue(bad, Order(id=1), correlation_id="1")
    bench.enqueue(bad, Order(id=2, note="x"), correlation_id="2")
    bench.enqueue(place, Order(id=3), correlation_id="3")
    with pytest.raises(ValueError, match="no 1") as raised:
        bench.run_until_idle()
    assert RAN == [1, 2, 3]
    assert raised.traceback[-1].name == "bad"
    bench.assert_job(correlation_id="2", state="FAILED", handler=bad)
    bench.advance("900ms")
    assert bench.run_until_idle(raises=False).jobs == []
    bench.advance("1s")
    (ran,) = bench.run_until_idle(raises=False).jobs
    assert (ran.state, ran.job.attempts, str(ran.error)) == ("SCHEDULED", 1, "no 1")
    bench.advance("1h")
    assert bench.run_until_idle(raises=False).failed == 1


def test_recurring_jobs_are_made_each_at_its_time() -> None:
    RAN.clear()
    with Bench(tick) as bench:
        bench.advance("1h")
        assert bench.run_until_idle().succeeded == 6
        ids = [str(row["correlation_id"]) for row in bench.jobs()]
        assert len(set(ids)) == 6
        bench.advance("1h")
        assert bench.run_until_idle().succeeded == 6


def test_what_has_expired_is_deleted(bench: Bench) -> None:
    bench.schedule(place, Order(id=1), correlation_id="1", delay="1h", expires="1m")
    bench.advance("1m")
    assert bench.run_until_idle().jobs == []
    bench.assert_job(correlation_id="1", state="DELETED")


def test_an_assertion_tells_what_came_nearest(bench: Bench) -> None:
    """With the last error, and with what is not a job's at all."""
    with pytest.raises(AssertionError, match=r"no job has state='FAILED'; there is none"):
        bench.assert_job(state="FAILED")
    bench.enqueue(place, {"id": 7, "note": "a"}, correlation_id="seven")
    bench.enqueue(bad, Order(id=8), correlation_id="eight")
    bench.run_until_idle(raises=False)
    assert bench.assert_job(state="SUCCEEDED", body={"id": 7}, handler=place)["correlation_id"] == "seven"
    bench.assert_job(body=b'{"id":7,"note":"a"}')
    bench.assert_job(body='{"id":7,"note":"a"}')
    bench.assert_job(body=Order(id=8))
    bench.refute_job(body=b"7")
    with pytest.raises(AssertionError) as told:
        bench.assert_job(handler="orders.bad", state="SUCCEEDED", body={"id": 8})
    assert str(told.value).splitlines() == [
        "no job has handler='orders.bad', state='SUCCEEDED', body={'id': 8}; the nearest of 2:",
        "  'eight' of orders.bad: state is 'SCHEDULED' (ValueError: no 8)",
        f"  'seven' of {__name__}:place: handler is '{__name__}:place', body is {{'id': 7, 'note': 'a'}}",
    ]
    with pytest.raises(AssertionError, match=r"1 with body=\{'id': 7\}:\n  'seven' of .*:place, SUCCEEDED"):
        bench.refute_job(body={"id": 7})
    with pytest.raises(ValueError, match="'DONE' is not a valid JobState"):
        bench.assert_job(state="DONE")
    with pytest.raises(TypeError, match="a job has no 'stat': ask for route, state"):
        bench.assert_job(stat="FAILED")  # type: ignore[call-arg]


@pytest.mark.parametrize("handler", [place, place_async])
def test_a_killed_pod_has_done_everything_but_write_the_result(bench: Bench, handler: object) -> None:
    """The next pod rescues its jobs, and counts no failure."""
    assert callable(handler)
    for number in (1, 2):
        bench.enqueue(handler, Order(id=number), correlation_id=str(number))
    bench.kill_pod()
    done = bench.run_until_idle()
    assert done.succeeded == 2
    assert [ran[0] if isinstance(ran, tuple) else ran for ran in RAN] in ([1, 1, 2], [1, 2, 1])
    row = bench.assert_job(correlation_id="1", state="SUCCEEDED")
    assert (row["rescues"], row["attempts"]) == (1, 0)
    assert len(bench.storage.servers()) == 1
    assert bench.run_until_idle().jobs == []


def test_what_a_transactional_handler_wrote_dies_with_its_pod(bench: Bench) -> None:
    """And a lost reply to its COMMIT doubles nothing."""
    with bench.storage.connection() as connection:
        connection.execute(text("CREATE TABLE ledger (id INTEGER)"))
    bench.enqueue(book, Order(id=1), correlation_id="1")
    bench.kill_pod()
    assert bench.run_until_idle().succeeded == 1
    bench.enqueue(book, Order(id=2), correlation_id="2")
    bench.lose_commit_reply()
    bench.run_until_idle()
    with bench.storage.connection() as connection:
        assert list(connection.execute(text("SELECT id FROM ledger")).scalars()) == [1, 2]
    assert RAN == ["book"] * 3
    bench.assert_job(correlation_id="2", state="SUCCEEDED")


def test_lost_replies_double_nothing(bench: Bench) -> None:
    """A program is told to try again; a result is written once."""
    bench.lose_commit_reply()
    with pytest.raises(StoreUnavailable):
        bench.enqueue(place, Order(id=1), correlation_id="1")
    assert bench.enqueue(place, Order(id=1), correlation_id="1").outcome == "duplicate"
    assert bench.run_until_idle().succeeded == 1
    assert (RAN, bench._faults.losing) == ([1], set())


def test_a_handler_is_called_without_a_store(bench: Bench) -> None:
    """With a context of one's choice; its result and its error come out, and a body is validated."""
    assert bench.call(place_async, {"id": 7}, attempt=2, cancelled=True) == 7
    assert RAN == [(7, 2, True)]
    with pytest.raises(KeyError):
        bench.call("orders.bad", Order(id=1, note="x"))
    with pytest.raises(InvalidBody, match="id: Field required"):
        bench.call(place, {})
    assert bench.jobs() == []


def test_filters_and_defaults_are_the_programs_own() -> None:
    told: list[object] = []

    @on("failed")
    def tell(job: object, error: BaseException) -> None:
        told.append(str(error))

    with Bench("tests.unit.test_testing:place", bad, defaults=PolicyOverride(retries=0), filters=[tell]) as bench:
        bench.enqueue(bad, Order(id=1), correlation_id="1", retries=0)
        with pytest.raises(ValueError, match="no 1"):
            bench.run_until_idle()
    assert told == ["no 1"]


def test_a_handler_that_makes_ever_more_work_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.testing.engine.MOST_PASSES", 20)
    made: list[int] = []
    with Bench(place) as bench:

        @on("processed")
        def more(job: object, error: object) -> None:
            made.append(1)
            bench.enqueue(place, Order(id=len(made)), correlation_id=str(len(made)))

        bench._server.worker.filters.add("processed", more)
        bench.enqueue(place, Order(id=0), correlation_id="0")
        with pytest.raises(RuntimeError, match="does a handler make ever more work"):
            bench.run_until_idle()


def test_a_test_that_is_a_coroutine_is_told_what_to_do(bench: Bench) -> None:
    """Nothing is taken and lost; on a thread of its own it runs."""

    async def test() -> int:
        bench.enqueue(place_async, Order(id=1), correlation_id="1")
        with pytest.raises(RuntimeError, match=r"asyncio\.to_thread"):
            bench.run_until_idle()
        return (await asyncio.to_thread(bench.run_until_idle)).succeeded

    assert asyncio.run(test()) == 1


def test_all_jobs_of_a_pod_that_was_killed_are_rescued(bench: Bench) -> None:
    """Those that waited in it run once."""
    bench.scheduler.enqueue_many(place, [Asked(str(number), Order(id=number)) for number in range(60)])
    bench.kill_pod()
    assert bench.run_until_idle().succeeded == 60
    assert len(RAN) == 61
