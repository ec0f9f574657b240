"""What migrations are made of."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy import BigInteger, Column

from scheduler.storage import columns


def database() -> str:
    """What is migrated, also where there is no connection and the statements are only printed."""
    return op.get_context().dialect.name


def innodb() -> bool:
    """Whether rows lie in the order of the primary key, and no index can leave rows out."""
    return database() in ("mysql", "mariadb")


def digest_key(name: str = "id") -> list[Column[object]]:
    """The key of a table whose rows are known by a digest."""
    if not innodb():
        return [Column(name, columns.key(), primary_key=True)]
    return [
        Column("seq", BigInteger, primary_key=True, autoincrement=True),
        Column(name, columns.key(), nullable=False, unique=True),
    ]


def create(name: str, *parts: Column[object] | sa.Constraint, **options: bool) -> None:
    """Make a table."""
    op.create_table(name, *parts, mysql_charset="utf8mb4", mysql_engine="InnoDB", **options)


def index(name: str, indexed: list[str], where: str) -> None:
    """Make an index of some of the jobs; where the database has none such, of all."""
    op.create_index(name, "jobbridge_jobs", indexed, postgresql_where=sa.text(where), sqlite_where=sa.text(where))
