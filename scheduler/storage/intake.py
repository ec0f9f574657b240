"""Insert if absent: how messages become rows, each once.

Promises: one id makes one row while it stands (I2), by the unique key alone; NEW is told to the batch whose token the
row carries, whichever of its attempts wrote it (a lost reply is asked again); "duplicate" is answered only for a
committed row (I4); dead letters are committed together with the jobs of their batch.
"""

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, Insert, select

from scheduler.job import JobState, NewJob
from scheduler.storage.database import Database, retried
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


class Intake(Database):
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
    ) -> list[Inserted]:
        """Offer jobs, in order of arrival and with ids that differ; all that is answered is committed.

        :param token: random, signed 64 bits, the same in every attempt of the same batch.
        :param owner: the server that runs the first `claimed` of them; those are inserted as its PROCESSING rows.
        :param look_first: read before writing; cheaper where most are duplicates, and never less correct.
        :param rejected: dead letters to commit with them.
        :raises StoreUnavailable: nothing is known of the batch's fate: offer it again with the same token.
        """
        # Sorted by id: two writers of the same ids then wait for each other in one order, and never in a circle.
        ids = [job.id for job in offered]
        waiting: list[Placed] = [(place, offered[place]) for place in sorted(range(len(ids)), key=ids.__getitem__)]
        answers: dict[int, Inserted] = {}
        found: Answer = self._look_up(job.id for _, job in waiting) if look_first else Answer()
        while True:
            absent = [placed for placed in waiting if placed[1].id not in found]
            if absent or rejected:
                with self.transaction() if rejected else self.connection() as connection:
                    if absent:
                        found.update(self._insert(connection, absent, token, owner, claimed))
                    if rejected:
                        self._insert_dead_letters(connection, rejected)
                rejected = ()
            if len(found) == len(offered) and not any(found.values()):
                return [_NEW_CLAIMED if place < claimed else _NEW for place in range(len(offered))]
            unknown = [job.id for _, job in absent if job.id not in found]
            if unknown:
                found.update(self._look_up(unknown))
            waiting, told = [], waiting
            for placed in told:
                if placed[1].id in found:
                    answers[placed[0]] = _judge(placed, found[placed[1].id], token, owner, claimed)
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

    def _look_up(self, ids: Iterable[bytes]) -> Answer:
        statement = select(*EXISTING).where(self.among(jobs.c.id, "ids"))
        with self.connection() as connection:
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


def _judge(placed: Placed, row: Existing | None, token: int, owner: bytes | None, claimed: int) -> Inserted:
    place, job = placed
    if row is None:
        return _NEW_CLAIMED if place < claimed else _NEW
    if row.token == token:
        standing = row.state == JobState.PROCESSING and row.version == 1 and row.owner == owner
        return Inserted(Outcome.NEW, standing and place < claimed)
    if (row.correlation_bytes, row.correlation_length) != (job.correlation_bytes, job.correlation_length):
        return Inserted(Outcome.COLLISION, False)
    return Inserted(Outcome.DUPLICATE if row.digest == job.digest else Outcome.CONFLICT, False)
