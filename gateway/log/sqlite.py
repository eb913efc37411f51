"""The embedded journal: one SQLite file, with one row per group commit."""

import asyncio
import json
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiosqlite
import msgspec

from gateway.log.journal import Broken, Fenced, Index, JournalError, Record, Recovered, indexes_of
from gateway.log.outline import checked
from gateway.log.packing import DAMAGED, pack
from gateway.log.sqlite_file import COLUMNS, Damaged, erased_key, is_damage, prepare, recover, set_aside, stretch_of
from gateway.log.sqlite_writing import CLAIM, NOBODY, OWNER, SAVE, SAVE_HEAD, consumed, many, transaction
from gateway.log.stretch import Stretch
from gateway.telemetry.ledger import Held, Ledger
from gateway.waiting import outlived

_BUSY_MS = 4000
_TRIM_AT_ONCE = 500
_MOST_HERE = 256 * 1024  # bytes: a larger batch is written in the writer's thread
_SLOW_SECONDS = 0.02  # after a commit that held the loop for longer, commits go to the writer's thread for a while
_SLOW_PAUSE = 10.0
_PAGE = 4096
_CLOCKS_DIFFER = 60.0  # seconds by which the clocks of two starts may differ
_LONG_WAL = 32 * 1024 * 1024

_COMMIT = (
    "INSERT INTO batches (number, body) SELECT ?, ? FROM owner WHERE name = ?"
    " ON CONFLICT (number) DO UPDATE SET number = excluded.number"
)

_INDEXES = (
    "SELECT h.key, h.epoch, h.head, s.first, s.last, s.number, s.turn FROM heads AS h"
    " LEFT JOIN stretches AS s ON s.key = h.key WHERE h.key IN (SELECT value FROM json_each(?)) ORDER BY s.first"
)

_encode = msgspec.msgpack.Encoder().encode


class SqliteJournal:
    """Batches are rows of one table, until everything in them is saved as whole stretches in another table.

    WAL with `synchronous=NORMAL`: a killed process loses nothing; a power failure may lose the last commits but never
    damages the file. One connection writes, another reads, each in a thread of its own. Small commits are done in the
    loop's thread as long as that is quick. A file that is no database, or is damaged, is set aside when it is opened.

    The file belongs to one process at a time. A process claims it with its first write, if nobody has written since it
    read the file. Every write checks the owner, so that a process that was paused while another took the file over
    writes nothing more.
    """

    shared = False

    def __init__(self, path: Path, *, ledger: Ledger) -> None:
        self._path = path.absolute()  # SQLite takes a path that begins with `file:` for a URI
        self._ledger = ledger
        self._writer: aiosqlite.Connection | None = None
        self._reader: aiosqlite.Connection | None = None
        self._here: sqlite3.Connection | None = None
        self._clock = time.monotonic
        self._not_here_before = 0.0
        self._last_batch = 0
        self._name = secrets.token_hex(8)  # this process's name as the file's owner
        self._found = ("", 0)  # the owner when the file was read, and how often stretches had been saved in it
        self._claimed = False
        self._wipe_to = 0  # the last batch that may hold erased records; 0: none does
        self._held: list[Held] = []
        self._closing: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()

    async def open(self) -> Recovered:
        try:
            return await self._open()
        except Damaged as damage:
            await self.close()
            set_aside(self._path, str(damage))
            try:
                return await self._open()
            except Damaged as again:
                raise JournalError(f"the event log {self._path.name} can't be made anew: {again}") from again

    async def _open(self) -> Recovered:
        try:
            self._writer = await self._connect()
            await prepare(self._writer, self._path.name, self._path.stat().st_size)
            self._reader = await self._connect()
            self._here = sqlite3.connect(self._path, timeout=0, isolation_level=None)
            self._here.execute("PRAGMA synchronous=NORMAL")
            self._here.execute("PRAGMA wal_autocheckpoint=0")
            recovered, self._found = await recover(self._writer)
            self._last_batch, self._wipe_to = recovered.last_batch, recovered.erased
            return recovered
        except (sqlite3.DatabaseError, *DAMAGED) as error:
            await self.close()
            if isinstance(error, sqlite3.OperationalError) and not is_damage(error):
                raise JournalError(f"the event log {self._path.name} can't be opened: {error}") from error
            raise Damaged(str(error)) from error
        except BaseException:
            await self.close()
            raise

    async def _connect(self) -> aiosqlite.Connection:
        connection = aiosqlite.connect(self._path, isolation_level=None, cached_statements=32)
        self._held.append(self._ledger.open("database"))
        await connection
        await connection.execute_fetchall(f"PRAGMA busy_timeout={_BUSY_MS}")
        return connection

    async def commit(self, number: int, batch: list[Record]) -> None:
        async with self._locked() as db:
            data = _encode(batch)
            if not self._claimed:
                async with self._owning(db):
                    pass
            if not self._commit_here(number, data):
                self._written((await db.execute(_COMMIT, (number, data, self._name))).rowcount)
            self._last_batch = number

    async def holds(self, number: int) -> bool:
        """False if another process wrote the batch with this number: sending our own again then raises `Fenced`."""
        sql = "SELECT 1 FROM batches, owner WHERE number = ? AND name = ?"
        return self._claimed and bool(await self._read(sql, number, self._name))

    def _commit_here(self, number: int, data: bytes) -> bool:
        """Commits in the loop's own thread. Returns False, without a commit, if that has to wait or would take long.

        A small append to the write-ahead log is only a copy into the system's cache, which costs a quarter of a hop to
        a thread and back. If somebody holds a lock, or the disk was slow lately, the writer's thread has to commit.
        """
        began = self._clock()
        if self._here is None or len(data) > _MOST_HERE or began < self._not_here_before:
            return False
        try:
            taken = self._here.execute(_COMMIT, (number, data, self._name)).rowcount  # RETURNING would double the cost
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                return False
            raise
        if (now := self._clock()) - began > _SLOW_SECONDS:
            self._not_here_before = now + _SLOW_PAUSE
        self._written(taken)
        return True

    def _written(self, rows: int | Iterable[Any]) -> None:
        """Raises `Fenced` if a write touched no rows: the file belongs to another process, and nothing was written."""
        if not rows:
            raise Fenced("another process has taken over the event log")

    async def save(self, stretches: list[Stretch]) -> None:
        async with self._locked() as db, self._owning(db):
            rows: list[Sequence[Any]] = []
            size = 0
            for s in stretches:
                body = pack(s)
                rows.append((s.number, s.key, s.epochs, s.first, s.last, s.turn, s.mark, s.ended, s.state, body))
                size += len(body)
                if size > _MOST_HERE or s is stretches[-1]:
                    del body
                    await many(db, SAVE, consumed(rows))
                    size = 0
            await many(db, SAVE_HEAD, [(s.key, s.epochs, s.last) for s in stretches])
            await db.execute_fetchall("UPDATE owner SET saves = saves + 1")

    async def forget(self, *, before: int) -> None:
        async with self._locked() as db:
            async with self._owning(db):
                await db.execute_fetchall("DELETE FROM batches WHERE number < ?", (before,))
            if self._wipe_to and before > self._wipe_to:
                await db.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
                await db.execute_fetchall("PRAGMA secure_delete=FAST")
                self._wipe_to = 0

    async def indexes(self, keys: Sequence[str]) -> dict[str, Index]:
        return indexes_of(await self._read(_INDEXES, json.dumps(list(keys))))

    async def find(self, turn: str) -> str | None:
        rows = await self._read("SELECT key FROM stretches WHERE turn = ? ORDER BY number DESC LIMIT 1", turn)
        return rows[0][0] if rows else None

    async def turns(self) -> list[str]:
        return [row[0] for row in await self._read("SELECT turn FROM stretches WHERE turn <> ? ORDER BY number", "")]

    async def marked(self, mark: str) -> tuple[str, bytes] | None:
        rows = await self._read(
            "SELECT turn, state FROM stretches WHERE mark = ? AND mark <> '' ORDER BY number DESC LIMIT 1", mark
        )
        return (rows[0][0], rows[0][1]) if rows else None

    async def load(self, number: int) -> Stretch | None:
        rows = await self._read(f"SELECT {COLUMNS} FROM stretches WHERE number = ?", number)
        try:
            return checked(stretch_of(rows[0])) if rows else None
        except DAMAGED as error:
            raise Broken(f"a stored answer is damaged: {error}") from error

    async def trim(self, *, before: float, now: float) -> list[str]:
        async with self._locked() as db, self._owning(db):
            await db.execute_fetchall("UPDATE stretches SET ended = ? WHERE ended > ?", (now, now + _CLOCKS_DIFFER))
            rows = await db.execute_fetchall(
                "DELETE FROM stretches WHERE number IN (SELECT number FROM stretches WHERE ended < ? LIMIT ?)"
                " RETURNING key",
                (before, _TRIM_AT_ONCE),
            )
            return [row[0] for row in rows]

    async def erase(self, keys: Sequence[str], unsaved: Sequence[int]) -> None:
        """Overwrites deleted data too, here and in the next `forget`. Each stretch leaves an empty one with its number
        until retention removes that, because records in batches are never replayed for a number that is saved. If this
        process is killed before it has dropped those batches, the next one knows them by the empty stretches."""
        now = time.time()
        async with self._locked() as db:
            await db.execute_fetchall("PRAGMA secure_delete=ON")
            self._wipe_to = self._last_batch
            async with self._owning(db):
                numbers = set(unsaved)
                for key in keys:
                    rows = await db.execute_fetchall("DELETE FROM stretches WHERE key = ? RETURNING number", (key,))
                    numbers.update(row[0] for row in rows)
                    await db.execute_fetchall("DELETE FROM heads WHERE key = ?", (key,))
                empty = [Stretch(number, erased_key(number), "", 1, "") for number in sorted(numbers)]
                await many(db, SAVE, [(s.number, s.key, "", 1, 0, "", "", now, b"", pack(s)) for s in empty])
            await db.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")

    async def tidy(self) -> None:
        """Moves the write-ahead log into the database, in the reader's thread, because a checkpoint waits for the disk.

        Under a steady load this never catches up with the writer. So when the write-ahead log is long, the writer moves
        the rest: by then only its last pages are left.
        """
        try:
            rows = list(await self._db(self._reader).execute_fetchall("PRAGMA wal_checkpoint(PASSIVE)"))
        except sqlite3.Error as error:
            raise JournalError(f"the event log can't be tidied: {error}") from error
        if rows and rows[0][1] * _PAGE > _LONG_WAL:
            async with self._locked() as db:
                await db.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")

    async def probe(self) -> None:
        async with self._locked() as db, self._owning(db):
            await db.execute_fetchall("INSERT OR REPLACE INTO probes (id, at) VALUES (1, ?)", (time.time(),))

    async def close(self) -> None:
        if self._here is not None:
            self._here.close()
            self._here = None
        connections = [c for c in (self._reader, self._writer) if c is not None]
        self._reader = self._writer = None
        if connections:
            self._closing = asyncio.create_task(self._close(connections))
        if self._closing is not None:
            await outlived(self._closing)  # even if cancelled: each connection has a thread, which must end

    async def _close(self, connections: list[aiosqlite.Connection]) -> None:
        for connection in connections:
            await connection.close()
        while self._held:
            self._held.pop().close()

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[aiosqlite.Connection]:
        """The writing connection, for one call at a time: a transaction takes several hops to the writer's thread."""
        async with self._writing:
            try:
                yield self._db(self._writer)
            except sqlite3.Error as error:
                raise JournalError(f"the event log can't be written: {error}") from error

    @asynccontextmanager
    async def _owning(self, db: aiosqlite.Connection) -> AsyncIterator[None]:
        """A transaction of the file's owner. Raises `Fenced` if another process owns the file."""
        async with transaction(db):
            if self._claimed:
                self._written(await db.execute_fetchall("SELECT name FROM owner WHERE name = ?", (self._name,)))
            else:
                await db.execute_fetchall(OWNER)
                await db.execute_fetchall(NOBODY)
                self._written(await db.execute_fetchall(CLAIM, (self._name, *self._found, self._last_batch)))
            yield
        self._claimed = True

    async def _read(self, sql: str, *parameters: str | int) -> list[Any]:
        try:
            return list(await self._db(self._reader).execute_fetchall(sql, parameters))
        except sqlite3.Error as error:
            raise JournalError(f"the event log can't be read: {error}") from error

    def _db(self, connection: aiosqlite.Connection | None) -> aiosqlite.Connection:
        if connection is None:
            raise JournalError("the event log is closed")
        return connection

    def __repr__(self) -> str:
        return f"SqliteJournal({self._path}, {'open' if self._writer else 'closed'})"
