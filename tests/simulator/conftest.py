"""Simulators on their own ports, and callers of them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from gateway.simulator import Simulator, start_simulator
from tests.simulator.caller import Caller

Start = Callable[..., Awaitable[Caller]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts a simulator, as fast as can be unless told otherwise; the caller of it. All are closed at the end."""
    simulators: list[Simulator] = []
    async with aiohttp.ClientSession() as session:

        async def begin(**options: Any) -> Caller:
            simulator = await start_simulator(**({"first_ms": 0, "rate": 0} | options))
            simulators.append(simulator)
            return Caller(simulator, session)

        yield begin
        for simulator in simulators:
            await simulator.close()


@pytest.fixture
async def caller(start: Start) -> Caller:
    return await start()
