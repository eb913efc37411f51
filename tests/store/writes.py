"""Writes to give to a store, and ways to see what became of them."""

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, select

from gateway.store import Store, TurnBegun, TurnUpdate, schema
from gateway.store.database import is_postgresql

HEALS = 5.0
"""Seconds within which, as is promised, a store writes again what it could not write."""


def begun(number: int, conversation: str = "conv_1", **fields: Any) -> TurnBegun:
    values: dict[str, Any] = {"user_id": "user", "shop_id": "shop", "bot_id": "bot", "message": f"question {number}"}
    values |= {"turn_id": f"turn_{number}", "conversation_id": conversation, "created_at": 100.0}
    return TurnBegun(**values | fields)


def update(number: int, status: str = "running", conversation: str = "conv_1", **fields: Any) -> TurnUpdate:
    values: dict[str, Any] = {"turn_id": f"turn_{number}", "conversation_id": conversation, "updated_at": 101.0}
    return TurnUpdate(**values | {"status": status} | fields)


def commits(store: Store) -> list[None]:
    """Grows by one with each transaction that the store commits."""
    seen: list[None] = []
    event.listen(store._engine.sync_engine, "commit", lambda _: seen.append(None))
    return seen


def engine_of(url: str) -> Engine:
    """Another way into the database, beside the store's."""
    if not is_postgresql(url):
        return create_engine(url)
    import psycopg

    return create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url))


def contents(url: str) -> list[str]:
    """All rows of all tables."""
    engine = engine_of(url)
    with engine.connect() as connection:
        tables = schema.metadata.sorted_tables
        rows = [(table.name, *row) for table in tables for row in connection.execute(select(table)).all()]
    engine.dispose()
    return sorted(map(repr, rows))


def dump(path: Path) -> list[str]:
    with sqlite3.connect(path) as connection:
        lines = list(connection.iterdump())
    connection.close()
    return lines
