"""Connections: how a verb reaches the database, and what its errors become.

Every connection commits by itself: one statement is one transaction, unless a verb opens one with `transaction`.
No transaction stays open across a reply that somebody else must give.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from random import Random
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

from sqlalchemy import Column, Connection, Engine, Insert, Table, bindparam, insert, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql.elements import ColumnElement

from scheduler.storage.errors import Meaning, SchemaOutdated, StoreUnavailable, first_line, meaning
from scheduler.storage.tables import Clock, db_now, job_events

P = ParamSpec("P")
R = TypeVar("R")
D = TypeVar("D", bound="Database")


class Contended(StoreUnavailable):
    """A deadlock or a lock wait that took too long; the work was rolled back. Verbs that write are tried again; a
    read, which waits for a lock on a whole table alone, is answered with this."""


class _Undone(Exception):
    """Rolls a transaction back that served its purpose."""


def retried(verb: Callable[Concatenate[D, P], R]) -> Callable[Concatenate[D, P], R]:
    """Try a verb again after a deadlock, without bound and with jitter: it is nobody's failure, and each verb may be
    done twice."""

    @wraps(verb)
    def again(self: D, /, *args: P.args, **kwargs: P.kwargs) -> R:
        while True:
            try:
                return verb(self, *args, **kwargs)
            except Contended:
                self.sleep(self.random.uniform(0.001, 0.02))

    return again


class Options(NamedTuple):
    """What a test may replace, so that one seed decides a whole run."""

    now: Clock = db_now()
    """The database's clock, as an expression."""
    random: Random = Random()
    sleep: Callable[[float], None] = time.sleep


class Database:
    """One database, for any number of threads. Its engine commits by itself on every connection."""

    BEGIN = "BEGIN"

    def __init__(self, engine: Engine, options: Options) -> None:
        self.engine = engine
        self.now, self.random, self.sleep = options

    @contextlib.contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection of the pool.

        :raises StoreUnavailable: where the database is away, or can't write.
        :raises SchemaOutdated: where a table is missing.
        """
        try:
            with self.engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            what = meaning(error)
            if what is Meaning.CONTENDED:
                raise Contended(first_line(error)) from error
            if what is Meaning.NO_SCHEMA:
                raise SchemaOutdated("the tables of jobbridge are missing: run `jobbridge migrate`") from None
            if what is Meaning.UNAVAILABLE:
                # A server that turned read-only answers, but is the wrong one: no pooled connection may stay.
                self.engine.dispose()
                raise StoreUnavailable(first_line(error)) from None
            raise

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A connection with a transaction of its own: committed at the end, rolled back on any exception."""
        with self.connection() as connection:
            connection.exec_driver_sql(self.BEGIN)
            try:
                yield connection
            except BaseException:
                with contextlib.suppress(SQLAlchemyError):
                    connection.exec_driver_sql("ROLLBACK")
                raise
            connection.exec_driver_sql("COMMIT")

    @contextlib.contextmanager
    def joined(self, connection: Connection | None) -> Iterator[Connection]:
        """The caller's own connection, whose errors are his; None: one of the pool."""
        if connection is not None:
            yield connection
            return
        with self.connection() as own:
            yield own

    def answers(self) -> bool:
        """Whether it takes a row now, which is rolled back: one that is read-only, or full, still answers a SELECT."""
        row = insert(job_events).values(job_id=bytes(16), at=self.now, kind="PROBE", detail="", times=1)
        try:
            with self.undone() as connection:
                connection.execute(row)
        except (StoreUnavailable, SchemaOutdated):
            return False
        return True

    @contextlib.contextmanager
    def undone(self) -> Iterator[Connection]:
        """A connection with a transaction of its own that is rolled back at the end."""
        with contextlib.suppress(_Undone), self.transaction() as connection:
            yield connection
            raise _Undone

    def clock(self) -> int:
        """The database's clock: microseconds since 1970."""
        with self.connection() as connection:
            return int(connection.execute(select(self.now)).scalar_one())

    def among(self, column: Column[R], name: str) -> ColumnElement[bool]:
        """A condition: the column is one of the list that the parameter `name` holds."""
        return column.in_(bindparam(name, expanding=True))

    def absent(self, table: Table) -> Insert:
        """An INSERT that leaves a row alone which is there under the same key, and demotes no other error."""
        raise NotImplementedError

    def counted(self, table: Table, key: Sequence[str], again: dict[str, ColumnElement[int]]) -> Insert:
        """An INSERT that updates the columns `again` of a row which is there under the same unique key."""
        raise NotImplementedError

    def replacing(self, table: Table, key: Sequence[str], column: str) -> Insert:
        """An INSERT that puts its value of one column into a row which is there under the same unique key."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the pooled connections."""
        self.engine.dispose()
