"""Alembic's entry point: migrates over the connection that `migrate.py` hands it."""

from __future__ import annotations

from alembic import context

from scheduler.storage.tables import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=False,
)
context.run_migrations()
