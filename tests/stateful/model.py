"""What the store should hold: a plain dictionary, and what each verb does to it, written without any SQL."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from scheduler.job import FINISHED, TRANSITIONS, Job, JobState, NewJob
from scheduler.storage.records import Act, Finish, Inserted, Outcome

RESCUED = 2
"""The highest of the lanes by rescues."""
LOCKED = 3
"""The lane of what waits for its lock."""
LIMITED = 4
"""The first lane of what has a limit."""
WAITING = (JobState.ENQUEUED, JobState.SCHEDULED)


@dataclass(frozen=True)
class Row:
    """A job's row: what a verb may change of it, and what tells it from others."""

    id: bytes
    state: JobState
    version: int
    lane: int
    due_at: int
    owner: bytes | None
    token: int | None
    attempts: int
    rescues: int
    created_at: int
    started_at: int | None
    finished_at: int | None
    handler: str
    correlation_bytes: bytes
    digest: bytes
    body: bytes | None
    expires_at: int | None
    lock_key: bytes | None
    limit_key: bytes | None

    @property
    def own_lane(self) -> int:
        """Where it waits for a worker."""
        return min(self.rescues, RESCUED) + (LIMITED if self.limit_key is not None else 0)

    @property
    def holds(self) -> bool:
        """Whether it has the lock of its key, if it has one."""
        return self.state == JobState.PROCESSING or (self.state in WAITING and self.lane != LOCKED)


@dataclass
class ServerRow:
    """A registered server."""

    number: int
    interval: int
    beat: int
    last_heartbeat: int


@dataclass
class Model:
    """The whole store, with the clock that it reads."""

    now: int
    rows: dict[bytes, Row] = field(default_factory=dict)
    servers: dict[bytes, ServerRow] = field(default_factory=dict)
    letters: set[bytes] = field(default_factory=set)
    events: dict[bytes, list[tuple[str, int]]] = field(default_factory=dict)
    """By job: the kinds of its events and how often each was counted, in order."""
    conflicts: dict[tuple[bytes, bytes], int] = field(default_factory=dict)
    registered: int = 0
    locks: dict[bytes, bytes] = field(default_factory=dict)
    """By key: the job that holds it."""

    def insert(self, offered: Sequence[NewJob], token: int, owner: bytes, claimed: int) -> list[Inserted]:
        """Offer jobs; what each answer must be."""
        return [self._offer(job, place, token, owner, place < claimed) for place, job in enumerate(offered)]

    def _offer(self, job: NewJob, place: int, token: int, owner: bytes, claimed: bool) -> Inserted:
        row = self.rows.get(job.id)
        if row is None:
            self.rows[job.id] = Row(
                id=job.id,
                state=_first_state(job, claimed),
                version=int(claimed),
                lane=LOCKED if job.lock_key is not None else LIMITED if job.limit_key and not job.later else 0,
                due_at=(self.now + job.delay_us if job.at_us is None else job.at_us) + place,
                owner=owner if claimed else None,
                token=token,
                attempts=0,
                rescues=0,
                created_at=self.now,
                started_at=self.now if claimed else None,
                finished_at=None,
                handler=job.handler,
                correlation_bytes=job.correlation_bytes,
                digest=job.digest,
                body=job.body,
                expires_at=None if job.expires_us is None else self.now + job.expires_us,
                lock_key=job.lock_key,
                limit_key=job.limit_key,
            )
            return Inserted(Outcome.NEW, claimed)
        if row.token == token:
            standing = (row.state, row.version, row.owner) == (JobState.PROCESSING, 1, owner)
            return Inserted(Outcome.NEW, standing and claimed)
        if row.correlation_bytes != job.correlation_bytes:
            return Inserted(Outcome.COLLISION, False)
        if row.digest == job.digest:
            return Inserted(Outcome.DUPLICATE, False)
        key = (job.id, job.digest)
        self.conflicts[key] = self.conflicts.get(key, 0) + 1
        return Inserted(Outcome.CONFLICT, False)

    def waiting(self, handlers: Iterable[str], lane: int) -> list[Row]:
        """What waits for a worker there, in time or not."""
        return [
            row
            for row in self.rows.values()
            if row.state is JobState.ENQUEUED and row.lane == lane and row.handler in handlers
        ]

    def in_time(self, rows: Iterable[Row]) -> list[Row]:
        """Those of these that a claim may take."""
        return [row for row in rows if not self._is_late(row)]

    def _is_late(self, row: Row) -> bool:
        return row.expires_at is not None and row.started_at is None and row.expires_at <= self.now

    def running(self, limit: bytes) -> int:
        """How many of a limit's jobs run."""
        return sum(row.state is JobState.PROCESSING and row.limit_key == limit for row in self.rows.values())

    def late(self) -> list[Row]:
        """What an expire may take."""
        return [row for row in self.rows.values() if row.state in WAITING and self._is_late(row)]

    def expire(self, ids: Iterable[bytes], retention: int) -> None:
        for key in ids:
            self._move(self.rows[key], JobState.DELETED, lane=0, due_at=self.now + retention, finished_at=self.now)
            self._note(key, "EXPIRED")

    def pass_on(self, keys: Iterable[bytes | None], told: Mapping[bytes, bytes]) -> int:
        """Give each lock that is free to the oldest job that waits for it; how many were given.

        :param told: whom the store gave them: where two came at the same microsecond it may be either.
        """
        given = 0
        for key in {key for key in keys if key is not None}:
            if self._is_held(key):
                continue
            wait = self._queue(key)
            oldest = [row for row in wait if row.due_at == min(other.due_at for other in wait)]
            if not oldest:
                self.locks.pop(key, None)
                continue
            row = next((row for row in oldest if row.id == told.get(key)), oldest[0])
            self.locks[key] = row.id
            self.rows[row.id] = replace(row, lane=row.own_lane)
            given += 1
        return given

    def _is_held(self, key: bytes) -> bool:
        holder = self.rows.get(self.locks.get(key, b""))
        return holder is not None and holder.lock_key == key and holder.holds

    def _queue(self, key: bytes) -> list[Row]:
        return [
            row
            for row in self.rows.values()
            if row.lock_key == key and row.state is JobState.ENQUEUED and row.lane == LOCKED
        ]

    def forgotten(self) -> set[bytes]:
        """The locks whose holder needs them no more, and those that are waited for and nobody has."""
        wanted = {row.lock_key for row in self.rows.values() if row.lock_key is not None and self._queue(row.lock_key)}
        return {key for key in self.locks if not self._is_held(key)} | (wanted - self.locks.keys())

    def claim(self, owner: bytes, taken: Sequence[Job]) -> None:
        """Give these jobs to a server, as each was told."""
        for job in taken:
            row = self.rows[job.key]
            assert job.version == row.version + 1
            assert (job.owner, job.attempts, job.rescues, job.body, job.handler, job.correlation_bytes) == (
                owner,
                row.attempts,
                row.rescues,
                row.body,
                row.handler,
                row.correlation_bytes,
            )
            self._move(row, JobState.PROCESSING, lane=0, owner=owner, started_at=self.now)

    def finish(self, results: Sequence[Finish]) -> set[bytes]:
        """Write results; the ids that must be told as written."""
        told: set[bytes] = set()
        # Those with a line for the history are written last.
        for result in sorted(results, key=lambda result: bool(result.events)):
            row = self.rows.get(result.id)
            if row is None or (row.version, row.owner) != (result.version, result.owner):
                continue
            ended = result.state not in (JobState.ENQUEUED, JobState.SCHEDULED)
            back = result.state is JobState.ENQUEUED
            self._move(
                row,
                result.state,
                lane=row.own_lane if back else result.lane,
                due_at=row.due_at if back else self.now + result.delay_us,
                attempts=row.attempts + result.failures,
                finished_at=self.now if ended else None,
                body=None if result.drop_body else row.body,
            )
            for event in result.events:
                self._note(row.id, event.kind)
            told.add(row.id)
        for result in results:
            stands = self.rows.get(result.id)
            if stands is not None and (stands.version, stands.owner, stands.state) == (
                result.version + 1,
                result.owner,
                result.state,
            ):
                told.add(result.id)  # where an earlier try would have put it: a lost reply is told as written
        return told

    def due(self) -> list[Row]:
        """What a promote may take."""
        return [row for row in self.rows.values() if row.state is JobState.SCHEDULED and row.due_at <= self.now]

    def promote(self, ids: Iterable[bytes]) -> None:
        for key in ids:
            row = self.rows[key]
            self._move(row, JobState.ENQUEUED, lane=LOCKED if row.lane == LOCKED else row.own_lane)

    def standing(self, owner: bytes) -> list[Row]:
        """What a server holds."""
        return [row for row in self.rows.values() if row.state is JobState.PROCESSING and row.owner == owner]

    def owners(self) -> set[bytes]:
        return {row.owner for row in self.rows.values() if row.state is JobState.PROCESSING and row.owner is not None}

    def rescue(self, owner: bytes, max_rescues: int, retention: int, limit: int = 1000) -> int:
        orphans = sorted(self.standing(owner), key=lambda row: row.id)[:limit]
        for row in orphans:
            over = row.rescues >= max_rescues
            self._move(
                row,
                JobState.FAILED if over else JobState.ENQUEUED,
                lane=0 if over else replace(row, rescues=row.rescues + 1).own_lane,
                due_at=self.now + retention if over else row.due_at,
                finished_at=self.now if over else None,
                rescues=row.rescues + 1,
            )
            self._note(row.id, "RESCUED")
        return len(orphans)

    def over(self) -> list[Row]:
        """What a purge may take."""
        return [row for row in self.rows.values() if row.state in FINISHED and row.due_at <= self.now]

    def purge(self, ids: Iterable[bytes]) -> None:
        for key in ids:
            del self.rows[key]
            self.events.pop(key, None)
            self.conflicts = {pair: times for pair, times in self.conflicts.items() if pair[0] != key}

    def act(self, act: str, key: bytes, retention: int) -> Act:
        """What an operator does."""
        row = self.rows.get(key)
        if row is None:
            return Act.NOT_FOUND
        possible = {
            "requeue": row.state in FINISHED,
            "delete": JobState.DELETED in TRANSITIONS[row.state],
            "run-now": row.state is JobState.SCHEDULED,
            "cancel": row.state is JobState.PROCESSING,
        }
        if not possible[act]:
            return Act.WRONG_STATE
        if act in ("requeue", "run-now") and row.body is None:
            return Act.BODY_DROPPED
        if act == "requeue":
            lane = LOCKED if row.lock_key is not None else LIMITED if row.limit_key is not None else 0
            again = {"attempts": 0, "rescues": 0, "finished_at": None, "expires_at": None}
            self._move(row, JobState.ENQUEUED, due_at=self.now, lane=lane, **again)
        elif act == "run-now":
            self._move(row, JobState.ENQUEUED, due_at=self.now, lane=LOCKED if row.lane == LOCKED else row.own_lane)
        else:
            self._move(row, JobState.DELETED, due_at=self.now + retention, lane=0, finished_at=self.now)
        self._note(key, {"requeue": "REQUEUED", "delete": "DELETED", "run-now": "RUN-NOW", "cancel": "CANCELLED"}[act])
        return Act.DONE

    def register(self, server: bytes, interval: int, first_beat: int) -> None:
        if not self.beat(server):
            self.registered += 1
            self.servers[server] = ServerRow(self.registered, interval, first_beat, self.now)

    def beat(self, server: bytes) -> bool:
        row = self.servers.get(server)
        if row is not None:
            row.beat += 1
            row.last_heartbeat = self.now
        return row is not None

    def live(self) -> list[bytes]:
        """The servers that are held for alive, the longest running first."""
        ordered = sorted(self.servers, key=lambda server: self.servers[server].number)
        return [s for s in ordered if self.now - self.servers[s].last_heartbeat <= 4 * self.servers[s].interval]

    def _move(self, row: Row, target: JobState, **values: object) -> None:
        changes: dict[str, object] = {"state": target, "version": row.version + 1, **values}
        self.rows[row.id] = replace(row, **changes)  # type: ignore[arg-type]

    def _note(self, key: bytes, kind: str) -> None:
        self.events.setdefault(key, []).append((kind, 1))


def _first_state(job: NewJob, claimed: bool) -> JobState:
    if claimed:
        return JobState.PROCESSING
    return JobState.SCHEDULED if job.later else JobState.ENQUEUED
