"""Storages: where a log is kept, and how a test changes it from outside."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from gateway.log import sqlite
from gateway.log.journal import Journal, Recovered
from gateway.log.memory import MemoryJournal
from gateway.log.sqlite import SqliteJournal
from gateway.telemetry.ledger import Ledger

if TYPE_CHECKING:
    import psycopg


class Storage(Protocol):
    """The storage of one log. Any number of journals can be opened on it, of which the newest may write."""

    @property
    def kind(self) -> str: ...

    @property
    def packing(self) -> ModuleType:
        """The module that packs the stretches which this kind of journal saves."""

    def set_aside(self) -> bool:
        """Whether a journal took its storage for damaged."""

    def journal(self, ledger: Ledger) -> Journal: ...

    async def kill(self, journal: Journal) -> None:
        """Ends the journal's connections, as the end of its process does."""

    def later(self, seconds: float) -> None:
        """Lets time go by for the storage's own clock, if it has one."""

    def batches(self) -> int: ...

    def saved(self) -> int:
        """Stretches that are saved and ended."""

    def mentions(self, word: bytes) -> bool:
        """Whether it holds a word anywhere."""

    def back_up(self, name: str) -> None:
        """Makes a backup while the log is written."""

    def restore(self, name: str) -> None:
        """Goes back to a backup, while no journal is open."""


class Memory:
    """Only memory: each journal is a new log."""

    kind = "memory"
    packing = sqlite  # saves nothing

    def set_aside(self) -> bool:
        return False

    def journal(self, ledger: Ledger) -> Journal:
        return MemoryJournal()

    async def kill(self, journal: Journal) -> None:
        await journal.close()

    def later(self, seconds: float) -> None:
        """The log's clock is the only one."""

    def batches(self) -> int:
        return 0

    def saved(self) -> int:
        return 0

    def mentions(self, word: bytes) -> bool:
        return False

    def back_up(self, name: str) -> None:
        raise AssertionError("memory has no backup")

    restore = back_up


class SqliteFile:
    """SQLite's file `log.db` in a folder."""

    kind = "sqlite"
    packing = sqlite

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "log.db"

    def set_aside(self) -> bool:
        return any(self.folder.glob("*.damaged-*"))

    def journal(self, ledger: Ledger) -> Journal:
        return SqliteJournal(self.file, ledger=ledger)

    async def kill(self, journal: Journal) -> None:
        await journal.close()

    def later(self, seconds: float) -> None:
        """The log's clock is the only one."""

    def batches(self) -> int:
        return self._count("batches")

    def saved(self) -> int:
        return self._count("stretches")

    def _count(self, table: str) -> int:
        with closing(sqlite3.connect(self.file)) as db:
            count: int = db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return count

    def mentions(self, word: bytes) -> bool:
        """Also looks where deleted rows were: their data must not be in the file any more."""
        return word in b"".join(file.read_bytes() for file in self.files())

    def back_up(self, name: str) -> None:
        """As `sqlite3 FILE .backup` does."""
        with (
            closing(sqlite3.connect(self.file)) as source,
            closing(sqlite3.connect(self.folder / f"{name}.backup")) as target,
        ):
            source.backup(target)

    def restore(self, name: str) -> None:
        for part in self.files():
            part.unlink()
        shutil.copy(self.folder / f"{name}.backup", self.file)

    def files(self) -> list[Path]:
        return list(self.folder.glob("log.db*"))


class PostgresDatabase:
    """A database with the log's tables. Its own clock decides how long stretches are kept."""

    kind = "postgresql"

    def __init__(self, url: str) -> None:
        from gateway.log import postgres, saving

        self.url = url
        self.packing = saving
        self._journal = postgres.PostgresJournal

    def set_aside(self) -> bool:
        return False

    def journal(self, ledger: Ledger) -> Journal:
        """A journal that waits for none: when it is opened, it takes the one before for dead."""
        journal = self._journal(self.url, ledger=ledger, lease=0.0)
        opened = journal.open

        async def open_alone() -> Recovered:
            recovered = await opened()
            await journal.licence.bury_the_dead()
            return recovered._replace(stretches=recovered.stretches + await journal.adopt())

        journal.open = open_alone  # type: ignore[method-assign]
        return journal

    async def kill(self, journal: Journal) -> None:
        """Cuts its connections, because closing the journal would give its licence back."""
        assert isinstance(journal, self._journal)
        await journal._writer.close()
        await journal._reader.close()

    def later(self, seconds: float) -> None:
        with self._connect() as db:
            db.execute("UPDATE log_stretches SET kept_at = kept_at - make_interval(secs => %s)", (seconds,))

    def batches(self) -> int:
        """Those that hold anything: the newest of a node stays, without its records."""
        return self._count(r"log_batches WHERE body <> '\x90'")

    def saved(self) -> int:
        return self._count("log_stretches WHERE kept")

    def _count(self, rows: str) -> int:
        with self._connect() as db:
            return int(_values(db, f"SELECT count(*) FROM {rows}")[0])

    def mentions(self, word: bytes) -> bool:
        """Looks only into rows, because PostgreSQL's vacuum frees those that were deleted."""
        with self._connect() as db:
            return any(
                word in str(row).encode() or any(word in value for value in row if isinstance(value, bytes))
                for table in self._tables(db)
                for row in db.execute(f"SELECT * FROM {table}".encode()).fetchall()
            )

    def back_up(self, name: str) -> None:
        with self._connect() as db:
            db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            db.execute(f"CREATE SCHEMA backup_{name}".encode())
            for table in self._tables(db):
                db.execute(f"CREATE TABLE backup_{name}.{table} AS TABLE public.{table}".encode())
            for sequence in self._sequences(db):
                db.execute(f"CREATE TABLE backup_{name}.{sequence} AS TABLE public.{sequence}".encode())

    def restore(self, name: str) -> None:
        with self._connect() as db:
            for table in self._tables(db):
                kept = f"backup_{name}.{table}"
                db.execute(f"TRUNCATE public.{table}".encode())
                db.execute(f"INSERT INTO public.{table} OVERRIDING SYSTEM VALUE SELECT * FROM {kept}".encode())
            for sequence in self._sequences(db):
                kept = f"backup_{name}.{sequence}"
                db.execute(f"SELECT setval('public.{sequence}', last_value, is_called) FROM {kept}".encode())

    def _tables(self, db: "psycopg.Connection[Any]") -> list[str]:
        sql = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename LIKE 'log!_%' ESCAPE '!'"
        return _values(db, sql)

    def _sequences(self, db: "psycopg.Connection[Any]") -> list[str]:
        sql = "SELECT sequencename FROM pg_sequences WHERE schemaname = 'public' AND sequencename LIKE 'log!_%'"
        return _values(db, f"{sql} ESCAPE '!'")

    def _connect(self) -> "psycopg.Connection[Any]":
        import psycopg

        return psycopg.connect(self.url)


def _values(db: "psycopg.Connection[Any]", sql: str) -> list[Any]:
    return [row[0] for row in db.execute(sql.encode()).fetchall()]
