"""Alembic's entry: migrates over the connection that `common.db.migrate` hands in."""

from alembic import context

from common.db.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    transaction_per_migration=True,
    compare_server_default=False,
    user_module_prefix="types.",
)
with context.begin_transaction():
    context.run_migrations()
