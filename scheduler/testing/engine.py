"""A pod without threads, one step after the other, on the clock of a test: what both benches have."""

import asyncio
import contextlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple, Self, Unpack
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from scheduler.bodies import encoded
from scheduler.context import JobContext
from scheduler.duration import seconds
from scheduler.handlers import HandlerRegistry, describe
from scheduler.inflight import claimed_job
from scheduler.instants import instant_of
from scheduler.job import Job, JobState, headers_json, new_job
from scheduler.loops import Loop, LoopThread
from scheduler.retry import Policy, Snooze
from scheduler.server import Server
from scheduler.storage import StoreUnavailable
from scheduler.storage.operators import Record, record
from scheduler.storage.tables import jobs, messages, recurring
from scheduler.testing.expected import Expected, differences, label, name_of, shown
from scheduler.testing.faults import MOMENT, Clock, Faults
from scheduler.worker import Undone

TRIES = 50
"""Of a loop's step that the store fails; a pod tries for ever."""
MOST_PASSES = 10_000


class Ran(NamedTuple):
    """A run of a job that ended."""

    job: Job
    state: JobState
    """Of the job afterwards."""
    error: BaseException | None


@dataclass
class Done:
    """What `run_until_idle` came to: the runs whose results were written."""

    jobs: list[Ran] = field(default_factory=list)
    """In their order."""
    succeeded: int = 0
    failed: int = 0
    """For good."""
    retried: int = 0
    """After which the job waits for another run."""


def _in_a_coroutine() -> bool:
    with contextlib.suppress(RuntimeError):
        return bool(asyncio.get_running_loop())
    return False


class Engine(ABC):
    """What both benches have.

    :param url: of the store, which is migrated.
    """

    def __init__(self, url: str) -> None:
        self._clock = Clock()
        self._faults = Faults(self._clock)
        self._done = Done()
        self._errors: dict[bytes, BaseException] = {}
        self._first_error: BaseException | None = None
        self._server: Server
        self._loops: Sequence[LoopThread]
        self.storage = self._faults.store(url)
        self._events = asyncio.new_event_loop()
        self._begin()

    @abstractmethod
    def _pod(self) -> tuple[Server, Sequence[LoopThread]]:
        """A new pod, not started."""

    def _destinations(self) -> Mapping[str, str]:
        return {}

    @property
    def now(self) -> datetime:
        """The time by the bench's clock."""
        return instant_of(self._clock.database())

    def run_until_idle(self, *, raises: bool = True) -> Done:
        """Ingest and run until nothing is due any more.

        :param raises: afterwards raise the first error that a handler raised, as it is.
        :raises RuntimeError: in a coroutine, where handlers are some too: call it with `asyncio.to_thread`.
        """
        if any(handler.is_async for handler in self._server.worker.registry.values()) and _in_a_coroutine():
            raise RuntimeError("some handlers are coroutines, and so is this test: await asyncio.to_thread(...)")
        self._done, self._first_error = Done(), None
        self._server.membership.step()
        self._server.duties.hurry()
        before: object = None
        for _ in range(MOST_PASSES):
            if (now := self._standing()) == before:
                break
            before = now
            self._pass()
        else:
            raise RuntimeError(f"still not idle after {MOST_PASSES} rounds: does a handler make ever more work?")
        if raises and self._first_error is not None:
            raise self._first_error
        return self._done

    def advance(self, duration: str | float | timedelta) -> None:
        """Let time pass; what is due then waits for `run_until_idle`. Recurring jobs are made each at its time."""
        until = self._clock.passed + round(seconds(duration) * 1e6)
        while (left := self.storage.next_tick()) is not None and self._clock.passed + left * 1e6 <= until:
            self._clock.passed += round(left * 1e6)
            self._server.membership.step()
            self._server.duties.hurry()
            self._step(self._server.duties)
            if self.storage.next_tick() == 0:
                break  # more at once than one round makes, or one that can't be read
        self._clock.passed = max(until, self._clock.passed)

    def kill_pod(self) -> None:
        """The next run that goes well is its pod's last: it dies after all that the handler did, before its result is
        written. Its jobs are rescued and run again, so that handler does everything twice."""
        self._faults.killing = True

    def lose_commit_reply(self) -> None:
        """The next COMMIT of new jobs, and the next one of results, are done, but nobody is told. A pod does both
        again and nothing is doubled; a program's `enqueue` raises `StoreUnavailable`, and should be called again."""
        self._faults.losing = {"new", "results"}

    def call(
        self,
        handler: Callable[..., object] | str,
        body: object = None,
        *,
        attempt: int = 1,
        cancelled: bool = False,
        correlation_id: str = "test",
        headers: Mapping[str, str] = {},
    ) -> object:
        """Call a handler, without a store; what it returns.

        :param handler: the function, its `@job` name, or `module:function`.
        :param body: made into bytes, then decoded and validated as a message's is.
        :raises InvalidBody: for a body that would become a dead letter.
        """
        function = self._server.worker.registry.find(handler).function if isinstance(handler, str) else handler
        name, raw, texts = name_of(function), encoded(body), headers_json(headers)
        described = describe(function, name)
        new = new_job(namespace=name, correlation=correlation_id.encode(), handler=name, body=raw, headers=texts)
        job = claimed_job(new, bytes(16))._replace(attempts=attempt - 1)
        context = JobContext(job, Policy().overridden(described.options.policy).retries, self._destinations())
        if cancelled:
            context.cancel()
        result = described.call(described.parse(raw), context)
        return self._events.run_until_complete(result) if inspect.iscoroutine(result) else result

    def jobs(self) -> list[Record]:
        """The rows of all jobs, with their bodies, the oldest first."""
        columns = [column for column in jobs.c if column.name != "token"]
        with self.storage.connection() as connection:
            rows = connection.execute(select(*columns).order_by(jobs.c.created_at, jobs.c.due_at))
            return [record(row) for row in rows]

    def assert_job(self, **expected: Unpack[Expected]) -> Record:
        """There is such a job: its row.

        :raises AssertionError: with those that come nearest.
        """
        __tracebackhide__ = True
        found = [(differences(row, expected), row) for row in self.jobs()]
        for differing, row in found:
            if not differing:
                return row
        nearest = sorted(found, key=lambda one: len(one[0]))[:5]
        told = [f"no job has {shown(expected)}; " + (f"the nearest of {len(found)}:" if found else "there is none")]
        told += [f"  {label(row)}: {', '.join(differing)}{self._why(row)}" for differing, row in nearest]
        letters = self.storage.list_dead_letters(limit=5)
        told += [f"  a dead letter of {one['source']}: {one['reason']}: {one['detail']}" for one in letters]
        if waiting := self._standing()[0]:
            told.append(f"  messages that are not ingested yet: {waiting}")
        raise AssertionError("\n".join(told))

    def refute_job(self, **expected: Unpack[Expected]) -> None:
        """There is no such job.

        :raises AssertionError: with those that there are.
        """
        __tracebackhide__ = True
        found = [f"  {label(row)}, {row['state']}" for row in self.jobs() if not differences(row, expected)]
        if found:
            raise AssertionError("\n".join([f"{len(found)} with {shown(expected)}:", *found[:5]]))

    def close(self) -> None:
        """Close the store."""
        self.storage.close()
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self) -> None:
        """A new pod takes over."""
        self._faults.dead = False
        self._server, self._loops = self._pod()
        worker = self._server.worker
        worker.registry = HandlerRegistry(map(self._faults.mortal, worker.registry.values()))
        worker.executors.adopt(self._events)
        worker.filters.add("processed", self._processed)
        worker.filters.add("changed", self._changed)
        self._server.membership.step()
        self._step(self._server.duties)

    def _pass(self) -> None:
        """Each loop once, from the sources to the heartbeat, and all runs that wait."""
        self._clock.passed += MOMENT
        for thread in reversed(self._loops):
            self._step(thread.loop)
        while not self._faults.dead and self._server.worker.executors.run_one():
            continue
        if self._faults.dead:
            self._server.leave()  # as `run --processes` says of a child that died
            self._begin()
        else:
            self._step(self._server.finisher)

    def _step(self, loop: Loop) -> None:
        for left in reversed(range(TRIES)):
            try:
                loop.step()
                return
            except (StoreUnavailable, SQLAlchemyError):
                if not left:
                    raise

    def _standing(self) -> tuple[object, ...]:
        """What differs once anything was done; the messages that wait come first."""
        figures = (
            select(func.count()).select_from(messages),
            select(func.count()).select_from(jobs),
            select(func.sum(jobs.c.version)),
            select(func.sum(recurring.c.next_at)),
        )
        with self.storage.connection() as connection:
            return tuple(connection.execute(select(*(one.scalar_subquery() for one in figures))).one())

    def _processed(self, job: Job, error: BaseException | None) -> None:
        if error is not None:
            self._errors[job.key] = error
            if self._first_error is None and not isinstance(error, Undone | Snooze):
                self._first_error = error

    def _changed(self, job: Job, state: JobState) -> None:
        error, done = self._errors.pop(job.key, None), self._done
        if state is not JobState.ENQUEUED:
            done.jobs.append(Ran(job, state, error))
            done.succeeded += state is JobState.SUCCEEDED
            done.failed += state is JobState.FAILED
            done.retried += state is JobState.SCHEDULED

    def _why(self, row: Record) -> str:
        events = self.storage.job_events(UUID(str(row["id"])).bytes)
        failures = [str(one["detail"]).strip() for one in events if one["kind"] == "FAILED"]
        return f" ({failures[-1].splitlines()[-1]})" if failures else ""
