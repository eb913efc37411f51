"""A log over each journal."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.log import batches
from gateway.telemetry.ledger import Ledger
from tests.contracts.journals import Bench, Doubtful
from tests.contracts.storages import Memory, PostgresDatabase, SqliteFile, Storage


@pytest.fixture(params=["sqlite", "postgresql", "memory", "doubtful sqlite", "doubtful postgresql"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path, ledger: Ledger) -> AsyncIterator[Bench]:
    """A log over each kind of journal."""
    async with opened(request, tmp_path, ledger) as bench:
        yield bench


@pytest.fixture(params=["sqlite", "postgresql", "doubtful sqlite", "doubtful postgresql"])
async def durable(request: pytest.FixtureRequest, tmp_path: Path, ledger: Ledger) -> AsyncIterator[Bench]:
    """A log over each journal that survives."""
    async with opened(request, tmp_path, ledger) as bench:
        yield bench


@asynccontextmanager
async def opened(request: pytest.FixtureRequest, folder: Path, ledger: Ledger) -> AsyncIterator[Bench]:
    bench = Bench(await storage(request, folder), ledger)
    with pytest.MonkeyPatch.context() as quick:
        if request.param.startswith("doubtful"):
            bench.around = Doubtful
            quick.setattr(batches, "_ASK_AGAIN", 0.001)
        await bench.open()
        yield bench
        await bench.log.close()


async def storage(request: pytest.FixtureRequest, folder: Path) -> Storage:
    """Of the kind that is asked for. Without PostgreSQL the test is left out."""
    match request.param.removeprefix("doubtful "):
        case "sqlite":
            return SqliteFile(folder)
        case "postgresql":
            return PostgresDatabase(await request.getfixturevalue("postgres").make())
        case _:
            return Memory()
