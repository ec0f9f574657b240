"""Promote, rescue, purge: the writes that no worker's run causes. Each is harmless when done twice at once (I13)."""

from collections import Counter

from sqlalchemy import Connection, Select, bindparam, case, delete, insert, null, select, update

from scheduler.counts import Key
from scheduler.job import FINISHED, JobState
from scheduler.storage.database import retried
from scheduler.storage.gates import Gates, due_lane, waiting_lane
from scheduler.storage.tables import job_events, jobs, state

BATCH = 1000
PURGED = 5000
"""Rows that one purge deletes."""


class Upkeep(Gates):
    """The verbs that maintenance needs."""

    @retried
    def promote(self, limit: int = BATCH) -> int:
        """Make scheduled jobs that are due wait for a worker, or for their lock; how many. Never early, by the
        database's clock."""
        due = (
            select(jobs.c.id, jobs.c.lock_key)
            .where(jobs.c.state == state(JobState.SCHEDULED), jobs.c.due_at <= self.now)
            .order_by(jobs.c.due_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        with self.transaction() as connection:
            rows = connection.execute(due).all()
            if rows:
                connection.execute(
                    update(jobs)
                    .where(self.among(jobs.c.id, "ids"), jobs.c.state == state(JobState.SCHEDULED))
                    .values(state=state(JobState.ENQUEUED), version=jobs.c.version + 1, lane=due_lane()),
                    {"ids": sorted(row.id for row in rows)},
                )
        locks = {row.lock_key for row in rows if row.lock_key is not None}
        if locks:
            self.pass_on(locks)
        return len(rows)

    @retried
    def expire(self, retention_us: int, limit: int = BATCH) -> int:
        """Delete jobs that have not started in time; how many. No claim takes one that is over its time."""
        waiting = jobs.c.state.in_([state(JobState.ENQUEUED), state(JobState.SCHEDULED)])
        late = (waiting, jobs.c.expires_at <= self.now, jobs.c.started_at.is_(None))
        over = select(jobs.c.id, jobs.c.version).where(*late).limit(limit).with_for_update(skip_locked=True)
        with self.transaction() as connection:
            rows = connection.execute(over).all()
            if rows:
                connection.execute(
                    update(jobs)
                    .where(self.among(jobs.c.id, "ids"), *late)
                    .values(
                        state=state(JobState.DELETED),
                        version=jobs.c.version + 1,
                        lane=0,
                        due_at=self.now + retention_us,
                        finished_at=self.now,
                    ),
                    {"ids": sorted(row.id for row in rows)},
                )
                detail = "it had not started when its time was over"
                connection.execute(
                    insert(job_events).values(at=self.now, times=1, kind="EXPIRED", detail=detail),
                    [{"job_id": row.id, "version": row.version} for row in rows],
                )
            return len(rows)

    def next_due(self) -> float | None:
        """Seconds until the next scheduled job is due; None: there is none."""
        first = select(jobs.c.due_at - self.now).where(jobs.c.state == state(JobState.SCHEDULED))
        with self.connection() as connection:
            left = connection.execute(first.order_by(jobs.c.due_at).limit(1)).scalar()
        return None if left is None else max(0.0, left / 1e6)

    def owners(self) -> set[bytes]:
        """The servers that hold rows."""
        statement = select(jobs.c.owner).where(jobs.c.state == state(JobState.PROCESSING)).distinct()
        with self.connection() as connection:
            return {owner for owner in connection.execute(statement).scalars() if owner is not None}

    @retried
    def rescue(
        self,
        owner: bytes,
        *,
        max_rescues: int,
        retention_us: int,
        limit: int = BATCH,
        counted: Counter[Key] | None = None,
    ) -> int:
        """Take rows from a server that is dead, to run again; one orphaned more than `max_rescues` times is FAILED.

        How many were taken: call again until it is 0.

        :param counted: told what became of them.
        """
        orphans = (
            select(jobs.c.id, jobs.c.version, jobs.c.rescues, jobs.c.source, jobs.c.route)
            .where(jobs.c.owner == bindparam("of_owner"), jobs.c.state == state(JobState.PROCESSING))
            .order_by(jobs.c.id)
            .limit(limit)
            .with_for_update()
        )
        over = jobs.c.rescues >= max_rescues
        taken = (
            update(jobs)
            .where(
                self.among(jobs.c.id, "ids"),
                jobs.c.owner == bindparam("of_owner"),
                jobs.c.state == state(JobState.PROCESSING),
            )
            # MySQL sets from left to right and reads what it has set: `rescues` comes last.
            .ordered_values(
                (jobs.c.state, case((over, JobState.FAILED.value), else_=JobState.ENQUEUED.value)),
                (jobs.c.lane, case((over, 0), else_=waiting_lane(jobs.c.rescues + 1))),
                (jobs.c.due_at, case((over, self.now + retention_us), else_=jobs.c.due_at)),
                (jobs.c.finished_at, case((over, self.now), else_=null())),
                (jobs.c.version, jobs.c.version + 1),
                (jobs.c.rescues, jobs.c.rescues + 1),
            )
        )
        with self.transaction() as connection:
            rows = connection.execute(orphans, {"of_owner": owner}).all()
            if not rows:
                return 0
            connection.execute(taken, {"ids": [row.id for row in rows], "of_owner": owner})
            connection.execute(
                insert(job_events).values(at=self.now, times=1, kind="RESCUED", owner=owner),
                [
                    {
                        "job_id": row.id,
                        "version": row.version,
                        "detail": f"its server died: orphaned for the {row.rescues + 1}. time"
                        + (", no rescue is left" if row.rescues >= max_rescues else ""),
                    }
                    for row in rows
                ],
            )
        if counted is not None:
            counted.update(
                Key(row.source, row.route, "failed" if row.rescues >= max_rescues else "rescued") for row in rows
            )
        return len(rows)

    @retried
    def purge(self, limit: int = PURGED) -> int:
        """Delete finished jobs whose time is over, with their history; how many. Their IDs are forgotten. Those that
        succeeded first, which are the most; of each state those first whose time was over first."""
        purged = 0
        for one in sorted(FINISHED, reverse=True):
            if purged < limit:
                with self.transaction() as connection:
                    purged += self._purge(connection, self._over(one).limit(limit - purged))
        return purged

    def _over(self, one: JobState) -> Select[bytes]:
        over = select(jobs.c.id).where(jobs.c.state == state(one), jobs.c.due_at <= self.now)
        return over.order_by(jobs.c.due_at).with_for_update(skip_locked=True)

    def _purge(self, connection: Connection, over: Select[bytes]) -> int:
        ids = list(connection.execute(over).scalars())
        if ids:
            connection.execute(delete(job_events).where(job_events.c.job_id.in_(ids)))
            connection.execute(delete(jobs).where(jobs.c.id.in_(ids)))
        return len(ids)
