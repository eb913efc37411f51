"""The whole core inside the test, with the simulated Coze, so that any part of it can be cancelled anywhere."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from adapters.composition import gateway
from adapters.services import Services
from gateway.config.settings import Settings
from gateway.simulator import Simulator
from tests.faults.coze import simulated
from tests.folders import prepared
from tests.waiting import until

OpenCore = Callable[..., AbstractAsyncContextManager[Services]]


@pytest.fixture
async def coze() -> AsyncIterator[Simulator]:
    async with simulated(first_ms=5, rate=1000) as simulator:
        yield simulator


@pytest.fixture
def open_core(tmp_path: Path, coze: Simulator) -> OpenCore:
    @asynccontextmanager
    async def open_it(**settings: object) -> AsyncIterator[Services]:
        given = {
            "data_dir": prepared(tmp_path / "data"),
            "coze_api_token": "a-token-for-tests",
            "coze_api_base": coze.url,
            "upstream_idle_timeout": 1,
            "turns_per_minute": 1_000_000,
            "max_connections_per_user": 1000,
        }
        async with gateway(Settings(**(given | settings))) as services:  # type: ignore[arg-type]
            yield services

    return open_it


HELD = ("turn", "upstream", "subscription", "connection", "websocket")


async def balanced(services: Services, *kinds: str) -> None:
    """Waits until nothing of these kinds is held any more."""
    await until(lambda: not any(services.ledger.count(kind) for kind in kinds or HELD), within=5)
