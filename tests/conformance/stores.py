"""What the storage tests share: jobs to offer, rows to look at, racing threads and racing processes."""

import multiprocessing
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy import BigInteger, literal_column, select, update

from scheduler.job import Job, JobState, NewJob, digest, new_job
from scheduler.storage import Storage, open_storage
from scheduler.storage.database import Options
from scheduler.storage.records import DeadLetter, Event, Finish
from scheduler.storage.tables import dead_letters, jobs

T = TypeVar("T")

A, B, C = (bytes([number]) * 16 for number in (0xA1, 0xB2, 0xC3))
"""Servers."""

HOUR = 3_600_000_000
DAY = 24 * HOUR
RACERS = 6
"""How many processes take part in each race of processes."""


def job(correlation: bytes | str | int, **more: Any) -> NewJob:
    """A job to offer."""
    raw = correlation if isinstance(correlation, bytes) else str(correlation).encode()
    given: dict[str, Any] = {"namespace": "n", "handler": "h", "body": b"{}", "route": "r", "source": "s"}
    return new_job(correlation=raw, **given | more)


def some_jobs(number: int, prefix: str = "job", **more: Any) -> list[NewJob]:
    """So many jobs, in order of arrival."""
    return [job(f"{prefix}-{k}", **more) for k in range(number)]


def letter(name: str, **more: Any) -> DeadLetter:
    """A dead letter."""
    given: dict[str, Any] = {
        "id": digest(name.encode()),
        "source": "s",
        "reason": "invalid-json",
        "detail": "no",
        "correlation_id": name,
        "coordinates": "",
        "envelope": "{}",
        "digest": digest(b"body"),
        "size": 4,
        "body": b"body",
    }
    return DeadLetter(**given | more)


def put(storage: Storage, offered: Sequence[NewJob], **more: Any) -> None:
    """Insert jobs that are new."""
    more = {"token": 1} | more
    storage.insert_if_absent(offered, **more)


def claimed(storage: Storage, number: int = 1, owner: bytes = A, prefix: str = "job", **more: Any) -> list[Job]:
    """So many jobs that a server holds."""
    put(storage, some_jobs(number, prefix, **more))
    return storage.claim(owner, ["h"], number)


def success(held: Job, window: int = DAY, *, drop_body: bool = False) -> Finish:
    """The result of a run that went well."""
    return Finish(
        held.key, held.version, held.owner, JobState.SUCCEEDED, window, drop_body=drop_body, lock_key=held.lock_key
    )


def retry(held: Job, delay: int = HOUR, detail: str = "Traceback", lane: int = 0) -> Finish:
    """The result of a run that failed and is tried again."""
    event = Event("FAILED", detail)
    lock = held.lock_key
    return Finish(
        held.key, held.version, held.owner, JobState.SCHEDULED, delay, failures=1, lane=lane, event=event, lock_key=lock
    )


def failure(held: Job, retention: int = DAY, detail: str = "Traceback") -> Finish:
    """The result of a run that failed for good."""
    event = Event("FAILED", detail)
    lock = held.lock_key
    return Finish(
        held.key, held.version, held.owner, JobState.FAILED, retention, failures=1, event=event, lock_key=lock
    )


def handed_back(held: Job) -> Finish:
    """The result of a run that did not happen."""
    return Finish(held.key, held.version, held.owner, JobState.ENQUEUED, 0)


def row(storage: Storage, key: bytes) -> Mapping[str, Any]:
    """A job's row as it stands."""
    with storage.engine.connect() as connection:
        return connection.execute(select(jobs).where(jobs.c.id == key)).mappings().one()


def rows(storage: Storage) -> list[Mapping[str, Any]]:
    """All jobs' rows, by their due time."""
    with storage.engine.connect() as connection:
        return list(connection.execute(select(jobs).order_by(jobs.c.due_at)).mappings())


def letters(storage: Storage) -> list[Mapping[str, Any]]:
    """All dead letters."""
    with storage.engine.connect() as connection:
        return list(connection.execute(select(dead_letters)).mappings())


def force(storage: Storage, key: bytes, **values: object) -> None:
    """Change a row by hand, behind all guards."""
    with storage.engine.connect() as connection:
        connection.execute(update(jobs).where(jobs.c.id == key).values(**values))


def events(storage: Storage, key: bytes) -> list[str]:
    """The kinds of a job's events, in order."""
    return [str(event["kind"]) for event in storage.job_events(key)]


def standing_still(time: int) -> Options:
    """A database's clock that shows this time, microseconds since 1970."""
    return Options(now=literal_column(str(time), BigInteger()))


def at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """What the calls answer, each made by a thread of its own at the same moment."""
    barrier = threading.Barrier(len(calls))

    def start(call: Callable[[], T]) -> T:
        barrier.wait(30)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(start, calls))


_barrier: threading.Barrier


def _join(barrier: threading.Barrier) -> None:
    global _barrier
    _barrier = barrier


def _start(function: Callable[[Storage, Any], T], url: str, argument: object) -> T:
    storage = open_storage(url)
    try:
        storage.answers()  # connect before the race
        _barrier.wait(60)
        return function(storage, argument)
    finally:
        storage.close()


class Racers:
    """Processes that stay for the whole run, since starting one costs a second."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(
            RACERS, mp_context=context, initializer=_join, initargs=(context.Barrier(RACERS),)
        )

    def race(self, function: Callable[[Storage, Any], T], url: str, arguments: Sequence[object]) -> list[T]:
        """What a function of a module answers in each process, on a storage of its own, all starting together."""
        assert len(arguments) == RACERS
        futures = [self._pool.submit(_start, function, url, argument) for argument in arguments]
        return [future.result(timeout=90) for future in futures]

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown()
