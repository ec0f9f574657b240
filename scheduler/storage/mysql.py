"""MariaDB and MySQL: insert with ON DUPLICATE KEY UPDATE, claim in two statements.

Never INSERT IGNORE: it also forgives truncation, and cut a 20-byte id to 16. MySQL 8 has no RETURNING: it reads back
what the INSERT left. READ COMMITTED, since REPEATABLE READ locks gaps that others insert into.
"""

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TypeVar

from pymysql.connections import Connection as Driver
from pymysql.err import MySQLError
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    Insert,
    LargeBinary,
    String,
    Table,
    bindparam,
    cast,
    event,
    func,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.mysql import insert

from scheduler.job import Job
from scheduler.storage import rows
from scheduler.storage.errors import StoreUnavailable
from scheduler.storage.execution import CLAIMS, kind_of
from scheduler.storage.intake import EXISTING, Answer, Placed
from scheduler.storage.records import Existing, Finish
from scheduler.storage.schema import LOCK_NAME
from scheduler.storage.storage import Options, Storage
from scheduler.storage.tables import jobs

T = TypeVar("T")

_SETTINGS = (
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SET time_zone = '+00:00', innodb_lock_wait_timeout = 5,"
    " sql_mode = 'STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'",
)
_MARIADB_SETTINGS = ("SET idle_transaction_timeout = 5",)


def _set_up(driver: Driver, _: object) -> None:
    with driver.cursor() as cursor:
        for setting in _SETTINGS:
            cursor.execute(setting)
        for setting in _MARIADB_SETTINGS:
            with contextlib.suppress(MySQLError):  # MySQL has no such bound
                cursor.execute(setting)


class MySQL(Storage):
    """Storage on MariaDB 10.6 or newer, or MySQL 8, through PyMySQL."""

    CLAIMS_IN_ONE_STATEMENT = False

    def __init__(self, engine: Engine, options: Options) -> None:
        super().__init__(engine, options)
        event.listen(engine, "connect", _set_up)
        self._insertion = rows.insertion(self.absent(jobs), self.now)
        self._insertion_told = self._insertion.returning(*EXISTING)
        self._oldest = {
            (limited, paused): self.waiting(*self.held_columns, limited=limited, paused=paused).with_for_update(
                skip_locked=True
            )
            for limited, paused in CLAIMS
        }
        self._claiming = update(jobs).where(self.among(jobs.c.id, "ids")).values(self.claiming())

    def among(self, column: Column[T], name: str) -> ColumnElement[bool]:
        if not isinstance(column.type, String):
            return super().among(column, name)
        # As bytes: utf8mb4_bin takes "a" and "a " for equal, and a pod can't run what it did not ask for.
        return cast(column, LargeBinary).in_(bindparam(name, expanding=True, type_=column.type))

    def absent(self, table: Table) -> Insert:
        return insert(table).on_duplicate_key_update({column.name: column for column in table.primary_key})

    def counted(self, table: Table, key: Sequence[str], again: dict[str, ColumnElement[int]]) -> Insert:
        return insert(table).on_duplicate_key_update(again)

    def replacing(self, table: Table, key: Sequence[str], column: str) -> Insert:
        statement = insert(table)
        return statement.on_duplicate_key_update({column: statement.inserted[column]})

    def _insert(
        self, connection: Connection, placed: Sequence[Placed], token: int, owner: bytes | None, claimed: int
    ) -> Answer:
        parameters = rows.parameters(placed, token, owner, claimed)
        if not connection.dialect.insert_returning:
            connection.execute(self._insertion, parameters)
            return Answer()
        stand = connection.execute(self._insertion_told, parameters)
        return Answer((row.id, Existing(*row)) for row in stand)

    def _claim(self, connection: Connection, owner: bytes, parameters: dict[str, object]) -> list[Job]:
        waiting = [Job._make(row) for row in connection.execute(self._oldest[kind_of(parameters)], parameters)]
        if waiting:
            connection.execute(self._claiming, {"owner": owner, "ids": [job.key for job in waiting]})
        return [job._replace(version=job.version + 1, owner=owner) for job in waiting]

    def _finish(self, results: Sequence[Finish]) -> set[bytes]:
        groups: dict[Finish, list[tuple[bytes, int]]] = defaultdict(list)
        for result in results:
            groups[result._replace(id=b"", version=0)].append((result.id, result.version))
        written: set[bytes] = set()
        with self.transaction() if len(groups) > 1 else self.connection() as connection:
            for shared, pairs in groups.items():
                statement = self.ending(tuple_(jobs.c.id, jobs.c.version).in_(bindparam("pairs", expanding=True)))
                values = self.parameters(shared) | {"pairs": sorted(pairs)}
                if connection.execute(statement, values).rowcount == len(pairs):
                    written.update(key for key, _ in pairs)
        # Of a group that came back short the caller reads which rows stand where we put them.
        return written

    @contextlib.contextmanager
    def finishing(self, patience: float) -> Iterator[Connection]:
        with super().finishing(patience) as connection:
            yield connection
            if connection.dialect.insert_returning:
                connection.execute(text("SET idle_transaction_timeout = 5"))

    def be_patient(self, connection: Connection, seconds: float) -> None:
        if connection.dialect.insert_returning:
            connection.execute(text("SET idle_transaction_timeout = :seconds"), {"seconds": int(seconds) + 1})

    @contextlib.contextmanager
    def migration_lock(self, connection: Connection) -> Iterator[None]:
        if connection.execute(select(func.get_lock(LOCK_NAME, 60))).scalar() != 1:
            raise StoreUnavailable("another process has been migrating the tables for a minute")
        try:
            yield
        finally:
            connection.execute(select(func.release_lock(LOCK_NAME)))
