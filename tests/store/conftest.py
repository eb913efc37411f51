"""A store on a real database. In the end it must have given back everything, including threads."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from gateway.store import Store
from gateway.telemetry.ledger import Ledger

OpenStore = Callable[[], Awaitable[Store]]


in_a_file = pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
"""For what is said of SQLite's own file."""


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """SQLite's file."""
    return tmp_path / "gateway.db"


@pytest.fixture
async def url(kind: str, path: Path, request: pytest.FixtureRequest) -> str:
    """A database with the newest tables, or where it will be. Without PostgreSQL the test is left out."""
    return f"sqlite:///{path}" if kind == "sqlite" else await request.getfixturevalue("postgres").make()


@pytest.fixture
async def empty(kind: str, path: Path, request: pytest.FixtureRequest) -> str:
    """A database without tables, or where it will be."""
    return f"sqlite:///{path}" if kind == "sqlite" else await request.getfixturevalue("postgres").make_empty()


@pytest.fixture
async def open_store(url: str, ledger: Ledger) -> AsyncIterator[OpenStore]:
    opened: list[Store] = []

    async def open_one() -> Store:
        store = await Store.open(url, ledger=ledger)
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
