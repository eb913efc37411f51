"""Storage: where the log and the database are kept, in PostgreSQL or in a data folder that one gateway holds."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.engine import URL

from gateway.config.settings import Settings
from gateway.errors import Code, GatewayError
from gateway.ids import new_token
from gateway.log.journal import Journal, JournalError
from gateway.log.log import EventLog
from gateway.log.memory import MemoryJournal
from gateway.log.sqlite import SqliteJournal
from gateway.log.stretch import Stretch
from gateway.store.database import open_database, revision
from gateway.telemetry.faults import Faults
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.node_metrics import NodeMetrics

if TYPE_CHECKING:
    from gateway.nodes.cluster import Cluster

logger = structlog.get_logger()


@contextlib.contextmanager
def held(settings: Settings) -> Iterator[None]:
    """Creates the data folder if needed, and locks it. Raises `storage_unavailable`, also if another gateway holds
    it."""
    folder = settings.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GatewayError(Code.STORAGE_UNAVAILABLE, f"the data folder {folder} can't be made: {error}") from error
    with contextlib.nullcontext() if settings.on_postgresql else locked(folder):
        # With PostgreSQL the folder holds nothing that only one gateway may write.
        _say_emptied(files(settings))
        yield


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes sure that no gateway keeps its data in the folder. Raises `storage_unavailable` if one does."""
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            message = f"another gateway is using the data folder {folder}: stop it, or set GATEWAY_DATA_DIR"
            raise GatewayError(Code.STORAGE_UNAVAILABLE, message) from error
        yield
    finally:
        os.close(handle)


def unused(settings: Settings) -> AbstractContextManager[None]:
    """Makes sure that no gateway uses the data folder while a command changes it. PostgreSQL may be in use."""
    return contextlib.nullcontext() if settings.on_postgresql else held(settings)


def files(settings: Settings) -> list[Path]:
    """The database files in the data folder."""
    kept = {
        "log.db": not _in_memory(settings) and not settings.on_postgresql,
        "gateway.db": settings.database_url is None,
    }
    return [settings.data_dir / name for name, here in kept.items() if here]


def journal(settings: Settings, ledger: Ledger) -> Journal:
    """The journal that keeps the event log."""
    if _in_memory(settings):
        return MemoryJournal()
    return SqliteJournal(settings.data_dir / "log.db", ledger=ledger)


def database(settings: Settings) -> str | URL:
    """Where the store's database is. The URL is built from parts, because a folder's name may hold any character."""
    if settings.database_url is not None:
        return settings.database_url
    return URL.create("sqlite+aiosqlite", database=str(settings.data_dir.absolute() / "gateway.db"))


async def migrated(settings: Settings) -> str:
    """Creates or migrates the database's tables. Returns their revision. Raises `storage_unavailable`."""
    engine = await open_database(database(settings))
    try:
        async with engine.connect() as connection:
            return str(await connection.run_sync(revision))
    finally:
        await engine.dispose()


async def cluster(
    settings: Settings, ledger: Ledger, faults: Faults, metrics: NodeMetrics, *, visits: bool = False
) -> "Cluster | None":
    """This node's part in the cluster, or None if the log is not in PostgreSQL: then its driver is not imported."""
    if settings.database_url is None:
        return None
    await migrated(settings)  # before anything else uses the tables
    from gateway.nodes.cluster import Cluster
    from gateway.turns.registering import TurnRegister

    name = settings.node_name or f"{socket.gethostname()}-{new_token()[:4]}"
    bus = None if visits else settings.bus_url
    return Cluster(
        settings.database_url,
        bus,
        name=name,
        ledger=ledger,
        faults=faults,
        metrics=metrics,
        register=TurnRegister(),
        visits=visits,
    )


async def opened(log: EventLog) -> list[Stretch]:
    """Opens the log. Returns the stretches that a former process left running."""
    try:
        return list(await log.open())
    except JournalError as error:
        raise GatewayError(Code.STORAGE_UNAVAILABLE, str(error)) from error


def _say_emptied(found: list[Path]) -> None:
    for file in found:
        if file.exists() and not file.stat().st_size:
            logger.error("storage.emptied", path=str(file), consequence="what the old file held is lost")


def _in_memory(settings: Settings) -> bool:
    return settings.bus_url is not None and settings.bus_url.startswith("memory:")
