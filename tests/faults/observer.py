"""Looks into the store past every fault: the table of servers and the jobs that wait for a lock again and again, now
and then jobs as they stand, and everything at the end."""

import random
import threading
from collections.abc import Iterator
from hashlib import blake2b

from sqlalchemy import Connection, Engine, Row, Table, create_engine, event, make_url, select
from sqlalchemy.exc import SQLAlchemyError

from scheduler.storage.gates import LOCKED
from scheduler.storage.tables import dead_letters, job_events, jobs, servers
from tests.faults.history import EventRow, JobRow, Journal, Rows, now
from tests.faults.terms import effects


def engine_of(url: str) -> Engine:
    """An engine whose connections never wait long and commit by themselves."""
    parsed = make_url(url)
    arguments: dict[str, object] = {}
    if parsed.get_backend_name() == "postgresql":
        arguments = {"connect_timeout": 2, "options": "-c statement_timeout=5000 -c timezone=UTC"}
    elif parsed.get_backend_name() == "mysql":
        arguments = {"connect_timeout": 2, "read_timeout": 5, "write_timeout": 5}
    elif parsed.get_backend_name() == "sqlite":
        arguments = {"timeout": 5}
    engine = create_engine(
        parsed, connect_args=arguments, isolation_level="AUTOCOMMIT", pool_pre_ping=False, pool_size=2
    )
    if parsed.get_backend_name() == "mysql":

        @event.listens_for(engine, "connect")
        def _zone(connection: object, _: object) -> None:
            with connection.cursor() as cursor:  # type: ignore[attr-defined]
                cursor.execute("SET time_zone = '+00:00'")

    return engine


class Observer(threading.Thread):
    """Reads until it is stopped; while the store is away it just tries again."""

    INTERVAL = 0.25
    SAMPLE_EVERY = 20
    SAMPLE = 200

    def __init__(self, url: str, journal: Journal) -> None:
        super().__init__(name="observer", daemon=True)
        self._engine = engine_of(url)
        self._journal = journal
        self._stopping = threading.Event()
        self._dice = random.Random(1)
        self._waiting: set[bytes] = set()

    def run(self) -> None:
        rounds = 0
        while not self._stopping.wait(self.INTERVAL):
            rounds += 1
            try:
                self._read_servers()
                self._read_waiting()
                if rounds % self.SAMPLE_EVERY == 0:
                    self._sample()
            except SQLAlchemyError:
                self._engine.dispose()

    def _read_servers(self) -> None:
        since = now()
        with self._engine.connect() as connection:
            rows = connection.execute(select(servers.c.id, servers.c.pid, servers.c.last_heartbeat)).all()
        self._journal.write("servers", since=since, servers=[[r.id.hex(), r.pid, r.last_heartbeat / 1e6] for r in rows])

    def _read_waiting(self) -> None:
        """Jobs that wait for a lock and did not at the last look."""
        waits = (jobs.c.state == "ENQUEUED", jobs.c.lane == LOCKED)
        with self._engine.connect() as connection:
            waiting = set(connection.execute(select(jobs.c.id).where(*waits)).scalars())
        if new := waiting - self._waiting:
            self._journal.write("waiting", jobs=[key.hex() for key in new])
        self._waiting = waiting

    def _sample(self) -> None:
        """Jobs with ids in a random place: ids are digests, so any place is as good as another."""
        place = self._dice.randbytes(16)
        some = select(jobs.c.id, jobs.c.version, jobs.c.state).where(jobs.c.id >= place).order_by(jobs.c.id)
        with self._engine.connect() as connection:
            rows = connection.execute(some.limit(self.SAMPLE)).all()
        self._journal.write("jobs", jobs=[[row.id.hex(), row.version, row.state] for row in rows])

    def stop(self) -> None:
        self._stopping.set()
        self.join()
        self._engine.dispose()


def all_rows(url: str) -> Rows:
    """Everything in the store, read once all is quiet."""
    engine = engine_of(url)
    rows = Rows()
    try:
        with engine.connect() as connection:
            for row in _by_pages(connection, jobs):
                rows.jobs.append(
                    JobRow(
                        key=row.id.hex(),
                        id=row.correlation_id,
                        namespace=row.namespace,
                        version=row.version,
                        state=row.state,
                        owner=row.owner.hex() if row.owner else "",
                        attempts=row.attempts,
                        rescues=row.rescues,
                        digest=body_digest(row.body or b""),
                        created_at=row.created_at / 1e6,
                    )
                )
            for row in connection.execute(select(job_events)):
                rows.events.append(
                    EventRow(
                        row.job_id.hex(), row.kind, row.version or 0, row.owner.hex() if row.owner else "", row.at / 1e6
                    )
                )
            for digest in connection.execute(select(dead_letters.c.digest)).scalars():
                rows.letters.append(digest.hex())
            rows.effects = [job.hex() for job in connection.execute(select(effects.c.job)).scalars()]
    finally:
        engine.dispose()
    return rows


def _by_pages(connection: Connection, table: Table) -> Iterator[Row]:
    """All rows of a table with ids, few in memory at a time."""
    last = b""
    while page := connection.execute(select(table).where(table.c.id > last).order_by(table.c.id).limit(2000)).all():
        yield from page
        last = page[-1].id


def body_digest(body: bytes) -> str:
    """As the store digests a body, computed anew."""
    return blake2b(body, digest_size=16).hexdigest()
