"""Writing to SQLite: statements for the file's owner and for stretches, transactions, and many rows at once."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import aiosqlite

from gateway.waiting import outlived

OWNER: Final = "CREATE TABLE IF NOT EXISTS owner (id INTEGER PRIMARY KEY, name TEXT NOT NULL, saves INTEGER NOT NULL)"
NOBODY: Final = "INSERT OR IGNORE INTO owner (id, name, saves) VALUES (1, '', 0)"
CLAIM: Final = (
    "UPDATE owner SET name = ?1 WHERE name = ?1"
    " OR (name = ?2 AND saves = ?3 AND (SELECT coalesce(max(number), 0) FROM batches) <= ?4) RETURNING name"
)
SAVE: Final = (
    "INSERT INTO stretches (number, key, epoch, first, last, turn, mark, ended, state, body)"
    " SELECT ?1,?2,?3,?4,?5,?6,?7,?8,?9,?10 WHERE ?1 > 0"
    " ON CONFLICT (number) DO UPDATE SET epoch = excluded.epoch, last = excluded.last, ended = excluded.ended,"
    " state = excluded.state, body = excluded.body WHERE stretches.key = excluded.key"
)
SAVE_HEAD: Final = (
    "INSERT INTO heads (key, epoch, head) VALUES (?,?,?)"
    " ON CONFLICT (key) DO UPDATE SET epoch = excluded.epoch, head = excluded.head WHERE excluded.head >= heads.head"
)
SAVE_NOTHING: Final = (0, "", "", 0, 0, "", "", None, b"", b"")


@asynccontextmanager
async def transaction(db: aiosqlite.Connection) -> AsyncIterator[None]:
    """Commits everything that is done in its block, or nothing."""
    try:
        await db.execute_fetchall("BEGIN IMMEDIATE")
        yield
        await db.execute_fetchall("COMMIT")
    except BaseException:
        # The thread still executes what was cancelled, even a BEGIN, whose transaction would swallow all later commits.
        with suppress(sqlite3.Error):
            await outlived(asyncio.ensure_future(db.execute_fetchall("ROLLBACK")), expected=sqlite3.Error)
        raise


async def many(db: aiosqlite.Connection, sql: str, rows: Iterable[Iterable[Any]]) -> None:
    """Executes a statement for each row."""
    await (await db.executemany(sql, rows)).close()


def consumed(rows: list[Sequence[Any]]) -> Iterator[Sequence[Any]]:
    """Yields the rows, removing each from the list, and last an empty one, so that SQLite forgets the row before: it
    keeps the values that a statement was last given, and an answer may have megabytes."""
    while rows:
        yield rows.pop()
    yield SAVE_NOTHING
