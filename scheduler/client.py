"""What a program calls: make jobs, and act on them."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID

from pydantic import TypeAdapter

from scheduler.handlers import Handler, HandlerError, describe, resolve
from scheduler.job import NewJob, headers_json, new_job
from scheduler.storage import Act, open_storage
from scheduler.storage.records import Outcome
from scheduler.who import who

_ANY: TypeAdapter[object] = TypeAdapter(object)


@dataclass(frozen=True, slots=True)
class Enqueued:
    """The answer to `enqueue`."""

    id: UUID
    outcome: str
    """`created`, `duplicate` (it stood, with the same body) or `conflict` (it stood with another; the first wins)."""


class Scheduler:
    """Jobs on the database at `url`. Its tables are made or migrated at once.

    :param url: such as `postgresql+psycopg://host/database` or `sqlite:///jobs.db`.
    :raises ValueError: for a URL that is none of ours.
    :raises StoreUnavailable: where the database can't be reached.
    """

    def __init__(self, url: str, *, username: str | None = None, password: str | None = None) -> None:
        self._storage = open_storage(url, username=username, password=password)
        self._storage.migrate()

    def enqueue(
        self,
        handler: Callable[..., object] | str,
        body: object = None,
        *,
        correlation_id: str | bytes,
        namespace: str | None = None,
        headers: Mapping[str, str] | None = None,
        retries: int | None = None,
    ) -> Enqueued:
        """Make a job, once: a second call with the same correlation ID in the same namespace makes no second one.

        :param handler: the function, or `module:function`. The pods must know it by their configuration.
        :param body: bytes and text as they are; anything else as JSON, a pydantic model as it dumps itself.
        :param namespace: where the correlation ID counts; by default the handler's name.
        :param retries: runs after the first, for this job; else the pods' configuration decides.
        :raises HandlerError: for what can't be a handler.
        :raises InvalidBody: for a body that the handler can't take.
        :raises StoreUnavailable: call it again: with the same correlation ID nothing is doubled.
        """
        described = _described(handler)
        job = self._job(described, body, correlation_id, namespace, headers, retries)
        (answer,) = self._storage.insert_if_absent([job], token=secrets.randbits(63))
        outcomes = {Outcome.NEW: "created", Outcome.DUPLICATE: "duplicate"}
        return Enqueued(UUID(bytes=job.id), outcomes.get(answer.outcome, "conflict"))

    @staticmethod
    def _job(
        handler: Handler,
        body: object,
        correlation_id: str | bytes,
        namespace: str | None,
        headers: Mapping[str, str] | None,
        retries: int | None,
    ) -> NewJob:
        correlation = correlation_id.encode() if isinstance(correlation_id, str) else correlation_id
        if not correlation:
            raise ValueError("a job needs a correlation ID that is not empty: it is what makes it one job")
        raw = _encoded(body)
        handler.parse(raw)
        return new_job(
            namespace=handler.name if namespace is None else namespace,
            correlation=correlation,
            handler=handler.name,
            body=raw,
            headers=headers_json(dict(headers or {})),
            retries=retries,
        )

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


@lru_cache(maxsize=256)
def _described(handler: Callable[..., object] | str) -> Handler:
    if isinstance(handler, str):
        return resolve(handler)
    reference = f"{handler.__module__}:{handler.__qualname__}"
    described = describe(handler, reference)
    if described.name == reference and (handler.__module__ == "__main__" or "<locals>" in handler.__qualname__):
        raise HandlerError(f"{reference}: no pod can import it: move it to a module, at its top level")
    return described


def _encoded(body: object) -> bytes:
    if isinstance(body, bytes):
        return body
    return body.encode() if isinstance(body, str) else _ANY.dump_json(body)
