"""A gateway with its door for Coze's clients, in front of a simulated Coze, and these clients."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.simulator import Simulator, start_simulator
from tests.doors.clients import cozepy
from tests.transports.conftest import Serve, Served, logs, serve

__all__ = ["logs", "serve"]

TOKEN = "pat_caller"


@dataclass
class Door:
    """The gateway, Coze behind it, and Coze's clients in front of it."""

    served: Served
    simulator: Simulator

    @property
    def url(self) -> str:
        return self.served.url


Open = Callable[..., Awaitable[Door]]


@pytest.fixture
async def simulators() -> AsyncIterator[list[Simulator]]:
    started: list[Simulator] = []
    yield started
    for simulator in started:
        await simulator.close()


@pytest.fixture
async def opened(simulators: list[Simulator], serve: Serve) -> Open:
    """`await opened(first_ms=0)`: a door, quick unless told otherwise. Other options are the gateway's settings."""

    async def begin(*, first_ms: int = 10, rate: float = 500, **settings: Any) -> Door:
        simulator = await start_simulator(first_ms=first_ms, rate=rate)
        simulators.append(simulator)
        chosen = {"coze_api_token": "pat_gateway", "coze_api_base": simulator.url} | settings
        return Door(await serve(**chosen), simulator)

    return begin


@pytest.fixture
async def door(opened: Open) -> Door:
    return await opened()


@pytest.fixture
def coze(door: Door) -> Iterator[cozepy.Coze]:
    with cozepy.SyncHTTPClient() as http:
        yield cozepy.Coze(cozepy.TokenAuth(TOKEN), door.url, http)
