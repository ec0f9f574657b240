"""The schema's version: migrate to it, print how, or check it."""

import contextlib
import io
from collections.abc import Iterator
from typing import TextIO

from sqlalchemy import Connection, column, false, select, table

from scheduler.storage.database import Database
from scheduler.storage.errors import SchemaOutdated
from scheduler.storage.tables import SCHEMA_VERSION, VERSION_TABLE, metadata

LOCK_NAME = "jobbridge_migrate"
LOCK_NUMBER = 0x6A6F6262
"""The same lock where locks have numbers."""

_version = table(VERSION_TABLE, column("version_num"))


class Schema(Database):
    """Forward only: a version's pods run beside those of the version before."""

    def schema_version(self) -> str | None:
        """The revision that the database has; None: it has none of our tables."""
        try:
            with self.connection() as connection:
                return connection.execute(select(_version.c.version_num)).scalar()
        except SchemaOutdated:
            return None

    def check_schema(self) -> None:
        """:raises SchemaOutdated: where the tables are missing or older than this program needs."""
        found = self.schema_version()
        if found is None or found < SCHEMA_VERSION:
            have = "has no tables of jobbridge" if found is None else f"is at version {found}"
            raise SchemaOutdated(f"the database {have}, version {SCHEMA_VERSION} is needed: run `jobbridge migrate`")

    def rehearse(self) -> None:
        """Write to each table in each way, of which no row is touched and nothing stays; raises what a pod would meet.

        :raises StoreUnavailable: the database is away, or takes no writes.
        """
        with self.undone() as connection:
            for one in metadata.sorted_tables:
                connection.execute(one.insert().from_select(list(one.c), select(one).where(false())))
                connection.execute(one.update().values({c: c for c in one.c}).where(false()))
                connection.execute(one.delete().where(false()))

    def migrate(self) -> bool:
        """Bring the tables to this program's version, under a lock, so that any number of pods may start at once.

        :return: whether something was changed.
        """
        found = self.schema_version()
        if found is not None and found >= SCHEMA_VERSION:
            return False
        with self.connection() as connection, self.migration_lock(connection):
            _upgrade("head", connection=connection)
        return True

    def migration_sql(self) -> str:
        """The statements that `migrate` would run, for the database's own client; nothing is changed."""
        found = self.schema_version()
        if found is not None and found >= SCHEMA_VERSION:
            return ""
        printed = io.StringIO()
        _upgrade(f"{found or 'base'}:head", printed, dialect=self.engine.dialect.name)
        return printed.getvalue()

    @contextlib.contextmanager
    def migration_lock(self, connection: Connection) -> Iterator[None]:
        """One migration at a time, by whatever the database has for it."""
        raise NotImplementedError


def _upgrade(revisions: str, printed: TextIO | None = None, **attributes: object) -> None:
    # Alembic costs 9 MB: only who migrates pays for it.
    from alembic import command
    from alembic.config import Config

    config = Config(output_buffer=printed)
    config.set_main_option("script_location", "scheduler.storage:migrations")
    config.attributes.update(attributes)
    command.upgrade(config, revisions, sql=printed is not None)
