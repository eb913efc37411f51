"""Alembic's migrations. `gateway.store.database` runs them at the start; each is one file in `versions`."""
