"""What all servers counted, minute by minute, and what waits for a worker: what charts, metrics and scalers read."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import column, delete, func, select, table

from scheduler.counts import Counted
from scheduler.storage.database import Database, retried
from scheduler.storage.tables import counters

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

    @retried
    def forget_counts(self) -> None:
        """Delete those of more than seven days ago."""
        kept = self.clock() // MINUTE_US - KEPT_MINUTES
        with self.connection() as connection:
            connection.execute(delete(counters).where(counters.c.minute < kept))

    def backlog_by_route(self) -> list[RouteBacklog]:
        """What waits for a worker and for nothing else, by the public view; reads all jobs that are ENQUEUED."""
        statement = select(_backlog.c.route, _backlog.c.waiting, _backlog.c.oldest_seconds).order_by(_backlog.c.route)
        with self.connection() as connection:
            return [RouteBacklog(*row) for row in connection.execute(statement)]
