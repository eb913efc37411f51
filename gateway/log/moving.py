"""Moving: an event log in SQLite goes into PostgreSQL."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aiosqlite

from gateway.log.packing import pack
from gateway.log.sqlite_file import SCHEMA_VERSION, read_only, recover
from gateway.log.stretch import Stretch
from gateway.postgres.filling import Filling

TABLES: Final = ("log_nodes", "log_stretches", "log_heads", "log_batches", "log_made")
_COLUMNS: Final = (
    *("ordinal", "number", "node", "batch", "key", "home", "epochs", "first", "last", "turn", "mark", "ended"),
    *("kept", "kept_at", "state", "body"),
)
_KEPT: Final = "FROM stretches WHERE ended IS NOT NULL AND key <> 'erased ' || number"
_NOBODY: Final = -1
"""A node that is no more: until its stretches are adopted, no node claims their conversations."""

_HEAD: Final = (
    "INSERT INTO log_heads (key, epochs, head) VALUES (%s, %s, %s) ON CONFLICT (key) DO UPDATE"
    " SET epochs = excluded.epochs, head = excluded.head WHERE excluded.head >= log_heads.head"
)
_CLAIM: Final = (
    "INSERT INTO log_heads (key, epochs, head, node) VALUES (%s, '', 0, %s)"
    " ON CONFLICT (key) DO UPDATE SET node = excluded.node"
)


def readable(source: sqlite3.Connection) -> bool:
    """Whether the file has the format that this version writes."""
    return bool(source.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,))


def made(source: sqlite3.Connection) -> str:
    """The mark that the log was given when it was created."""
    return str(source.execute("SELECT mark FROM made").fetchone()[0])


async def move(
    source: sqlite3.Connection, path: Path, target: Filling, *, home: Callable[[Stretch], str], now: float
) -> list[Stretch]:
    """Copies the stretches that are kept, and folds the batches into the others, which then wait to be adopted.

    Positions stay what they are. `home` is the log that a stretch waits for, or is in. Returns the stretches that have
    not ended. They are in memory together, as they are when a gateway starts. Raises `sqlite3.Error`, `ValueError` and
    `msgspec.MsgspecError` for a damaged file.
    """
    (count,) = source.execute(f"SELECT count(*) {_KEPT}").fetchone()
    await target.copy("log_stretches", _COLUMNS, _kept(source, now), of=count)
    unsaved = await _unsaved(path)
    rows = (_row(s, home(s)) for s in unsaved)
    await target.copy("log_stretches", _COLUMNS, rows, of=len(unsaved))
    (count,) = source.execute("SELECT count(*) FROM heads").fetchone()
    await target.copy(
        "log_heads", ("key", "epochs", "head"), source.execute("SELECT key, epoch, head FROM heads"), of=count
    )
    for s in unsaved:
        await target.run(_HEAD, s.key, s.epochs, s.last)
        await target.run(_CLAIM, home(s), _NOBODY)
    await target.run("UPDATE log_made SET mark = %s", made(source))
    await target.run(
        "SELECT setval(pg_get_serial_sequence('log_stretches', 'ordinal'), coalesce(max(ordinal), 0) + 1, false)"
        " FROM log_stretches"
    )
    return [s for s in unsaved if s.ended is None]


def _kept(source: sqlite3.Connection, now: float) -> Iterator[Sequence[Any]]:
    sql = f"SELECT number, key, epoch, first, last, turn, mark, ended, state, body {_KEPT} ORDER BY number"
    with closing(source.execute(sql)) as rows:
        for number, key, epochs, first, last, turn, mark, ended, state, body in rows:
            at = datetime.fromtimestamp(min(max(ended, 0.0), now), UTC)  # a clock may have been wrong
            values = (number, number, None, 0, key, key, epochs, first, last, turn, mark, ended)
            yield (*values, True, at, state, body)


def _row(s: Stretch, home: str) -> Sequence[Any]:
    values = (s.number, s.number, None, 0, s.key, home, s.epochs, s.first, s.last, s.turn, s.mark, s.ended)
    return (*values, False, None, s.state, pack(s))


async def _unsaved(path: Path) -> list[Stretch]:
    """The stretches that run, or have ended and are only in batches, as the next start would find them."""
    async with aiosqlite.connect(read_only(path), uri=True) as db:
        return (await recover(db)).recovered.stretches
