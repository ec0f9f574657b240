"""Alembic's entry point: migrates over the connection that `schema.py` hands it, or prints for a dialect."""

from __future__ import annotations

from alembic import context

from scheduler.storage.tables import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes.get("connection"),
    dialect_name=context.config.attributes.get("dialect"),
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=False,
)
context.run_migrations()
