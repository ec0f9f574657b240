"""Locks and limits: what a job has to pass before a worker may take it.

A job with a lock waits in lane `LOCKED` until the row of its key in the table of locks names it; then it moves to a
lane that claims look at, and keeps the key until it has ended (or lets go of it while it waits for a retry). A job of a
route with a limit waits in the lanes from `LIMITED` on, which only `claim_limited` looks at: it locks the limit's row
and counts the rows that run, so nothing has to be given back when a run ends, is rescued or deleted.

Promises: of the jobs with one key one at most is runnable or runs; the next is the oldest that waits. Does not promise
that the code of a run has ended when its row is another's: a pod that was frozen may still be in it.
"""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property

from sqlalchemy import (
    Connection,
    Integer,
    Select,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal,
    literal_column,
    select,
    update,
)
from sqlalchemy.sql.elements import ColumnElement

from scheduler.job import JobState
from scheduler.limits import Grant, Limit, granted, still_granted
from scheduler.storage.database import Database, retried
from scheduler.storage.tables import jobs, limits, locks, state

RESCUED_LANES = 2
"""Lane 0: never rescued; 1: rescued once; 2: more often."""
LOCKED = 3
LIMITED = 4
"""The first of the lanes of limited jobs, which go by rescues as well."""

_LOCKED = literal(LOCKED, literal_execute=True)
_FIRST = literal_column("1", Integer)

MOST = 1_000_000
SWEEP = 500
"""Keys that one round of `pass_on_forgotten` looks after."""


def waiting_lane(rescues: ColumnElement[int]) -> ColumnElement[int]:
    """The lane of a job that waits for a worker and for no lock."""
    own = case((rescues >= RESCUED_LANES, RESCUED_LANES), else_=rescues)
    return own + case((jobs.c.limit_key.is_not(None), LIMITED), else_=0)


def fresh_lane() -> ColumnElement[int]:
    """The lane of a job that begins anew."""
    return case((jobs.c.lock_key.is_not(None), LOCKED), else_=waiting_lane(literal(0)))


def due_lane() -> ColumnElement[int]:
    """The lane of a job that was scheduled and is due now."""
    return case((jobs.c.lane == LOCKED, LOCKED), else_=waiting_lane(jobs.c.rescues))


_HOLDS = exists().where(
    jobs.c.id == locks.c.job_id,
    jobs.c.lock_key == locks.c.key,
    (jobs.c.state == JobState.PROCESSING.value)
    | (jobs.c.state.in_((JobState.ENQUEUED.value, JobState.SCHEDULED.value)) & (jobs.c.lane != LOCKED)),
)
"""Whether the job that a lock names still needs it. One that was purged may have come again with another lock."""


class Gates(Database):
    """The verbs of locks and limits."""

    @retried
    def pass_on(self, keys: Iterable[bytes]) -> None:
        """Give each lock whose holder has ended to the oldest job that waits for it. May be done at any time: by who
        inserted such jobs, and by who ended one."""
        wanted = sorted(keys)
        with self.transaction() as connection:
            self._lock(connection, wanted)
            rows = connection.execute(self._holders, {"keys": wanted}).all()
            free = [row for row in rows if not row.holds]
            given = [{"of_key": row.key, "of_job": row.next} for row in free if row.next is not None]
            if given:
                holder = update(locks).where(locks.c.key == bindparam("of_key")).values(job_id=bindparam("of_job"))
                connection.execute(holder, given)
                connection.execute(
                    update(jobs)
                    .where(
                        self.among(jobs.c.id, "ids"), jobs.c.state == state(JobState.ENQUEUED), jobs.c.lane == _LOCKED
                    )
                    .values(lane=waiting_lane(jobs.c.rescues)),
                    {"ids": sorted(one["of_job"] for one in given)},
                )
            unused = [row.key for row in free if row.next is None]
            if unused:
                connection.execute(delete(locks).where(self.among(locks.c.key, "keys")), {"keys": unused})

    def _lock(self, connection: Connection, keys: Sequence[bytes]) -> None:
        """Hold the rows of these keys; one that another deletes meanwhile is made again."""
        missing = list(keys)
        while missing:
            connection.execute(self.absent(locks), [{"key": key} for key in missing])
            rows = select(locks.c.key).where(self.among(locks.c.key, "keys")).order_by(locks.c.key)
            held = set(connection.execute(rows.with_for_update(), {"keys": missing}).scalars())
            missing = [key for key in missing if key not in held]

    @cached_property
    def _holders(self) -> Select[*tuple[object, ...]]:
        following = (
            select(jobs.c.id)
            .where(jobs.c.lock_key == locks.c.key, jobs.c.state == state(JobState.ENQUEUED), jobs.c.lane == _LOCKED)
            .order_by(jobs.c.due_at)
            .limit(_FIRST)
            .scalar_subquery()
        )
        return select(locks.c.key, _HOLDS.label("holds"), following.label("next")).where(
            self.among(locks.c.key, "keys")
        )

    def pass_on_forgotten(self) -> int:
        """What a pod that died between two steps left: locks whose job has ended, jobs that wait for a lock which
        nobody holds. How many keys were looked after."""
        ended = select(locks.c.key).where(~_HOLDS).limit(SWEEP)
        waiting = (
            select(jobs.c.lock_key)
            .where(
                jobs.c.state == state(JobState.ENQUEUED),
                jobs.c.lane == _LOCKED,
                ~exists().where(locks.c.key == jobs.c.lock_key),
            )
            .distinct()
            .limit(SWEEP)
        )
        with self.connection() as connection:
            keys = {*connection.execute(ended).scalars(), *connection.execute(waiting).scalars()}
        if keys:
            self.pass_on(keys)
        return len(keys)

    def _lock_limit(self, connection: Connection, limit: Limit) -> tuple[int, list[Grant]]:
        """Hold a limit's row; the database's time after that, and the starts of the last window."""
        row = select(limits.c.grants).where(limits.c.key == limit.key).with_for_update()
        grants = connection.execute(row).scalar()
        if grants is None:
            connection.execute(self.absent(limits), {"key": limit.key, "grants": "[]"})
            grants = connection.execute(row).scalar_one()
        now = int(connection.execute(select(self.now)).scalar_one())
        return now, still_granted(json.loads(grants), now)

    @staticmethod
    def _room(connection: Connection, limit: Limit, grants: Sequence[Grant]) -> int:
        """How many more may start now."""
        room = MOST
        if limit.concurrency is not None:
            running = (
                select(jobs.c.limit_key)
                .where(jobs.c.state == state(JobState.PROCESSING), jobs.c.limit_key == limit.key)
                .limit(limit.concurrency)
                .subquery()
            )
            room = limit.concurrency - connection.execute(select(func.count()).select_from(running)).scalar_one()
        if limit.rate is not None:
            room = min(room, limit.rate.number - sum(number for _, number in grants))
        return room

    @staticmethod
    def _grant(connection: Connection, limit: Limit, grants: Sequence[Grant], now: int, number: int) -> None:
        """Write down that so many start now."""
        if limit.rate is not None:
            new = json.dumps(granted(grants, limit.rate, now, number))
            connection.execute(update(limits).where(limits.c.key == limit.key).values(grants=new))
