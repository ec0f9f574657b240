"""What operators do to jobs: requeue, delete, run now, cancel; to one by its id, or to all that match.

Promises: an act is written only where the (id, version) that it was decided on still stands, together with its line
in the job's history (I7); a job that moved on meanwhile is told of and left alone. All that match are those that
matched when the act began: what came, ran or ended since then is not touched, so nothing is requeued twice.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Unpack

from sqlalchemy import BigInteger, Row, and_, case, func, insert, literal, null, or_, select, tuple_, update
from sqlalchemy.sql.elements import ColumnElement

from scheduler.job import FINISHED, TRANSITIONS, JobState
from scheduler.storage.database import retried
from scheduler.storage.gates import Gates, due_lane, fresh_lane
from scheduler.storage.matching import Wanted, matching
from scheduler.storage.records import Act
from scheduler.storage.tables import job_events, jobs
from scheduler.storage.tables import state as in_state

BATCH = 500
WEEK = 7 * 86_400_000_000


class Verb(NamedTuple):
    """An act."""

    name: str
    event: str
    target: JobState
    possible: frozenset[JobState]
    """The states of the jobs that it is for."""


REQUEUE = Verb("requeue", "REQUEUED", JobState.ENQUEUED, FINISHED)
DELETE = Verb(
    "delete",
    "DELETED",
    JobState.DELETED,
    frozenset(one for one, targets in TRANSITIONS.items() if JobState.DELETED in targets),
)
RUN_NOW = Verb("run-now", "RUN-NOW", JobState.ENQUEUED, frozenset({JobState.SCHEDULED}))
CANCEL = Verb("cancel", "CANCELLED", JobState.DELETED, frozenset({JobState.PROCESSING}))
VERBS = {verb.name: verb for verb in (REQUEUE, DELETE, RUN_NOW, CANCEL)}


class Doing(NamedTuple):
    """An act, by whom, and how long the IDs of jobs that it ends stay remembered."""

    verb: Verb
    by: str = ""
    window_us: int = WEEK
    windows_us: Mapping[str, int] = {}
    """By route, where that has one of its own."""


Seen = Row[tuple[bytes, int, str, bytes | None, bool]]
"""A job as it was decided on."""

_seen = select(jobs.c.id, jobs.c.version, jobs.c.state, jobs.c.lock_key, jobs.c.body.is_(None).label("dropped"))


class _MovedOn(Exception):
    """Rolls back a batch in which a job is no longer what was decided on."""


class Acts(Gates):
    """The verbs that change jobs for people."""

    def requeue(self, key: bytes, *, by: str = "") -> Act:
        """Let a finished job run again, with all its tries."""
        return self.act(Doing(REQUEUE, by), key)

    def delete(self, key: bytes, retention_us: int = WEEK, *, by: str = "") -> Act:
        """End a job that has not succeeded; its ID stays remembered for `retention_us`. A run of it is cancelled."""
        return self.act(Doing(DELETE, by, retention_us), key)

    def run_now(self, key: bytes, *, by: str = "") -> Act:
        """Let a scheduled job wait for a worker at once."""
        return self.act(Doing(RUN_NOW, by), key)

    def cancel(self, key: bytes, retention_us: int = WEEK, *, by: str = "") -> Act:
        """End a job that runs; the pod that runs it is told at its next heartbeat."""
        return self.act(Doing(CANCEL, by, retention_us), key)

    def act(self, doing: Doing, key: bytes) -> Act:
        """Do it to one job."""
        with self.connection() as connection:
            seen = connection.execute(_seen.where(jobs.c.id == key)).first()
        if seen is None:
            return Act.NOT_FOUND
        if JobState(seen.state) not in doing.verb.possible:
            return Act.WRONG_STATE
        if _lacks_body(doing, seen):
            return Act.BODY_DROPPED
        return Act.DONE if self._write(doing, [seen]) else Act.LOST_RACE

    def count_matching(self, verb: Verb, began: int, **wanted: Unpack[Wanted]) -> dict[JobState, int]:
        """How many jobs matched by `began`, of those that the act is for, by state."""
        statement = select(jobs.c.state, func.count()).where(matched(verb, began, wanted)).group_by(jobs.c.state)
        with self.connection() as connection:
            return {JobState(state): number for state, number in connection.execute(statement)}

    def act_on_matching(
        self, doing: Doing, began: int, *, batch: int = BATCH, **wanted: Unpack[Wanted]
    ) -> Iterator[Counter[Act]]:
        """Do it to all jobs that matched by `began`, in the order of their ids; what became of each batch."""
        statement = _seen.where(matched(doing.verb, began, wanted)).order_by(jobs.c.id).limit(batch)
        last = b""
        while True:
            with self.connection() as connection:
                seen = connection.execute(statement.where(jobs.c.id > last)).all()
            if not seen:
                return
            last = seen[-1].id
            able = [one for one in seen if not _lacks_body(doing, one)]
            done = self._write(doing, able) if able else 0
            yield Counter({Act.DONE: done, Act.LOST_RACE: len(able) - done, Act.BODY_DROPPED: len(seen) - len(able)})

    @retried
    def note(self, key: bytes, kind: str, detail: str) -> None:
        """Add a line to a job's history."""
        with self.connection() as connection:
            connection.execute(insert(job_events).values(job_id=key, at=self.now, kind=kind, detail=detail, times=1))

    @retried
    def _write(self, doing: Doing, seen: Sequence[Seen]) -> int:
        """How many were written. A batch in which one moved on is split, since no database tells which it was."""
        by = f"by {doing.by}; " if doing.by else ""
        same = tuple_(jobs.c.id, jobs.c.version).in_([(one.id, one.version) for one in seen])
        try:
            with self.transaction() as connection:
                changed = connection.execute(
                    update(jobs)
                    .where(jobs.c.id.in_([one.id for one in seen]), same)
                    .values(state=doing.verb.target.value, version=jobs.c.version + 1, **self._values(doing))
                )
                if changed.rowcount != len(seen):
                    raise _MovedOn
                connection.execute(
                    insert(job_events).values(at=self.now, kind=doing.verb.event, times=1),
                    [{"job_id": one.id, "version": one.version, "detail": f"{by}it was {one.state}"} for one in seen],
                )
        except _MovedOn:
            half = len(seen) // 2
            return self._write(doing, seen[:half]) + self._write(doing, seen[half:]) if half else 0
        if locks := {one.lock_key for one in seen if one.lock_key is not None}:
            self.pass_on(locks)
        return len(seen)

    def _values(self, doing: Doing) -> dict[str, object]:
        if doing.verb.target is JobState.DELETED:
            window: ColumnElement[int] = literal(doing.window_us, BigInteger())
            if doing.windows_us:
                own = {route: literal(us, BigInteger()) for route, us in doing.windows_us.items()}
                window = case(own, value=jobs.c.route, else_=window)
            return {"due_at": self.now + window, "lane": 0, "finished_at": self.now}
        if doing.verb is RUN_NOW:
            return {"due_at": self.now, "lane": due_lane()}
        again = {"attempts": 0, "rescues": 0, "finished_at": null(), "expires_at": null()}
        return {"due_at": self.now, "lane": fresh_lane(), **again}


def _lacks_body(doing: Doing, seen: Seen) -> bool:
    return doing.verb.target is JobState.ENQUEUED and bool(seen.dropped)


def matched(verb: Verb, began: int, wanted: Wanted) -> ColumnElement[bool]:
    """The condition: the act is for it, and it was so by `began`."""
    return and_(
        jobs.c.state.in_([in_state(one) for one in sorted(verb.possible)]),
        jobs.c.created_at <= began,
        *(or_(at.is_(None), at <= began) for at in (jobs.c.started_at, jobs.c.finished_at)),
        *matching(wanted),
    )
