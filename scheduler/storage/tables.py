"""All tables of jobbridge, and the database's clock.

Times are integers: microseconds since 1970 in UTC, by the database's clock. One number type is the same in all
databases, adds without a dialect, and has no zone to get wrong; commands show RFC 3339.

A job's `due_at` is three things, one after the other: when a waiting job is due, its place in the order of arrival
(row k of a batch has the statement's time + k), and, once it is finished, when it may be purged.

On MariaDB and MySQL the tables with a digest for a key have a column `seq` that counts up for a primary key, and a
unique index on `id`: InnoDB stores rows in the primary key's order, and a random one costs it a factor of ten. No
code reads `seq`, and it stands only in the migrations.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    UniqueConstraint,
    literal,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.functions import FunctionElement

from scheduler.job import JobState
from scheduler.storage import columns

SCHEMA_VERSION = "0004"
"""The newest revision of `migrations/versions`."""

VERSION_TABLE = "jobbridge_schema_version"

Clock = ColumnElement[int]
"""What stands for the database's clock in a statement. A test may put another in its place, as a whole."""


class db_now(FunctionElement[int]):
    """The database's clock: microseconds since 1970, UTC, the same throughout one statement."""

    type = BigInteger()
    inherit_cache = True
    name = "db_now"


@compiles(db_now, "postgresql")
def _postgresql_now(element: db_now, compiler: SQLCompiler, **_: object) -> str:
    # Stable, where clock_timestamp() is volatile: that kept promote from its index and shuffled a batch's order.
    return "CAST(extract(epoch FROM statement_timestamp()) * 1000000 AS bigint)"


@compiles(db_now, "mysql")
@compiles(db_now, "mariadb")
def _mysql_now(element: db_now, compiler: SQLCompiler, **_: object) -> str:
    return "CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)"


@compiles(db_now, "sqlite")
def _sqlite_now(element: db_now, compiler: SQLCompiler, **_: object) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1000"


def state(value: JobState) -> ColumnElement[str]:
    """A state written into the statement itself: with a parameter in its place PostgreSQL can't use a partial index."""
    return literal(value.value, literal_execute=True)


metadata = MetaData()

jobs = Table(
    "jobbridge_jobs",
    metadata,
    Column("id", columns.key(), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("state", columns.name(10), nullable=False),
    Column("lane", SmallInteger, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("owner", columns.key()),
    Column("token", BigInteger),
    Column("attempts", Integer, nullable=False),
    Column("rescues", Integer, nullable=False),
    Column("retries", Integer),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("finished_at", BigInteger),
    Column("digest", columns.key(), nullable=False),
    Column("namespace", columns.name(255), nullable=False),
    Column("correlation_bytes", columns.octets(255), nullable=False),
    Column("correlation_length", Integer, nullable=False),
    Column("correlation_id", columns.name(1024), nullable=False),
    Column("route", columns.name(255), nullable=False),
    Column("handler", columns.name(255), nullable=False),
    Column("source", columns.name(255), nullable=False),
    Column("headers", columns.long_text(), nullable=False),
    Column("body", columns.blob()),
    Column("expires_at", BigInteger),
    Column("lock_key", columns.key()),
    Column("limit_key", columns.key()),
    CheckConstraint("length(id) = 16", name="jobbridge_jobs_id_length"),
)

job_events = Table(
    "jobbridge_job_events",
    metadata,
    Column("seq", columns.counted(), primary_key=True, autoincrement=True),
    Column("job_id", columns.key(), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("kind", columns.name(20), nullable=False),
    Column("version", Integer),
    Column("owner", columns.key()),
    Column("detail", columns.long_text(), nullable=False),
    Column("digest", columns.key()),
    Column("times", Integer, nullable=False),
    UniqueConstraint("job_id", "digest", name="jobbridge_job_events_conflict"),
)

dead_letters = Table(
    "jobbridge_dead_letters",
    metadata,
    Column("id", columns.key(), primary_key=True),
    Column("received_at", BigInteger, nullable=False),
    Column("source", columns.name(255), nullable=False),
    Column("reason", columns.name(50), nullable=False),
    Column("detail", columns.long_text(), nullable=False),
    Column("correlation_id", columns.name(1024), nullable=False),
    Column("coordinates", columns.name(500), nullable=False),
    Column("envelope", columns.long_text(), nullable=False),
    Column("digest", columns.key(), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("body", columns.blob(), nullable=False),
    Index("jobbridge_dead_letters_received", "received_at"),
)

messages = Table(
    "jobbridge_messages",
    metadata,
    Column("seq", columns.counted(), primary_key=True, autoincrement=True),
    Column("queue", columns.name(255), nullable=False),
    Column("published_at", BigInteger, nullable=False),
    Column("visible_at", BigInteger, nullable=False),
    Column("token", BigInteger),
    Column("envelope", columns.long_text(), nullable=False),
    Column("body", columns.blob(), nullable=False),
    Index("jobbridge_messages_queue", "queue", "seq"),
    sqlite_autoincrement=True,
)

servers = Table(
    "jobbridge_servers",
    metadata,
    Column("number", columns.counted(), primary_key=True, autoincrement=True),
    Column("id", columns.key(), nullable=False, unique=True),
    Column("host", columns.name(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("beat", BigInteger, nullable=False),
    Column("interval_us", BigInteger, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("last_heartbeat", BigInteger, nullable=False),
    Column("status", columns.long_text(), nullable=False),
    sqlite_autoincrement=True,
)

locks = Table(
    "jobbridge_locks",
    metadata,
    Column("key", columns.key(), primary_key=True),
    Column("job_id", columns.key()),
)

limits = Table(
    "jobbridge_limits",
    metadata,
    Column("key", columns.key(), primary_key=True),
    Column("grants", columns.long_text(), nullable=False),
)

recurring = Table(
    "jobbridge_recurring",
    metadata,
    Column("name", columns.name(255), primary_key=True),
    Column("spec", columns.long_text(), nullable=False),
    Column("digest", columns.key(), nullable=False),
    Column("declared_at", BigInteger, nullable=False),
    Column("next_at", BigInteger),
    Column("last_at", BigInteger),
    Column("last_job", columns.key()),
    Column("job_before", columns.key()),
    Column("paused_at", BigInteger),
    Column("skipped", Integer, nullable=False),
    Column("note", columns.long_text(), nullable=False),
    Index("jobbridge_recurring_next", "next_at"),
)

pauses = Table(
    "jobbridge_pauses",
    metadata,
    Column("kind", columns.name(10), primary_key=True),
    Column("name", columns.name(255), primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("by", columns.name(255), nullable=False),
)

counters = Table(
    "jobbridge_counters",
    metadata,
    Column("minute", BigInteger, primary_key=True, autoincrement=False),
    Column("server", columns.key(), primary_key=True),
    Column("source", columns.name(255), primary_key=True),
    Column("route", columns.name(255), primary_key=True),
    Column("outcome", columns.name(20), primary_key=True),
    Column("n", BigInteger, nullable=False),
)
