"""Claim, finish, reconcile: what workers do to rows.

Promises: a row is claimed by one server (the state, under lock); a result is written only where (id, version, owner)
still stand, and each write adds one to the version, so one result is recorded (I7). A writer that lost is told so and
changed nothing.
"""

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from sqlalchemy import (
    BigInteger,
    Connection,
    Integer,
    Select,
    SmallInteger,
    String,
    Update,
    bindparam,
    case,
    func,
    insert,
    literal_column,
    null,
    select,
    update,
)
from sqlalchemy.sql.elements import ColumnElement

from scheduler.job import Job, JobState
from scheduler.limits import Limit
from scheduler.storage.database import retried
from scheduler.storage.gates import LIMITED, RESCUED_LANES, Gates, waiting_lane
from scheduler.storage.records import Finish
from scheduler.storage.tables import job_events, jobs, messages, state

HELD = (
    jobs.c.id,
    jobs.c.version,
    jobs.c.owner,
    jobs.c.namespace,
    jobs.c.correlation_bytes,
    jobs.c.correlation_id,
    jobs.c.route,
    jobs.c.handler,
    jobs.c.source,
    jobs.c.headers,
    jobs.c.body,
    jobs.c.attempts,
    jobs.c.rescues,
    jobs.c.retries,
    jobs.c.lock_key,
)
"""The columns of `Job`, in its order, but for those that go by the clock."""


CLAIMS = ((False, False), (False, True), (True, False), (True, True))
"""The kinds of a claim: whether of one limit's jobs, whether past paused routes."""


def kind_of(parameters: Mapping[str, object]) -> tuple[bool, bool]:
    """The kind of the claim that these parameters are for."""
    return "of_limit" in parameters, "paused" in parameters


def _asked(handlers: Sequence[str], paused: Collection[str]) -> dict[str, object]:
    ours: dict[str, object] = {"handlers": list(handlers)}
    return ours | {"paused": list(paused)} if paused else ours


class Waiting(NamedTuple):
    """What there is to do."""

    lanes: tuple[bool, ...]
    """For each number of rescues, whether a job of these handlers waits without a limit."""
    limited: tuple[int | None, ...]
    """For each limit, the highest lane in which a job of these handlers waits for it."""
    left: float | None
    """Seconds until the next scheduled job is due, of whatever handler; 0 or less: it is. None: there is none."""


def ends(target: ColumnElement[str]) -> ColumnElement[bool]:
    """Whether a run that leaves its job in this state is the job's end."""
    return (target != JobState.ENQUEUED.value) & (target != JobState.SCHEDULED.value)


class Execution(Gates):
    """The verbs that workers need."""

    CLAIMS_IN_ONE_STATEMENT = True

    @cached_property
    def held_columns(self) -> tuple[ColumnElement[object], ...]:
        """All that a `Job` has, in its order."""
        return *HELD, -(jobs.c.due_at - self.now), -(jobs.c.created_at - self.now)

    def waiting(self, *columns: ColumnElement[object], limited: bool, paused: bool) -> Select[*tuple[object, ...]]:
        """These columns of the rows that a claim takes, the oldest first; of one limit's rows; of no paused route."""
        rows = self._enqueued(*columns, paused=paused).where(
            jobs.c.lane == bindparam("of_lane", type_=SmallInteger),
            jobs.c.expires_at.is_(None) | jobs.c.started_at.is_not(None) | (jobs.c.expires_at > self.now),
        )
        if limited:
            rows = rows.where(jobs.c.limit_key == bindparam("of_limit"))
        return rows.order_by(jobs.c.due_at).limit(bindparam("limit", type_=Integer))

    def claiming(self) -> dict[str, object]:
        """The columns that a claim sets."""
        return {
            "state": state(JobState.PROCESSING),
            "version": jobs.c.version + 1,
            "lane": 0,
            "owner": bindparam("owner"),
            "started_at": self.now,
        }

    def peek(self, handlers: Sequence[str], limits: Sequence[bytes] = (), paused: Collection[str] = ()) -> Waiting:
        """What a claim and a promote would find, in one small query."""
        lanes_and_due, highest = self._peeking[bool(paused)], (self._highest(limit, bool(paused)) for limit in limits)
        statement = lanes_and_due if not limits else lanes_and_due.add_columns(*highest)
        with self.connection() as connection:
            left, *found = connection.execute(statement, _asked(handlers, paused)).one()
        lanes = RESCUED_LANES + 1
        return Waiting(tuple(map(bool, found[:lanes])), tuple(found[lanes:]), None if left is None else left / 1e6)

    @cached_property
    def _peeking(self) -> dict[bool, Select[*tuple[object, ...]]]:
        return {paused: self._peek(paused) for paused in (False, True)}

    def _peek(self, paused: bool) -> Select[*tuple[object, ...]]:
        # The first by the index, and no EXISTS: for that PostgreSQL reads the table from its oldest rows on.
        lanes = [
            self._enqueued(jobs.c.due_at, paused=paused)
            .where(jobs.c.lane == lane)
            .order_by(jobs.c.due_at)
            .limit(literal_column("1"))
            .scalar_subquery()
            .is_not(None)
            for lane in range(RESCUED_LANES + 1)
        ]
        due = select(func.min(jobs.c.due_at)).where(jobs.c.state == state(JobState.SCHEDULED)).scalar_subquery()
        return select((due - self.now).label("left"), *lanes)

    def _highest(self, limit: bytes, paused: bool) -> ColumnElement[object]:
        rows = self._enqueued(jobs.c.lane, paused=paused).where(jobs.c.limit_key == limit, jobs.c.lane >= LIMITED)
        return rows.order_by(jobs.c.lane.desc(), jobs.c.due_at.desc()).limit(literal_column("1")).scalar_subquery()

    def _enqueued(self, *columns: ColumnElement[object], paused: bool) -> Select[*tuple[object, ...]]:
        """Where no route is paused nothing is asked of it, so that the plan stays what it is."""
        rows = select(*columns).where(jobs.c.state == state(JobState.ENQUEUED), self.among(jobs.c.handler, "handlers"))
        return rows.where(~self.among(jobs.c.route, "paused")) if paused else rows

    @retried
    def claim(
        self, owner: bytes, handlers: Sequence[str], limit: int, lane: int = 0, paused: Collection[str] = ()
    ) -> list[Job]:
        """Take up to `limit` waiting jobs of these handlers for the server `owner`, the oldest first.

        :param paused: routes whose jobs are left where they are.
        :raises StoreUnavailable: what was claimed, if anything, is found by `standing`.
        """
        rows = _asked(handlers, paused) | {"limit": limit, "of_lane": lane}
        with self.connection() if self.CLAIMS_IN_ONE_STATEMENT else self.transaction() as connection:
            return self._claim(connection, owner, rows)

    @retried
    def claim_limited(
        self,
        owner: bytes,
        handlers: Sequence[str],
        limit: int,
        lane: int,
        of_limit: Limit,
        paused: Collection[str] = (),
    ) -> list[Job]:
        """As `claim`, of one limit's jobs, and no more than it leaves room for among all servers."""
        with self.transaction() as connection:
            now, grants = self._lock_limit(connection, of_limit)
            room = min(limit, self._room(connection, of_limit, grants))
            if room <= 0:
                return []
            rows = _asked(handlers, paused) | {"limit": room, "of_lane": lane, "of_limit": of_limit.key}
            claimed = self._claim(connection, owner, rows)
            if claimed:
                self._grant(connection, of_limit, grants, now, len(claimed))
            return claimed

    def _claim(self, connection: Connection, owner: bytes, parameters: dict[str, object]) -> list[Job]:
        raise NotImplementedError

    @retried
    def finish(self, results: Sequence[Finish]) -> set[bytes]:
        """Write results; the ids of those that were written, by this call or by one whose reply was lost.

        The others were fenced: their rows moved on, and nothing of them was changed.
        """
        told = [result for result in results if result.events or result.messages]
        plain = results if not told else [result for result in results if not (result.events or result.messages)]
        written: set[bytes] = set()
        if plain:
            written |= self._finish(plain)
        if told:
            with self.transaction() as connection:
                # By id, as in every other write of many rows: two writers of the same rows never wait in a circle.
                for result in sorted(told, key=lambda one: one.id):
                    if self._finish_one(connection, result):
                        written.add(result.id)
        missing = [result for result in results if result.id not in written]
        if missing:
            written |= self._written_before(missing)
        locks = {result.lock_key for result in results if result.lock_key is not None}
        if locks:
            self.pass_on(locks)
        return written

    def _finish(self, results: Sequence[Finish]) -> set[bytes]:
        """Write results without events; the ids that this call wrote."""
        raise NotImplementedError

    def guarded(self) -> Update:
        """The finishing write of one row, with its guard."""
        return self.ending(
            (jobs.c.id == bindparam("of_id")) & (jobs.c.version == bindparam("of_version", type_=Integer))
        )

    def ending(self, rows: ColumnElement[bool]) -> Update:
        """The finishing write of rows that one server holds; its parameters are those of `parameters`."""
        target = bindparam("to_state", type_=String)
        return (
            update(jobs)
            .where(rows, jobs.c.owner == bindparam("of_owner"))
            .values(
                state=target,
                version=jobs.c.version + 1,
                due_at=case(
                    (target == JobState.ENQUEUED.value, jobs.c.due_at),
                    else_=self.now + bindparam("delay_us", type_=BigInteger),
                ),
                attempts=jobs.c.attempts + bindparam("failures", type_=Integer),
                lane=case(
                    (target == JobState.ENQUEUED.value, waiting_lane(jobs.c.rescues)),
                    else_=bindparam("to_lane", type_=SmallInteger),
                ),
                finished_at=case((ends(target), self.now), else_=null()),
                body=case((bindparam("drop_body", type_=Integer) == 1, null()), else_=jobs.c.body),
            )
        )

    @staticmethod
    def parameters(result: Finish) -> dict[str, object]:
        """The parameters of `ending` and `guarded`."""
        return {
            "of_id": result.id,
            "of_version": result.version,
            "of_owner": result.owner,
            "to_state": result.state.value,
            "delay_us": result.delay_us,
            "failures": result.failures,
            "drop_body": int(result.drop_body),
            "to_lane": result.lane,
        }

    def _finish_one(self, connection: Connection, result: Finish) -> bool:
        if connection.execute(self.guarded(), self.parameters(result)).rowcount != 1:
            return False
        self._tell(connection, result)
        return True

    def _tell(self, connection: Connection, result: Finish) -> None:
        """What goes with a result: lines of its history, messages that leave."""
        if result.events:
            shared = {"job_id": result.id, "version": result.version, "owner": result.owner}
            lines = [shared | event._asdict() for event in result.events]
            connection.execute(insert(job_events).values(at=self.now, times=1), lines)
        if result.messages:
            connection.execute(
                insert(messages).values(published_at=self.now, visible_at=self.now),
                [message._asdict() for message in result.messages],
            )

    @contextlib.contextmanager
    def finishing(self, patience: float) -> Iterator[Connection]:
        """A transaction for a handler's own writes, whose last statement is to be `finish_within`.

        :param patience: seconds that it may rest between two statements before the server ends it.
        """
        with self.transaction() as connection:
            self.be_patient(connection, patience)
            yield connection

    def be_patient(self, connection: Connection, seconds: float) -> None:
        """Let this transaction rest for so long."""

    def finish_within(self, connection: Connection, result: Finish) -> bool:
        """Write a result; False: it was fenced, and what else the transaction wrote must be rolled back. Its lock is
        given on by `pass_on`, once this is committed."""
        self._tell(connection, result)
        return connection.execute(self.guarded(), self.parameters(result)).rowcount == 1

    def _written_before(self, missing: Sequence[Finish]) -> set[bytes]:
        """Which of these an earlier try wrote whose reply was lost: the row stands where that write put it."""
        statement = select(jobs.c.id, jobs.c.version, jobs.c.owner, jobs.c.state).where(self.among(jobs.c.id, "ids"))
        with self.connection() as connection:
            rows = {row.id: row for row in connection.execute(statement, {"ids": [r.id for r in missing]})}
        return {
            result.id
            for result in missing
            if (row := rows.get(result.id)) is not None
            and (row.version, row.owner, row.state) == (result.version + 1, result.owner, result.state)
        }

    def standing(self, owner: bytes) -> list[tuple[bytes, int]]:
        """The (id, version) of all rows that this server holds."""
        statement = select(jobs.c.id, jobs.c.version).where(
            jobs.c.owner == bindparam("of_owner"), jobs.c.state == state(JobState.PROCESSING)
        )
        with self.connection() as connection:
            return [(row.id, row.version) for row in connection.execute(statement, {"of_owner": owner})]

    def held(self, owner: bytes, ids: Iterable[bytes]) -> list[Job]:
        """The jobs among these that this server still holds."""
        statement = select(*self.held_columns).where(
            self.among(jobs.c.id, "ids"),
            jobs.c.owner == bindparam("of_owner"),
            jobs.c.state == state(JobState.PROCESSING),
        )
        with self.connection() as connection:
            rows = connection.execute(statement, {"ids": list(ids), "of_owner": owner})
            return [Job._make(row) for row in rows]
