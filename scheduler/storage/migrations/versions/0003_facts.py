"""Counters, and the public view of what waits. The version before neither reads nor writes them."""

from alembic import op
from sqlalchemy import BigInteger, Column, PrimaryKeyConstraint

from scheduler.storage import columns
from scheduler.storage.migrations.steps import create, database, innodb

revision = "0003"
down_revision = "0002"

# What a worker that is free would take now: no lock is waited for (lane 3), its time is not over, its route not paused.
_RUNNABLE = """
    FROM jobbridge_jobs
    WHERE state = 'ENQUEUED' AND lane <> 3
        AND (expires_at IS NULL OR started_at IS NOT NULL OR expires_at > {now})
        AND NOT EXISTS (
            SELECT 1 FROM jobbridge_pauses AS paused WHERE paused.kind = 'route' AND paused.name = jobbridge_jobs.route
        )
    GROUP BY route
"""
_NOW = {
    "postgresql": "CAST(extract(epoch FROM statement_timestamp()) * 1000000 AS bigint)",
    "sqlite": "(CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1000)",
    # The zone of whoever reads is not ours to set, and this function takes it into account.
    "mysql": "CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)",
}
_SECONDS = {
    "postgresql": "CAST(greatest(0, {now} - min(due_at)) AS double precision) / 1000000",
    "sqlite": "max(0.0, ({now} - min(due_at)) / 1000000.0)",
    "mysql": "greatest(0e0, ({now} - min(due_at)) / 1e6)",
}


def upgrade() -> None:
    """Add a table and a view."""
    create(
        "jobbridge_counters",
        Column("minute", BigInteger, nullable=False),
        Column("server", columns.key(), nullable=False),
        Column("source", columns.name(255), nullable=False),
        Column("route", columns.name(255), nullable=False),
        Column("outcome", columns.name(20), nullable=False),
        Column("n", BigInteger, nullable=False),
        PrimaryKeyConstraint("minute", "server", "source", "route", "outcome"),
    )
    dialect = "mysql" if innodb() else database()
    view = f"SELECT route, count(*) AS waiting, {_SECONDS[dialect]} AS oldest_seconds {_RUNNABLE}"
    op.execute("CREATE VIEW jobbridge_backlog AS " + view.format(now=_NOW[dialect]))
