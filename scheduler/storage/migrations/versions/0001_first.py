"""The first schema."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy import BigInteger, Column, Integer, SmallInteger

from scheduler.storage import columns
from scheduler.storage.migrations.steps import create, database, digest_key, index, innodb

revision = "0001"
down_revision = None

_FINISHED = "state IN ('SUCCEEDED', 'FAILED', 'DELETED')"


def upgrade() -> None:
    """Make all tables."""
    _jobs()
    _index_jobs()
    _letters_and_messages()
    _servers()


def _jobs() -> None:
    create(
        "jobbridge_jobs",
        *digest_key(),
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
        sa.CheckConstraint("length(id) = 16", name="jobbridge_jobs_id_length"),
    )
    create(
        "jobbridge_job_events",
        Column("seq", columns.counted(), primary_key=True, autoincrement=True),
        Column("job_id", columns.key(), nullable=False),
        Column("at", BigInteger, nullable=False),
        Column("kind", columns.name(20), nullable=False),
        Column("version", Integer),
        Column("owner", columns.key()),
        Column("detail", columns.long_text(), nullable=False),
        Column("digest", columns.key()),
        Column("times", Integer, nullable=False),
        sa.UniqueConstraint("job_id", "digest", name="jobbridge_job_events_conflict"),
    )


def _index_jobs() -> None:
    if innodb():
        op.create_index("jobbridge_jobs_claim", "jobbridge_jobs", ["state", "lane", "due_at"])
    else:
        index("jobbridge_jobs_enqueued", ["lane", "due_at"], "state = 'ENQUEUED'")
        index("jobbridge_jobs_scheduled", ["due_at"], "state = 'SCHEDULED'")
        index("jobbridge_jobs_processing", ["owner"], "state = 'PROCESSING'")
        index("jobbridge_jobs_finished", ["due_at"], _FINISHED)
    if database() == "postgresql":
        # The table's hot part is small and turns over fast; the defaults wait for a fifth of all rows ever kept.
        op.execute(
            "ALTER TABLE jobbridge_jobs SET"
            " (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.01)"
        )


def _letters_and_messages() -> None:
    create(
        "jobbridge_dead_letters",
        *digest_key(),
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
    )
    op.create_index("jobbridge_dead_letters_received", "jobbridge_dead_letters", ["received_at"])
    create(
        "jobbridge_messages",
        Column("seq", columns.counted(), primary_key=True, autoincrement=True),
        Column("queue", columns.name(255), nullable=False),
        Column("published_at", BigInteger, nullable=False),
        Column("visible_at", BigInteger, nullable=False),
        Column("token", BigInteger),
        Column("envelope", columns.long_text(), nullable=False),
        Column("body", columns.blob(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("jobbridge_messages_queue", "jobbridge_messages", ["queue", "seq"])


def _servers() -> None:
    create(
        "jobbridge_servers",
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
