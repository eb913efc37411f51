"""A store on a real SQLite file, which must give back everything, threads too."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from gateway.store import Store
from gateway.telemetry.ledger import Ledger

OpenStore = Callable[[], Awaitable[Store]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


@pytest.fixture
async def open_store(path: Path, ledger: Ledger) -> AsyncIterator[OpenStore]:
    opened: list[Store] = []

    async def open_one() -> Store:
        store = await Store.open(f"sqlite:///{path}", ledger=ledger)
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        await store.close()
    await no_worker_threads()


@pytest.fixture
async def store(open_store: OpenStore) -> Store:
    return await open_store()


async def no_worker_threads() -> None:
    """Each open SQLite connection has a thread."""
    for thread in threading.enumerate():
        if "_connection_worker_thread" in thread.name:
            await asyncio.to_thread(thread.join, 5)
            assert not thread.is_alive(), "a connection was left open"
