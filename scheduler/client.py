"""What a program calls: make jobs, and act on them."""

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Self
from uuid import UUID

from sqlalchemy import Connection

from scheduler.bodies import encoded
from scheduler.duration import seconds
from scheduler.handlers import Handler, HandlerError, describe, resolve
from scheduler.instants import since_1970
from scheduler.job import NewJob, headers_json, new_job
from scheduler.limits import lock_key
from scheduler.storage import Act, Storage, open_storage
from scheduler.storage.records import Outcome
from scheduler.tracing import injected
from scheduler.verdict import microseconds
from scheduler.who import who


@dataclass(frozen=True, slots=True)
class Enqueued:
    """The answer to `enqueue`."""

    id: UUID
    outcome: str
    """`created`, `duplicate` (it stood, with the same body) or `conflict` (it stood with another; the first wins)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A job for `enqueue_many`; what the fields mean is told at `Scheduler.enqueue` and `schedule`."""

    correlation_id: str | bytes
    body: object = None
    namespace: str | None = None
    headers: Mapping[str, str] | None = None
    retries: int | None = None
    lock: str | None = None
    expires: str | float | timedelta | None = None
    at: datetime | None = None
    delay: str | float | timedelta | None = None


_OUTCOMES = {Outcome.NEW: "created", Outcome.DUPLICATE: "duplicate"}


class Scheduler:
    """Jobs on the database at `url`. Its tables are made or migrated at once.

    :param url: such as `postgresql+psycopg://host/database` or `sqlite:///jobs.db`.
    :raises ValueError: for a URL that is none of ours.
    :raises StoreUnavailable: where the database can't be reached.
    """

    def __init__(self, url: str, *, username: str | None = None, password: str | None = None) -> None:
        self._storage = open_storage(url, username=username, password=password)
        self._storage.migrate()

    @classmethod
    def of(cls, storage: Storage) -> Self:
        """On a store that is open, with its tables."""
        scheduler = cls.__new__(cls)
        scheduler._storage = storage
        return scheduler

    def enqueue(
        self,
        handler: Callable[..., object] | str,
        body: object = None,
        *,
        correlation_id: str | bytes,
        namespace: str | None = None,
        headers: Mapping[str, str] | None = None,
        retries: int | None = None,
        lock: str | None = None,
        expires: str | float | timedelta | None = None,
        connection: Connection | None = None,
    ) -> Enqueued:
        """Make a job, once: a second call with the same correlation ID in the same namespace makes no second one.

        :param handler: the function, or `module:function`. The pods must know it by their configuration.
        :param body: bytes and text as they are; anything else as JSON, a pydantic model as it dumps itself.
        :param namespace: where the correlation ID counts; by default the handler's name.
        :param retries: runs after the first, for this job; else the pods' configuration decides.
        :param lock: of all jobs of the namespace with this lock one runs at a time, in the order they came in.
        :param expires: not started by then, it is deleted: seconds, a timedelta, or text such as `10m`.
        :param connection: of yours, to the same database: the job is there when your transaction commits. What it
            raises is then your driver's own error.
        :raises HandlerError: for what can't be a handler.
        :raises InvalidBody: for a body that the handler can't take.
        :raises StoreUnavailable: call it again: with the same correlation ID nothing is doubled.
        """
        asked = Asked(correlation_id, body, namespace, headers, retries, lock, expires)
        return self.enqueue_many(handler, [asked], connection=connection)[0]

    def schedule(
        self,
        handler: Callable[..., object] | str,
        body: object = None,
        *,
        correlation_id: str | bytes,
        at: datetime | None = None,
        delay: str | float | timedelta | None = None,
        namespace: str | None = None,
        headers: Mapping[str, str] | None = None,
        retries: int | None = None,
        lock: str | None = None,
        expires: str | float | timedelta | None = None,
        connection: Connection | None = None,
    ) -> Enqueued:
        """As `enqueue`, to run at a time, or after a delay; never earlier, by the database's clock.

        :param at: with a timezone.
        :param delay: seconds, a timedelta, or text such as `90s`.
        """
        asked = Asked(correlation_id, body, namespace, headers, retries, lock, expires, at, delay)
        return self.enqueue_many(handler, [asked], connection=connection)[0]

    def enqueue_many(
        self, handler: Callable[..., object] | str, asked: Iterable[Asked], *, connection: Connection | None = None
    ) -> list[Enqueued]:
        """Make many jobs of one handler in one statement; the answer for each, in their order. Of those with one
        correlation ID the first one is made."""
        described = _described(handler)
        jobs = [_job(described, one) for one in asked]
        first = {job.id: job for job in reversed(jobs)}
        offered = [job for job in jobs if first[job.id] is job]
        answers = self._storage.insert_if_absent(offered, token=secrets.randbits(63), within=connection)
        outcomes = {
            job.id: _OUTCOMES.get(answer.outcome, "conflict") for job, answer in zip(offered, answers, strict=True)
        }
        return [
            Enqueued(
                UUID(bytes=job.id),
                outcomes[job.id] if first[job.id] is job else _again(job, first[job.id], outcomes[job.id]),
            )
            for job in jobs
        ]

    def requeue(self, job: UUID) -> Act:
        """Let a finished job run again, with all its tries."""
        return self._storage.requeue(job.bytes, by=who())

    def delete(self, job: UUID) -> Act:
        """End a job that has not succeeded; a run of it is cancelled."""
        return self._storage.delete(job.bytes, by=who())

    def run_now(self, job: UUID) -> Act:
        """Let a scheduled job wait for a worker at once."""
        return self._storage.run_now(job.bytes, by=who())

    def cancel(self, job: UUID) -> Act:
        """End a job that runs; its handler is told within a heartbeat."""
        return self._storage.cancel(job.bytes, by=who())

    def close(self) -> None:
        """Close the connections."""
        self._storage.close()


def _job(handler: Handler, asked: Asked) -> NewJob:
    given = asked.correlation_id
    correlation = given.encode() if isinstance(given, str) else given
    if not correlation:
        raise ValueError("a job needs a correlation ID that is not empty: it is what makes it one job")
    if asked.at is not None and (asked.at.tzinfo is None or asked.delay is not None):
        raise ValueError("give a delay, or a time with its timezone")
    raw = encoded(asked.body)
    handler.parse(raw)
    namespace = handler.name if asked.namespace is None else asked.namespace
    return new_job(
        namespace=namespace,
        correlation=correlation,
        handler=handler.name,
        body=raw,
        headers=headers_json(injected(asked.headers)),
        retries=asked.retries,
        at_us=None if asked.at is None else max(0, since_1970(asked.at)),
        delay_us=0 if asked.delay is None else microseconds(seconds(asked.delay)),
        lock_key=None if asked.lock is None else lock_key(namespace, asked.lock.encode()),
        expires_us=None if asked.expires is None else microseconds(seconds(asked.expires)),
    )


def _again(job: NewJob, first: NewJob, outcome: str) -> str:
    """The answer for a second job with an ID within one call."""
    if job.digest == first.digest:
        return "duplicate" if outcome == "created" else outcome
    return "conflict"


@lru_cache(maxsize=256)
def _described(handler: Callable[..., object] | str) -> Handler:
    if isinstance(handler, str):
        return resolve(handler)
    reference = f"{handler.__module__}:{handler.__qualname__}"
    described = describe(handler, reference)
    if described.name == reference and (handler.__module__ == "__main__" or "<locals>" in handler.__qualname__):
        raise HandlerError(f"{reference}: no pod can import it: move it to a module, at its top level")
    return described
