"""Alembic's entry: run the revisions on the connection that ``migrations.upgrade`` hands over, in its transaction."""

from __future__ import annotations

from alembic import context

from ringrift_sync_dagster.state import schema

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=schema.metadata,
    version_table=schema.VERSION_TABLE,
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
