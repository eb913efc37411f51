"""A log over each journal."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.telemetry.ledger import Ledger
from tests.contracts.journals import Bench


@pytest.fixture(params=["sqlite", "postgresql", "memory"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path, ledger: Ledger) -> AsyncIterator[Bench]:
    """A log over each kind of journal."""
    bench = Bench(request.param, tmp_path, ledger)
    if request.param == "postgresql":
        bench.url = await request.getfixturevalue("postgres").make()
    await bench.open()
    yield bench
    await bench.log.close()


@pytest.fixture(params=["sqlite", "postgresql"])
async def durable(request: pytest.FixtureRequest, tmp_path: Path, ledger: Ledger) -> AsyncIterator[Bench]:
    """A log over each journal that survives."""
    bench = Bench(request.param, tmp_path, ledger)
    if request.param == "postgresql":
        bench.url = await request.getfixturevalue("postgres").make()
    await bench.open()
    yield bench
    await bench.log.close()
