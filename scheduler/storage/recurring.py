"""Recurring jobs: their rows, and the ticks that become jobs.

Promises: a tick is handled once, and its job, or that it was passed over, is committed together with the step to the
next tick (I13): the row is locked, the step is guarded by the tick that was read, and the job has a unique key. What
is due and what becomes of it are rules, which are handed in and decide on the row alone.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import BigInteger, Connection, Row, bindparam, delete, insert, null, select, update

from scheduler.job import FINISHED, NewJob
from scheduler.recurring import Decision
from scheduler.storage.database import Contended, retried
from scheduler.storage.intake import Intake
from scheduler.storage.operators import Record, record
from scheduler.storage.tables import job_events, jobs, recurring

ROWS = 200
"""At a time. No transaction may be idle for long while the rules are asked."""

Following = Callable[[str, int], int | None]
"""The first tick of a spec after a time; both in microseconds since 1970."""


class Declaration(NamedTuple):
    """A recurring job as a pod's configuration has it."""

    name: str
    spec: str
    digest: bytes


class DueRow(NamedTuple):
    """A row with a tick that is due."""

    name: str
    spec: str
    next_at: int
    now: int
    runs: tuple[bool, bool]
    """Whether the last job that it made is unfinished, and the one before it."""


class RecurringJobs(Intake):
    """The verbs of recurring jobs."""

    @retried
    def declare_recurring(self, declared: Sequence[Declaration], following: Following) -> None:
        """Enter what is not there, and replace the spec of what is there with another; the same keeps its next tick."""
        with self.connection() as connection:
            now = int(connection.execute(select(self.now)).scalar_one())
            stand = {row.name: row.digest for row in connection.execute(select(recurring.c.name, recurring.c.digest))}
        named = sorted({one.name: one for one in declared}.values())
        new = [_declared(one, following(one.spec, now)) for one in named if one.name not in stand]
        changed = [
            _declared(one, following(one.spec, now)) | {"of_name": one.name, "of_digest": stand[one.name]}
            for one in named
            if stand.get(one.name, one.digest) != one.digest
        ]
        with self.transaction() as connection:
            if new:
                connection.execute(self.absent(recurring).values(declared_at=self.now, skipped=0, note=""), new)
            if changed:
                connection.execute(
                    update(recurring)
                    .where(recurring.c.name == bindparam("of_name"), recurring.c.digest == bindparam("of_digest"))
                    .values({name: bindparam(name) for name in ("spec", "digest", "next_at")}),
                    changed,
                )
            for start in range(0, len(named), 1000):
                names = [one.name for one in named[start : start + 1000]]
                connection.execute(update(recurring).where(recurring.c.name.in_(names)).values(declared_at=self.now))

    def next_tick(self) -> float | None:
        """Seconds until the first tick is due; None: there is none."""
        first = select(recurring.c.next_at - self.now).where(
            recurring.c.next_at.is_not(None), recurring.c.paused_at.is_(None)
        )
        with self.connection() as connection:
            left = connection.execute(first.order_by(recurring.c.next_at).limit(1)).scalar()
        return None if left is None else max(0.0, left / 1e6)

    @retried
    def fire(self, decide: Callable[[DueRow], Decision | None], limit: int = ROWS) -> dict[str, Decision]:
        """Make the jobs of ticks that are due, of so many rows; what was decided of each, and is committed.

        :param decide: the rules; None leaves a row as it is.
        """
        due = (
            select(recurring)
            .where(recurring.c.next_at <= self.now, recurring.c.paused_at.is_(None))
            .order_by(recurring.c.next_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        with self.transaction() as connection:
            rows = connection.execute(due).all()
            if not rows:
                return {}
            now = int(connection.execute(select(self.now)).scalar_one())
            running = self._unfinished(connection, rows)
            decided: dict[str, Decision] = {}
            changes: list[dict[str, object]] = []
            for row in rows:
                runs = (row.last_job in running, row.job_before in running)
                decision = decide(DueRow(row.name, row.spec, row.next_at, now, runs))
                if decision is not None:
                    decided[row.name] = decision
                    changes.append(_step(row, decision))
            self._put(connection, [job for decision in decided.values() for job in decision.jobs])
            if changes:
                stepped = connection.execute(_STEP, changes).rowcount
                if stepped != len(changes):  # somebody stepped who held no lock: all of it is undone, and done again
                    raise Contended("a recurring job was fired meanwhile")
        return decided

    def _unfinished(self, connection: Connection, rows: Sequence[Row[*tuple[object, ...]]]) -> set[bytes]:
        made = {key for row in rows for key in (row.last_job, row.job_before) if key is not None}
        if not made:
            return set()
        statement = select(jobs.c.id).where(
            self.among(jobs.c.id, "ids"), jobs.c.state.not_in([state.value for state in sorted(FINISHED)])
        )
        return set(connection.execute(statement, {"ids": sorted(made)}).scalars())

    def _put(self, connection: Connection, made: Sequence[NewJob]) -> None:
        if made:
            placed = sorted(enumerate(made), key=lambda one: one[1].id)
            self._insert(connection, placed, self.random.getrandbits(63), None, 0)

    @retried
    def trigger_recurring(self, name: str, make: Callable[[str, int], NewJob], by: str = "") -> NewJob | None:
        """Make one job now, which counts as its last one; None: there is no such recurring job.

        :param by: who asks for it, for the job's history.
        """
        with self.transaction() as connection:
            row = self._locked(connection, name)
            if row is None:
                return None
            job = make(row.spec, int(connection.execute(select(self.now)).scalar_one()))
            self._put(connection, [job])
            told = insert(job_events).values(job_id=job.id, at=self.now, kind="TRIGGERED", detail=f"by {by}", times=1)
            if by:
                connection.execute(told)
            values = {"last_job": job.id, "job_before": row.last_job}
            connection.execute(update(recurring).where(recurring.c.name == name).values(values))
            return job

    @retried
    def pause_recurring(self, name: str, by: str = "") -> bool:
        """Make no more jobs until it is resumed; False: there is no such recurring job.

        :param by: who asks for it; noted on the row.
        """
        with self.transaction() as connection:
            row = self._locked(connection, name)
            if row is not None and row.paused_at is None:
                values = {"paused_at": self.now, "note": f"paused by {by}" if by else row.note}
                connection.execute(update(recurring).where(recurring.c.name == name).values(values))
            return row is not None

    @retried
    def resume_recurring(self, name: str, following: Following) -> bool:
        """Go on with the first tick after now; False: there is no such recurring job."""
        with self.transaction() as connection:
            row = self._locked(connection, name)
            if row is not None and row.paused_at is not None:
                next_at = following(row.spec, int(connection.execute(select(self.now)).scalar_one()))
                values = {"paused_at": null(), "next_at": next_at}
                connection.execute(update(recurring).where(recurring.c.name == name).values(values))
            return row is not None

    def _locked(self, connection: Connection, name: str) -> Row[*tuple[object, ...]] | None:
        row = connection.execute(select(recurring).where(recurring.c.name == name).with_for_update()).first()
        return row if row is not None and row.name == name else None  # MySQL takes "a" and "a " for equal

    def list_recurring(self) -> list[Record]:
        """All of them, by name."""
        with self.connection() as connection:
            return [record(row) for row in connection.execute(select(recurring).order_by(recurring.c.name))]

    @retried
    def prune_recurring(self, kept: Iterable[str], before: int) -> list[str]:
        """Forget those that are not among `kept` and that nobody declared since `before`; the names that went."""
        with self.transaction() as connection:
            rows = connection.execute(
                select(recurring.c.name).where(recurring.c.declared_at < before).order_by(recurring.c.name)
            )
            over = sorted(set(rows.scalars()) - set(kept))
            if over:
                connection.execute(
                    delete(recurring).where(recurring.c.name == bindparam("of_name"), recurring.c.declared_at < before),
                    [{"of_name": name} for name in over],
                )
            return over


_STEP = (
    update(recurring)
    .where(recurring.c.name == bindparam("of_name"), recurring.c.next_at == bindparam("of_next", type_=BigInteger))
    .values(
        {name: bindparam(name) for name in ("next_at", "last_at", "last_job", "job_before", "skipped", "note")},
    )
)


def _declared(one: Declaration, next_at: int | None) -> dict[str, object]:
    return {**one._asdict(), "next_at": next_at}


def _step(row: Row[*tuple[object, ...]], decision: Decision) -> dict[str, object]:
    made = [row.job_before, row.last_job, *(job.id for job in decision.jobs)]
    return {
        "of_name": row.name,
        "of_next": row.next_at,
        "next_at": decision.next_at,
        "last_at": row.last_at if decision.last_at is None else decision.last_at,
        "last_job": made[-1],
        "job_before": made[-2],
        "skipped": row.skipped + decision.passed,
        "note": decision.reasons[-1] if decision.reasons else row.note,
    }
