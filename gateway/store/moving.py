"""Moving: the rows of a store in SQLite go into PostgreSQL."""

import sqlite3

from gateway.postgres.filling import Filling
from gateway.store.database import suffices
from gateway.store.schema import conversations, turns

TABLES = (conversations, turns)
"""In the order in which their rows refer to each other."""


def revision_of(source: sqlite3.Connection) -> str | None:
    """The newest migration that the store has seen, if this version can read its tables, otherwise None."""
    if not source.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
        return None
    (found,) = source.execute("SELECT version_num FROM alembic_version").fetchone() or (None,)
    return found if suffices(found) else None


async def move(source: sqlite3.Connection, target: Filling) -> None:
    """Copies all rows. The turns keep their order."""
    for table in TABLES:
        columns = [column.name for column in table.columns]
        (count,) = source.execute(f"SELECT count(*) FROM {table.name}").fetchone()
        rows = source.execute(f"SELECT {', '.join(columns)} FROM {table.name}")
        await target.copy(table.name, columns, rows, of=count)
    await target.run(
        "SELECT setval(pg_get_serial_sequence('turns', 'ordinal'), coalesce(max(ordinal), 0) + 1, false) FROM turns"
    )
