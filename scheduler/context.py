"""What a handler is given of its run.

Promises: the job that it shows is what stands in the row; what it is told to publish, and the last lines of its log,
are written together with the run's result.
"""

import json
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from logging import Handler, Logger, LoggerAdapter, LogRecord, getLogger
from uuid import UUID

from sqlalchemy import Connection

from scheduler.bodies import encoded
from scheduler.job import Job
from scheduler.outbox import Leaving, envelope
from scheduler.tracing import injected


@dataclass(frozen=True, slots=True)
class JobView:
    """What a handler sees of its job."""

    id: UUID
    namespace: str
    correlation_id: str
    """Printable; the bytes are in `correlation_bytes`."""
    correlation_bytes: bytes
    headers: Mapping[str, str]
    body: bytes
    source: str
    attempt: int
    """Failures so far + 1: a rescue, a hand back and a Snooze count as none."""
    version: int
    """With `owner`, the fencing token of this run."""
    owner: UUID
    is_last_attempt: bool


def log_fields(job: Job) -> dict[str, object]:
    """What a log line about a job says of it: never its body."""
    return {
        "job": str(job.id),
        "route": job.route,
        "handler": job.handler,
        "attempt": job.attempts + 1,
        "version": job.version,
        "correlation_id": job.correlation_id[:64],
        "source": job.source,
    }


class _Keeper(Handler):
    """Keeps the last lines that were logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=100)

    def emit(self, record: LogRecord) -> None:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self.lines.append(f"{time} {record.levelname} {record.getMessage()}"[:1000])


class JobContext:
    """Given to a handler that has a parameter annotated with this class, in any place."""

    def __init__(self, job: Job, retries: int, destinations: Mapping[str, str] = {}) -> None:
        self._job = job
        self._retries = retries
        self._destinations = destinations
        self._cancelled = False
        self._keeper: _Keeper | None = None
        self.done: tuple[int, int] | None = None
        """The last `progress`."""
        self.leaving: list[Leaving] = []
        """What `publish` was given."""
        self.transaction: Connection | None = None

    @property
    def job(self) -> JobView:
        job = self._job
        return JobView(
            id=job.id,
            namespace=job.namespace,
            correlation_id=job.correlation_id,
            correlation_bytes=job.correlation_bytes,
            headers=json.loads(job.headers_json),
            body=job.body,
            source=job.source,
            attempt=job.attempts + 1,
            version=job.version,
            owner=UUID(bytes=job.owner),
            is_last_attempt=job.attempts >= self._retries,
        )

    @property
    def cancelled(self) -> bool:
        """True once this run should stop: deleted by an operator, fenced, timed out, or its pod is ending."""
        return self._cancelled

    def cancel(self) -> None:
        """Ask the run to stop. A handler that doesn't look at `cancelled` goes on."""
        self._cancelled = True

    @cached_property
    def log(self) -> LoggerAdapter[Logger]:
        """A logger whose lines carry the job's id, route, handler, attempt and correlation ID. The last hundred are
        kept in the job's history."""
        logger = Logger("jobbridge.handler")  # of this run alone, and in no registry
        logger.parent = getLogger("jobbridge.handler")
        self._keeper = _Keeper()
        logger.addHandler(self._keeper)
        return LoggerAdapter(logger, log_fields(self._job))

    @property
    def connection(self) -> Connection:
        """The transaction that the job's success is committed in; of a handler with `transactional=True`.

        :raises RuntimeError: in any other.
        """
        if self.transaction is None:
            raise RuntimeError("only a handler with @job(transactional=True) has a connection")
        return self.transaction

    def kept_log(self) -> Iterable[str]:
        """The last lines of the log."""
        return () if self._keeper is None else self._keeper.lines

    def publish(
        self,
        source: str,
        body: object,
        *,
        correlation_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        type: str | None = None,
        key: str | None = None,
        routing_key: str | None = None,
    ) -> None:
        """Send a message to where a configured source receives from, once this job has succeeded; at least once.

        :param body: bytes and text as they are; anything else as JSON, a pydantic model as it dumps itself.
        :param correlation_id: by default the message ID: this job's id, with a number from its second message on.
        :param key: of a Kafka record; `routing_key` of an AMQP message.
        :raises ValueError: where no source has this name.
        """
        if source not in self._destinations:
            raise ValueError(f"no source is called {source!r}: configured are {', '.join(sorted(self._destinations))}")
        number = len(self.leaving)
        message_id = f"{self._job.id}/{number + 1}" if number else str(self._job.id)
        stored = envelope(
            message_id, correlation_id or message_id, injected(headers), type=type, key=key, routing_key=routing_key
        )
        self.leaving.append(Leaving(self._destinations[source], stored, encoded(body)))

    def progress(self, done: int, of: int) -> None:
        """Say how far the run is; shown by `jobbridge jobs show`, as of the pod's last heartbeat."""
        self.done = (done, of)
