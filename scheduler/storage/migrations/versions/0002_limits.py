"""Limits, locks, expiry, recurring jobs and pauses. All that is added to jobs may be left out by the version before."""

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, PrimaryKeyConstraint

from scheduler.storage import columns
from scheduler.storage.migrations.steps import create, digest_key, index, innodb

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add columns and tables."""
    for column in (
        Column("expires_at", BigInteger),
        Column("lock_key", columns.key()),
        Column("limit_key", columns.key()),
    ):
        op.add_column("jobbridge_jobs", column)
    if innodb():
        op.create_index("jobbridge_jobs_expiring", "jobbridge_jobs", ["state", "expires_at"])
        op.create_index("jobbridge_jobs_locked", "jobbridge_jobs", ["lock_key", "state", "lane", "due_at"])
        op.create_index("jobbridge_jobs_limited", "jobbridge_jobs", ["limit_key", "state", "lane", "due_at"])
    else:
        waiting = "state IN ('ENQUEUED', 'SCHEDULED')"
        index("jobbridge_jobs_expiring", ["expires_at"], f"{waiting} AND expires_at IS NOT NULL")
        index("jobbridge_jobs_locked", ["lock_key", "due_at"], "state = 'ENQUEUED' AND lane = 3")
        index("jobbridge_jobs_limited", ["limit_key", "lane", "due_at"], "state = 'ENQUEUED' AND limit_key IS NOT NULL")
        index("jobbridge_jobs_limited_runs", ["limit_key"], "state = 'PROCESSING' AND limit_key IS NOT NULL")
    create("jobbridge_locks", *digest_key("key"), Column("job_id", columns.key()))
    create("jobbridge_limits", *digest_key("key"), Column("grants", columns.long_text(), nullable=False))
    create(
        "jobbridge_recurring",
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
    )
    op.create_index("jobbridge_recurring_next", "jobbridge_recurring", ["next_at"])
    create(
        "jobbridge_pauses",
        Column("kind", columns.name(10), nullable=False),
        Column("name", columns.name(255), nullable=False),
        Column("at", BigInteger, nullable=False),
        Column("by", columns.name(255), nullable=False),
        PrimaryKeyConstraint("kind", "name"),
    )
