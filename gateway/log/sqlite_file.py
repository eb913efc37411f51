"""The file of the embedded journal: its schema, how it is prepared at a start, and how unsaved stretches are read."""

import secrets
import sqlite3
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiosqlite
import msgspec
import structlog

from gateway.log.journal import JournalError, Recovered
from gateway.log.packing import unpack
from gateway.log.replay import replay
from gateway.log.stretch import Stretch

logger = structlog.get_logger()

SCHEMA_VERSION: Final = 5
"""Version 2 knew one epoch per log, 3 wrote a note whole each time, 4 repeated a long answer in its last event. Their
files need no change."""
_QUICK_CHECK_LIMIT = 256 * 1024 * 1024

_SCHEMA = """
CREATE TABLE IF NOT EXISTS batches (number INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS stretches (
    number INTEGER PRIMARY KEY, key TEXT NOT NULL, epoch TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    turn TEXT NOT NULL, mark TEXT NOT NULL, ended REAL, state BLOB NOT NULL, body BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS stretches_place ON stretches (key, first);
CREATE INDEX IF NOT EXISTS stretches_turn ON stretches (turn);
CREATE INDEX IF NOT EXISTS stretches_mark ON stretches (mark) WHERE mark <> '';
CREATE INDEX IF NOT EXISTS stretches_ended ON stretches (ended);
CREATE TABLE IF NOT EXISTS heads (key TEXT PRIMARY KEY, epoch TEXT NOT NULL, head INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS made (id INTEGER PRIMARY KEY, mark TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS probes (id INTEGER PRIMARY KEY, at REAL NOT NULL);
"""
COLUMNS: Final = "number, key, epoch, first, turn, mark, ended, state, body"
"""The columns of a saved stretch, in the order in which `stretch_of` takes them."""

_decode = msgspec.msgpack.Decoder(list[tuple[int, int, int, Any]]).decode


class Damaged(Exception):
    """The file is no database of ours, or it is damaged."""


class Found(NamedTuple):
    """The file's content. `owner` is the owner's name, and how often stretches had been saved in the file."""

    recovered: Recovered
    owner: tuple[str, int]


def is_damage(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorname", "") in ("SQLITE_CORRUPT", "SQLITE_NOTADB")


def set_aside(path: Path, why: str) -> None:
    """Renames the file, its write-ahead log and its index, and tells the operator."""
    aside = path.with_name(f"{path.name}.damaged-{int(time.time())}")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    logger.error("log.set_aside", path=str(aside), why=why, consequence="listeners of older answers get a reset")


def read_only(path: Path) -> str:
    """The URI of a SQLite file that is opened without changing it or its write-ahead log."""
    return f"{path.absolute().as_uri()}?mode=ro"


async def prepare(db: aiosqlite.Connection, name: str, size: int) -> None:
    """Brings the file into this version's form. Raises `Damaged`, or `JournalError` for a newer version's file."""
    await db.execute_fetchall("PRAGMA journal_mode=WAL")
    await db.execute_fetchall("PRAGMA synchronous=NORMAL")
    await db.execute_fetchall(f"PRAGMA journal_size_limit={8 * 1024 * 1024}")
    await db.execute_fetchall("PRAGMA wal_autocheckpoint=0")  # `tidy` makes checkpoints, so no commit waits for one
    ((version,),) = await db.execute_fetchall("PRAGMA user_version")
    if version > SCHEMA_VERSION:
        raise JournalError(
            f"the event log {name} was written by a newer version (format {version}, this one knows {SCHEMA_VERSION})"
        )
    if size < _QUICK_CHECK_LIMIT:
        ((verdict,),) = await db.execute_fetchall("PRAGMA quick_check(1)")
        if verdict != "ok":
            raise Damaged(str(verdict))
    if version < SCHEMA_VERSION:
        for statement in _SCHEMA.split(";"):
            await db.execute_fetchall(statement)
        await db.execute_fetchall("INSERT OR IGNORE INTO made (id, mark) VALUES (1, ?)", (secrets.token_hex(4),))
        await db.execute_fetchall(f"PRAGMA user_version={SCHEMA_VERSION}")


async def recover(db: aiosqlite.Connection) -> Found:
    """Reads the stretches that an earlier process left running, or only in batches."""
    found: dict[int, Stretch] = {}
    for row in await db.execute_fetchall(f"SELECT {COLUMNS} FROM stretches WHERE ended IS NULL"):
        stretch = stretch_of(row)
        found[stretch.number] = stretch
    ended = await db.execute_fetchall("SELECT number, key FROM stretches WHERE ended IS NOT NULL")
    saved = {number for number, _ in ended}
    erased = {number for number, key in ended if key == erased_key(number)}
    last_batch = wipe_to = 0
    async with db.execute("SELECT number, body FROM batches ORDER BY number") as rows:
        async for number, data in rows:
            last_batch = number
            for record in _decode(data):
                if record[0] not in saved:
                    replay(found, record, number)
                elif record[0] in erased:
                    wipe_to = number
    if wipe_to:
        await db.execute_fetchall("PRAGMA secure_delete=ON")
    highest = max(max(saved, default=0), max(found, default=0))
    ((made,),) = await db.execute_fetchall("SELECT mark FROM made")
    owner = ("", 0)
    if await db.execute_fetchall("SELECT 1 FROM sqlite_master WHERE name = 'owner'"):
        ((name, saves),) = await db.execute_fetchall("SELECT name, saves FROM owner")
        owner = name, saves
    running = [found[number] for number in sorted(found)]
    return Found(Recovered(running, highest + 1, made, last_batch, wipe_to), owner)


def erased_key(number: int) -> str:
    """The key of the empty stretch that an erased one leaves behind."""
    return f"erased {number}"


def stretch_of(row: Any) -> Stretch:
    """A saved stretch. Raises one of `DAMAGED`."""
    number, key, epochs, first, turn, mark, ended, state, body = row
    stretch = Stretch(number, key, epochs, first, turn, state, mark)
    unpack(stretch, body)
    stretch.ended = ended
    return stretch
