"""The index of finished jobs by their state, so that a page of one state reads no row of another."""

from alembic import op

from scheduler.storage.migrations.steps import index, innodb

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the index anew. Where rows can't be left out of an index, that of the claim does for it."""
    if not innodb():
        op.drop_index("jobbridge_jobs_finished", "jobbridge_jobs")
        index("jobbridge_jobs_finished", ["state", "due_at"], "state IN ('SUCCEEDED', 'FAILED', 'DELETED')")
