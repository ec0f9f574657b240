"""Insert if absent: how messages become rows, each once.

Promises: one id makes one row while it stands (I2), by the unique key alone; NEW is told to the batch whose token the
row carries, whichever of its attempts wrote it (a lost reply is asked again); "duplicate" is answered only for a
committed row (I4); dead letters are committed together with the jobs of their batch.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, Insert, select

from scheduler.job import JobState, NewJob
from scheduler.storage.database import retried
from scheduler.storage.gates import LIMITED, LOCKED, Gates
from scheduler.storage.records import DeadLetter, Existing, Inserted, Outcome
from scheduler.storage.tables import dead_letters, job_events, jobs

Placed = tuple[int, NewJob]
"""A job and its place in the order of arrival."""

EXISTING = (
    jobs.c.id,
    jobs.c.token,
    jobs.c.digest,
    jobs.c.state,
    jobs.c.version,
    jobs.c.owner,
    jobs.c.correlation_bytes,
    jobs.c.correlation_length,
)


_NEW = Inserted(Outcome.NEW, False)
_NEW_CLAIMED = Inserted(Outcome.NEW, True)


class Answer(dict[bytes, Existing | None]):
    """By id: the row that was there before, None for one that this statement made. Without ids that it can't tell."""


def first_state(job: NewJob) -> JobState:
    """Of a row that is not inserted as claimed."""
    return JobState.SCHEDULED if job.later else JobState.ENQUEUED


def first_lane(job: NewJob) -> int:
    """Where it waits; a limited job's lane begins when it is due."""
    if job.lock_key is not None:
        return LOCKED
    return LIMITED if job.limit_key is not None and not job.later else 0


class Intake(Gates):
    """The verbs that ingestion needs."""

    @retried
    def insert_if_absent(
        self,
        offered: Sequence[NewJob],
        *,
        token: int,
        owner: bytes | None = None,
        claimed: int = 0,
        look_first: bool = False,
        rejected: Sequence[DeadLetter] = (),
        within: Connection | None = None,
    ) -> list[Inserted]:
        """Offer jobs, in order of arrival and with ids that differ; all that is answered is committed.

        :param token: random, signed 64 bits, the same in every attempt of the same batch.
        :param owner: the server that runs the first `claimed` of them; those are inserted as its PROCESSING rows.
        :param look_first: read before writing; cheaper where most are duplicates, and never less correct.
        :param rejected: dead letters to commit with them.
        :param within: a transaction of the caller's: what is answered is committed when that is, its errors are
            his, and a lock is given to a job by the master's next look.
        :raises StoreUnavailable: nothing is known of the batch's fate: offer it again with the same token.
        """
        if within is not None:
            return self._offer(offered, token, None, 0, within)
        found = self._look_up([job.id for job in offered]) if look_first else Answer()
        answers = self._offer(offered, token, owner, claimed, found=found, rejected=rejected)
        locked = {job.lock_key for job in offered if job.lock_key is not None and not job.later}
        if locked:
            self.pass_on(locked)
        return answers

    def _offer(
        self,
        offered: Sequence[NewJob],
        token: int,
        owner: bytes | None,
        claimed: int,
        within: Connection | None = None,
        *,
        found: Answer | None = None,
        rejected: Sequence[DeadLetter] = (),
    ) -> list[Inserted]:
        # Sorted by id: two writers of the same ids then wait for each other in one order, and never in a circle.
        ids = [job.id for job in offered]
        waiting: list[Placed] = [(place, offered[place]) for place in sorted(range(len(ids)), key=ids.__getitem__)]
        answers: dict[int, Inserted] = {}
        found = Answer() if found is None else found
        while True:
            absent = [placed for placed in waiting if placed[1].id not in found]
            if absent or rejected:
                with self.transaction() if rejected else self.joined(within) as connection:
                    if absent:
                        found.update(self._insert(connection, absent, token, owner, claimed))
                    if rejected:
                        self._insert_dead_letters(connection, rejected)
                rejected = ()
            if len(found) == len(offered) and not any(found.values()):
                return [_NEW_CLAIMED if place < claimed else _NEW for place in range(len(offered))]
            unknown = [job.id for _, job in absent if job.id not in found]
            if unknown:
                found.update(self._look_up(unknown, within))
            waiting, told = [], waiting
            for placed in told:
                if placed[1].id in found:
                    answers[placed[0]] = judge(placed, found[placed[1].id], token, owner, claimed)
                else:
                    waiting.append(placed)  # purged between the insert and the look-up: insert it again
            if not waiting:
                break
        conflicts = [offered[k] for k, answer in answers.items() if answer.outcome is Outcome.CONFLICT]
        if conflicts:
            self._record_conflicts(conflicts)
        return [answers[k] for k in range(len(offered))]

    @retried
    def insert_dead_letters(self, rejected: Sequence[DeadLetter]) -> None:
        """Keep dead letters; one whose id is there already is left as it is."""
        with self.connection() as connection:
            self._insert_dead_letters(connection, rejected)

    def _insert(
        self, connection: Connection, placed: Sequence[Placed], token: int, owner: bytes | None, claimed: int
    ) -> Answer:
        """One statement that inserts what is absent."""
        raise NotImplementedError

    def _look_up(self, ids: Sequence[bytes], within: Connection | None = None) -> Answer:
        statement = select(*EXISTING).where(self.among(jobs.c.id, "ids"))
        if within is not None:  # whose snapshot may be older than the row that stands in the way
            statement = statement.with_for_update(read=True)
        with self.joined(within) as connection:
            rows = connection.execute(statement, {"ids": list(ids)})
            return Answer((row.id, Existing(*row)) for row in rows)

    def _insert_dead_letters(self, connection: Connection, rejected: Sequence[DeadLetter]) -> None:
        statement: Insert = self.absent(dead_letters).values(received_at=self.now)
        once = {letter.id: letter for letter in rejected}
        connection.execute(statement, [once[key]._asdict() for key in sorted(once)])

    @retried
    def _record_conflicts(self, conflicting: Sequence[NewJob]) -> None:
        statement = self.counted(
            job_events, ("job_id", "digest"), {"times": job_events.c.times + 1, "at": self.now}
        ).values(at=self.now, kind="CONFLICT", times=1)
        rows = sorted(
            (job.id, job.digest, f"another body of {len(job.body)} bytes, from {job.source}") for job in conflicting
        )
        with self.connection() as connection:
            for key, digest, detail in rows:
                connection.execute(statement, {"job_id": key, "digest": digest, "detail": detail})


def judge(placed: Placed, row: Existing | None, token: int, owner: bytes | None = None, claimed: int = 0) -> Inserted:
    """What became of a job, by the row that was there before."""
    place, job = placed
    if row is None:
        return _NEW_CLAIMED if place < claimed else _NEW
    if row.token == token:
        standing = row.state == JobState.PROCESSING and row.version == 1 and row.owner == owner
        return Inserted(Outcome.NEW, standing and place < claimed)
    if (row.correlation_bytes, row.correlation_length) != (job.correlation_bytes, job.correlation_length):
        return Inserted(Outcome.COLLISION, False)
    return Inserted(Outcome.DUPLICATE if row.digest == job.digest else Outcome.CONFLICT, False)
