"""What people look at: counts, lists, history, dead letters. What they do to jobs is in `acts.py`.

Lists are bounded; one of a single state follows an index.
"""

import contextlib
from collections.abc import Iterable
from typing import Unpack
from uuid import UUID

from sqlalchemy import Row, Select, delete, func, select

from scheduler.job import JobState, NewJob, job_id, preview
from scheduler.storage.database import Database, retried
from scheduler.storage.intake import EXISTING, judge
from scheduler.storage.matching import Wanted, matching
from scheduler.storage.records import Existing, Outcome
from scheduler.storage.tables import dead_letters, job_events, jobs
from scheduler.storage.tables import state as in_state

Record = dict[str, object]
"""A row by its columns' names. Keys of 16 bytes are UUIDs."""

LISTED = [column for column in jobs.c if column.name not in {"token", "body"}]
LETTERS = [column for column in dead_letters.c if column.name != "body"]
_UNDONE = {
    JobState.SCHEDULED: (jobs.c.due_at,),
    JobState.ENQUEUED: (jobs.c.lane, jobs.c.due_at),
    JobState.PROCESSING: (),
    JobState.FAILED: (jobs.c.due_at.desc(),),
}
"""Each with the order of its index."""
_KEYS = frozenset({"id", "owner", "job_id", "last_job", "job_before"})


def record(row: Row[*tuple[object, ...]]) -> Record:
    """A row as people see it."""
    return {
        name: UUID(bytes=value) if name in _KEYS and isinstance(value, bytes) else value
        for name, value in row._mapping.items()
    }


def keys_of(text: str, namespaces: Iterable[str]) -> list[bytes]:
    """The keys that a job with this id (a UUID), or with this correlation ID in one of the namespaces, has."""
    keys = [job_id(namespace, text.encode("utf-8", "surrogateescape")) for namespace in namespaces]
    with contextlib.suppress(ValueError):
        keys.append(UUID(text).bytes)
    return keys


class Operators(Database):
    """The verbs that show the store to people."""

    def count_by_state(self) -> dict[JobState, int]:
        """Exactly how many jobs are in each state; reads them all."""
        with self.connection() as connection:
            rows = connection.execute(select(jobs.c.state, func.count()).group_by(jobs.c.state)).all()
        counted: dict[str, int] = {name: number for name, number in rows}
        return {one: counted.get(one.value, 0) for one in JobState}

    def backlog(self, bound: int) -> int:
        """How many jobs wait for a worker, counted no further than `bound`."""
        # In the index's order, or PostgreSQL may read the table from its oldest rows on.
        waiting = (
            select(jobs.c.due_at)
            .where(jobs.c.state == in_state(JobState.ENQUEUED))
            .order_by(jobs.c.lane, jobs.c.due_at)
            .limit(bound)
            .subquery()
        )
        with self.connection() as connection:
            return connection.execute(select(func.count()).select_from(waiting)).scalar_one()

    def count_by_handler(self, bound: int) -> dict[tuple[JobState, str], int]:
        """How many jobs of each handler are left to run, run, or failed; of each state no more than `bound` are read,
        those first that wait longest."""
        found: dict[tuple[JobState, str], int] = {}
        for state, order in _UNDONE.items():
            read = (
                select(jobs.c.handler).where(jobs.c.state == in_state(state)).order_by(*order).limit(bound).subquery()
            )
            counted = select(read.c.handler, func.count()).group_by(read.c.handler).order_by(read.c.handler)
            with self.connection() as connection:
                found |= {(state, name): number for name, number in connection.execute(counted)}
        return found

    def count_dead_letters(self) -> int:
        """How many dead letters are kept."""
        with self.connection() as connection:
            return connection.execute(select(func.count()).select_from(dead_letters)).scalar_one()

    def list_jobs(self, *, limit: int = 50, **wanted: Unpack[Wanted]) -> list[Record]:
        """The newest jobs that match, without their bodies."""
        newest = (
            (jobs.c.created_at.desc(), jobs.c.due_at.desc()) if wanted.get("state") is None else (jobs.c.due_at.desc(),)
        )
        return self._records(select(*LISTED).where(*matching(wanted)).order_by(*newest).limit(limit))

    def states(self, ids: Iterable[bytes]) -> dict[bytes, JobState]:
        """The states of those of these jobs that are there."""
        statement = select(jobs.c.id, jobs.c.state).where(self.among(jobs.c.id, "ids"))
        with self.connection() as connection:
            return {row.id: JobState(row.state) for row in connection.execute(statement, {"ids": list(ids)})}

    def foresee(self, job: NewJob) -> tuple[Outcome, Record | None]:
        """What `insert_if_absent` would answer now, and the row that stands, without its body. Nothing is written."""
        statement = select(*LISTED, jobs.c.token).where(jobs.c.id == job.id)
        with self.connection() as connection:
            row = connection.execute(statement).one_or_none()
        if row is None:
            return Outcome.NEW, None
        there = Existing(*(row._mapping[column] for column in EXISTING))
        return judge((0, job), there, token=self.random.getrandbits(63)).outcome, record(row)

    def find_jobs(self, text: str, namespaces: Iterable[str] = ()) -> list[Record]:
        """The jobs, with their bodies, that have this id (a UUID) or this correlation ID, as it is or as it is shown.

        :param namespaces: where to look by key first; without a hit the whole table is read.
        """
        raw = text.encode("utf-8", "surrogateescape")
        keys = keys_of(text, namespaces)
        statement = select(*(column for column in jobs.c if column.name != "token"))
        found = self._records(statement.where(jobs.c.id.in_(keys)))
        return found or self._records(statement.where(jobs.c.correlation_id == preview(raw)).limit(100))

    def job_events(self, key: bytes) -> list[Record]:
        """The lines of a job's history, the oldest first."""
        return self._records(select(job_events).where(job_events.c.job_id == key).order_by(job_events.c.seq))

    def list_conflicts(self, limit: int = 50) -> list[Record]:
        """The newest conflicts: another body under the ID of a job that stood."""
        statement = (
            select(
                job_events.c.job_id,
                job_events.c.at,
                job_events.c.times,
                job_events.c.detail,
                job_events.c.digest,
                jobs.c.correlation_id,
                jobs.c.namespace,
                jobs.c.route,
                jobs.c.state,
            )
            .join(jobs, jobs.c.id == job_events.c.job_id)
            .where(job_events.c.kind == "CONFLICT")
            .order_by(job_events.c.seq.desc())
            .limit(limit)
        )
        return self._records(statement)

    def list_dead_letters(
        self, *, reason: str | None = None, source: str | None = None, correlation: str | None = None, limit: int = 50
    ) -> list[Record]:
        """The newest dead letters that match, without their bodies."""
        statement = select(*LETTERS).order_by(dead_letters.c.received_at.desc()).limit(limit)
        by_id = (dead_letters.c.correlation_id, correlation and preview(correlation.encode("utf-8", "surrogateescape")))
        for column, wanted in ((dead_letters.c.reason, reason), (dead_letters.c.source, source), by_id):
            if wanted is not None:
                statement = statement.where(column == wanted)
        return self._records(statement)

    def dead_letter(self, key: bytes) -> Record | None:
        """One dead letter, whole."""
        return next(iter(self._records(select(dead_letters).where(dead_letters.c.id == key))), None)

    @retried
    def drop_dead_letter(self, key: bytes) -> bool:
        """Delete a dead letter; False: it was not there."""
        with self.connection() as connection:
            return connection.execute(delete(dead_letters).where(dead_letters.c.id == key)).rowcount == 1

    def _records(self, statement: Select[*tuple[object, ...]]) -> list[Record]:
        with self.connection() as connection:
            return [record(row) for row in connection.execute(statement)]
