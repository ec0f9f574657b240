"""SQLite: the embedded default. One writer at a time, so nothing needs a lock of its own.

Durable: WAL with `synchronous` at its default, FULL. Several pods on one machine may share the file; a heartbeat
under 2 seconds is too fast there, since a writer may wait for others that long.
"""

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from sqlalchemy import ColumnElement, Connection, Engine, Insert, Table, event, text, update
from sqlalchemy.dialects.sqlite import insert

from scheduler.job import Job
from scheduler.storage import rows
from scheduler.storage.execution import CLAIMS, kind_of
from scheduler.storage.intake import Answer, Placed
from scheduler.storage.records import Finish
from scheduler.storage.storage import Options, Storage
from scheduler.storage.tables import jobs

_SETTINGS = ("PRAGMA busy_timeout = 10000", "PRAGMA journal_mode = WAL")


def _set_up(driver: sqlite3.Connection, _: object) -> None:
    for setting in _SETTINGS:
        driver.execute(setting).close()


class SQLite(Storage):
    """Storage on SQLite 3.35 or newer."""

    BEGIN = "BEGIN IMMEDIATE"

    def __init__(self, engine: Engine, options: Options) -> None:
        super().__init__(engine, options)
        event.listen(engine, "connect", _set_up)
        self._insertion = rows.insertion(insert(jobs).on_conflict_do_nothing(), self.now).returning(jobs.c.id)
        self._claiming = {
            (limited, paused): update(jobs)
            .where(jobs.c.id.in_(self.waiting(jobs.c.id, limited=limited, paused=paused).order_by(text("rowid"))))
            .values(self.claiming())
            .returning(jobs.c.due_at, *self.held_columns)
            for limited, paused in CLAIMS
        }

    def schema_version(self) -> str | None:
        # A question must not make the file.
        file = Path(self.engine.url.database or ":memory:")
        if not str(file).startswith((":", "file:")) and file.parent.exists() and not file.exists():
            return None
        return super().schema_version()

    def absent(self, table: Table) -> Insert:
        return insert(table).on_conflict_do_nothing()

    def counted(self, table: Table, key: Sequence[str], again: dict[str, ColumnElement[int]]) -> Insert:
        return insert(table).on_conflict_do_update(index_elements=list(key), set_=again)

    def replacing(self, table: Table, key: Sequence[str], column: str) -> Insert:
        statement = insert(table)
        new = {column: statement.excluded[column]}
        return statement.on_conflict_do_update(index_elements=list(key), set_=new)

    def _insert(
        self, connection: Connection, placed: Sequence[Placed], token: int, owner: bytes | None, claimed: int
    ) -> Answer:
        new = connection.execute(self._insertion, rows.parameters(placed, token, owner, claimed))
        return Answer((key, None) for (key,) in new)

    def _claim(self, connection: Connection, owner: bytes, parameters: dict[str, object]) -> list[Job]:
        claimed = connection.execute(self._claiming[kind_of(parameters)], parameters | {"owner": owner}).all()
        return [Job._make(row[1:]) for row in sorted(claimed, key=lambda row: row[0])]

    def _finish(self, results: Sequence[Finish]) -> set[bytes]:
        with self.transaction() as connection:
            total = connection.execute(self.guarded(), [self.parameters(result) for result in results]).rowcount
        # If all hit, all are ours; else the caller reads which of the rows stand where we put them.
        return {result.id for result in results} if total == len(results) else set()

    @contextlib.contextmanager
    def migration_lock(self, connection: Connection) -> Iterator[None]:
        connection.exec_driver_sql(self.BEGIN)
        try:
            yield
        except BaseException:
            connection.exec_driver_sql("ROLLBACK")
            raise
        connection.exec_driver_sql("COMMIT")
