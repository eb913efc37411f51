"""What Alembic runs: the migrations, on the connection and in the transaction that the store has begun."""

from alembic import context

from gateway.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
