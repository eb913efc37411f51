"""The database: opens it with the newest tables, or says in a sentence why that can't be done."""

import asyncio
from typing import Any

import msgspec
from sqlalchemy import Connection, event, inspect
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from gateway.errors import Code, GatewayError
from gateway.store import failures
from gateway.store.schema import REVISION

_LOOK_AGAIN = 0.05  # seconds
BUSY_SECONDS = 4.0
"""How long SQLite waits for a lock, and a caller for a connection. Below the five seconds that a close may take."""

CONNECTIONS = 4
"""One for the writer, the others for readers; each is a thread."""

CHECKED_BYTES = 16 * 1024 * 1024
"""A database up to this size is checked completely at the start; damage in a larger one is noticed when it is read."""

_MIGRATION_SECONDS = 60
"""How long a node waits for another one that migrates the same PostgreSQL database."""

_MIGRATING = 0x636F7A65  # the number of the lock, any that nobody else takes
_encode = msgspec.json.Encoder().encode


async def open_database(address: str | URL) -> AsyncEngine:
    """Connects and migrates. On failure nothing stays open; the caller closes with `dispose`."""
    url, where, way = _reached(address)
    engine = create_async_engine(
        url,
        pool_size=CONNECTIONS,
        max_overflow=0,
        pool_timeout=BUSY_SECONDS,
        json_serializer=lambda value: _encode(value).decode(),
        json_deserializer=msgspec.json.decode,
        hide_parameters=True,  # errors are logged; users' text must not be
        **way,
    )
    opened = False
    try:
        if engine.dialect.name == "sqlite":
            event.listen(engine.sync_engine, "connect", _tune)
        async with engine.connect() as connection:
            await _prepare(connection, where)
        opened = True
    except GatewayError:
        raise
    except Exception as error:
        detail = f"{failures.sentence(error)}: {where}"
        raise _unavailable(_damaged(detail) if failures.is_damage(error) else detail) from error
    finally:
        if not opened:
            await engine.dispose()
    return engine


def _reached(address: str | URL) -> tuple[URL, str, dict[str, Any]]:
    """The engine's URL, what an operator is told of it, and how the engine connects."""
    if isinstance(address, str) and is_postgresql(address):
        return URL.create("postgresql+psycopg"), *_reached_postgresql(address)
    try:
        url = make_url(address)
    except ArgumentError:
        raise _unavailable("the database's address is no URL like sqlite:///data/gateway.db") from None
    if (backend := url.get_backend_name()) != "sqlite":
        raise _unavailable(f"no database of the kind {backend!r}, only sqlite and postgresql")
    if url.database in {None, "", ":memory:"}:
        raise _unavailable("the SQLite database must be a file, like sqlite:///data/gateway.db")
    return url.set(drivername="sqlite+aiosqlite"), str(url.database), {"connect_args": {"timeout": BUSY_SECONDS}}


def is_postgresql(address: str) -> bool:
    return address.startswith(("postgresql://", "postgres://"))


def _reached_postgresql(address: str) -> tuple[str, dict[str, Any]]:
    """libpq reads the URL itself, since SQLAlchemy knows none with several hosts."""
    try:
        from psycopg import AsyncConnection, ProgrammingError

        from gateway.postgres.address import conninfo, without_password
    except ImportError as error:
        detail = "needs the package psycopg, which is not installed: pip install 'coze-stream-gateway[postgres]'"
        raise _unavailable(f"a PostgreSQL database {detail}") from error
    try:
        reached, where = conninfo(address), without_password(address)
    except ProgrammingError:
        raise _unavailable("the database's address is no URL like postgresql://user@host:5432/name") from None
    return where, {"async_creator": lambda: AsyncConnection.connect(reached)}


def _tune(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    # A power cut may lose the last commits, but the event log still has their content.
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA secure_delete=ON")  # deleted data leave no trace in unused pages
    cursor.close()


async def _write_ahead(connection: AsyncConnection) -> None:
    """Turns the write-ahead log on. SQLite does not wait for others that do the same at this moment."""
    loop = asyncio.get_running_loop()
    until = loop.time() + BUSY_SECONDS
    while True:
        try:
            await connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            return
        except OperationalError as error:
            if not failures.is_locked(error) or loop.time() > until:
                raise
            await asyncio.sleep(_LOOK_AGAIN)


async def _prepare(connection: AsyncConnection, where: str | None) -> None:
    if connection.dialect.name == "sqlite":
        await _write_ahead(connection)
        await _check(connection, where)
    if not suffices(await connection.run_sync(revision)):
        await connection.rollback()
        if connection.dialect.name == "sqlite":
            # Python's driver would commit each CREATE by itself: a kill in between would leave half of the tables.
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            # Of ten nodes one migrates, which may take longer than any other statement, and nine wait for it.
            await connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            await connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_MIGRATION_SECONDS}s'")
            await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATING})")
            await connection.exec_driver_sql("SET LOCAL lock_timeout = DEFAULT")
        if not suffices(await connection.run_sync(revision)):  # else another process has migrated meanwhile
            await connection.run_sync(_migrate, where)
        await connection.commit()


async def _check(connection: AsyncConnection, where: str | None) -> None:
    size = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
    if (await connection.exec_driver_sql(size)).scalar_one() > CHECKED_BYTES:
        return
    said = (await connection.exec_driver_sql("PRAGMA quick_check(1)")).scalar_one()
    if said != "ok":
        raise _unavailable(_damaged(f"the database is damaged ({' '.join(said.split())}): {where}"))


def revision(connection: Connection) -> str | None:
    """The newest migration that the database has seen; None before the first."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()


def suffices(found: str | None, ours: str = REVISION) -> bool:
    """Whether a gateway that knows the migrations up to `ours` works with the tables as they are.

    A newer migration's name says so: with `0007_from_0005` those work that know at least 0005.
    """
    if found is None or found == ours:
        return found is not None
    (number, _, oldest), mine = found.partition("_from_"), ours.partition("_from_")[0]
    return number > mine >= (oldest or number)


def _migrate(connection: Connection, where: str | None) -> None:
    """Imports Alembic only here: a current database, the usual case, starts without it."""
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", "gateway.store:migrations")
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if (found := revision(connection)) is not None and found not in known:
        raise _unavailable(
            f"the database was made by a newer version of the gateway (its revision is {found!r}, "
            f"this version knows up to {REVISION!r}): {where}; install that version, or bring back a backup"
        )
    command.upgrade(config, "head")


def _damaged(detail: str) -> str:
    return f"{detail}; restore a backup, or move the file away to start with an empty database"


def _unavailable(detail: str) -> GatewayError:
    return GatewayError(Code.STORAGE_UNAVAILABLE, detail)
