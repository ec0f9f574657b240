"""What all servers counted, minute by minute, and what waits for a worker: what charts, metrics and scalers read."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Float, column, delete, func, literal, select, table, union_all

from scheduler.counts import Counted, Key
from scheduler.job import FINISHED, JobState
from scheduler.storage.database import Database, retried
from scheduler.storage.tables import counters, dead_letters, jobs, recurring, state

MINUTE_US = 60_000_000
KEPT_MINUTES = 7 * 24 * 60

_backlog = table("jobbridge_backlog", column("route"), column("waiting"), column("oldest_seconds"))


class Point(NamedTuple):
    """How often something happened, on all servers, in one step of a window."""

    at: int
    """When the step begins, in microseconds since 1970."""
    source: str
    route: str
    outcome: str
    n: int


class RouteBacklog(NamedTuple):
    """A row of the view `jobbridge_backlog`: a route's jobs that a free worker would take now."""

    route: str
    waiting: int
    oldest_seconds: float
    """Since the first of them was due."""


class Surveyed(NamedTuple):
    """What the whole store has of something."""

    kind: str
    """`backlog` by route, `jobs` that have not ended by state, `dead_letters` by source, `recurring` by name."""
    name: str
    number: int
    seconds: float
    """Of the backlog its age; of a recurring job when it last fired, since 1970."""


class Counters(Database):
    """The verbs of what is counted. Nothing of it reads a finished job."""

    @retried
    def record(self, server: bytes, counted: Sequence[Counted]) -> None:
        """Put these sums of minutes in the place of this server's earlier ones. May be done twice.

        :param server: the same as long as its process counts, whatever id it is registered under.
        """
        statement = self.replacing(counters, ("minute", "server", "source", "route", "outcome"), "n")
        with self.transaction() as connection:
            connection.execute(statement, [{"server": server, **one._asdict()} for one in counted])

    def series(self, minutes: int, step: int) -> list[Point]:
        """What was counted in the last `minutes`, in steps of so many minutes, each from a multiple of its length on;
        the oldest first. A step without an event is left out."""
        at = counters.c.minute - counters.c.minute % step
        sums = (at * MINUTE_US, counters.c.source, counters.c.route, counters.c.outcome, func.sum(counters.c.n))
        order = (at, counters.c.source, counters.c.route, counters.c.outcome)
        since = self.clock() // MINUTE_US - minutes + 1
        statement = select(*sums).where(counters.c.minute >= since - since % step).group_by(*order).order_by(*order)
        with self.connection() as connection:
            return [Point(*row[:4], int(row[4])) for row in connection.execute(statement)]

    def totals(self, minutes: int) -> dict[Key, int]:
        """What was counted in the last `minutes`, this one among them."""
        named = (counters.c.source, counters.c.route, counters.c.outcome)
        since = self.clock() // MINUTE_US - minutes + 1
        statement = select(*named, func.sum(counters.c.n)).where(counters.c.minute >= since).group_by(*named)
        with self.connection() as connection:
            return {Key(*row[:3]): int(row[3]) for row in connection.execute(statement)}

    @retried
    def forget_counts(self) -> None:
        """Delete those of more than seven days ago."""
        kept = self.clock() // MINUTE_US - KEPT_MINUTES
        with self.connection() as connection:
            connection.execute(delete(counters).where(counters.c.minute < kept))

    def survey(self) -> list[Surveyed]:
        """The state of the whole store, for the master's metrics, in one query; reads all that has not ended."""
        number, none = func.count(), literal(0.0, Float)
        # Each state by itself, as its index has it: finished rows are many and are not read.
        unfinished = [
            select(literal("jobs"), literal(one.value), number, none).where(jobs.c.state == state(one))
            for one in JobState
            if one not in FINISHED
        ]
        parts = (
            select(literal("backlog"), _backlog.c.route, _backlog.c.waiting, _backlog.c.oldest_seconds),
            *unfinished,
            select(literal("dead_letters"), dead_letters.c.source, number, none).group_by(dead_letters.c.source),
            select(literal("recurring"), recurring.c.name, literal(1), recurring.c.last_at / 1e6).where(
                recurring.c.last_at.is_not(None)
            ),
        )
        with self.connection() as connection:
            rows = connection.execute(union_all(*parts)).all()
        return [Surveyed(kind, name, int(count), float(seconds)) for kind, name, count, seconds in rows]

    def backlog_by_route(self) -> list[RouteBacklog]:
        """What waits for a worker and for nothing else, by the public view; reads all jobs that are ENQUEUED."""
        statement = select(_backlog.c.route, _backlog.c.waiting, _backlog.c.oldest_seconds).order_by(_backlog.c.route)
        with self.connection() as connection:
            return [RouteBacklog(*row) for row in connection.execute(statement)]
