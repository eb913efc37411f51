"""Coze as these tests have it: the simulated one in the test's own process, so that it outlives gateways and counts."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from gateway.simulator import Simulator, start_simulator
from tests.folders import prepared
from tests.processes import GatewayProcess

SWIFT = {
    "COZE_API_TOKEN": "a-token-for-tests",
    "GATEWAY_UPSTREAM_IDLE_TIMEOUT": "1",
    "GATEWAY_UPSTREAM_CONNECT_TIMEOUT": "1",
    "GATEWAY_HEARTBEAT_INTERVAL": "0.5",
    "GATEWAY_TURNS_PER_MINUTE": "1000000",
    "GATEWAY_MAX_CONNECTIONS_PER_USER": "100000",
    "GATEWAY_DRAIN_SECONDS": "1",
    "GATEWAY_LOG_LEVEL": "info",
}
"""Settings with which faults show in a second or two."""

BASELINE_KINDS = ("connection", "websocket", "subscription", "turn", "upstream")
"""Kinds of the ledger that are at nothing when nothing is going on."""


def patience(seconds: float) -> float:
    """The limit for a figure: three times the figure, and more on a machine that is busy with other things."""
    return seconds * max(3.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@asynccontextmanager
async def gateway(folder: Path, coze: str, **environment: str) -> AsyncIterator[GatewayProcess]:
    """A gateway that asks the Coze at that address. Killed at the end, if it still runs."""
    data = prepared(folder / "data")
    settings = SWIFT | {"GATEWAY_DATA_DIR": str(data), "COZE_API_BASE": coze} | environment
    process = await GatewayProcess.hatch("serve", "--port", "0", environment=settings)
    try:
        await process.ready()
        yield process
    finally:
        await process.kill()


@asynccontextmanager
async def simulated(*, first_ms: int = 50, rate: float = 100) -> AsyncIterator[Simulator]:
    simulator = await start_simulator(first_ms=first_ms, rate=rate)
    try:
        yield simulator
    finally:
        await simulator.close()


async def ledger(session: aiohttp.ClientSession, url: str) -> dict[str, int]:
    """How many of each kind are open."""
    async with session.get(f"{url}/debug/ledger") as response:
        totals: dict[str, Any] = await response.json()
    for kind, account in totals.items():
        assert account["opened"] - account["closed"] == account["open"], kind
    return {kind: int(account["open"]) for kind, account in totals.items()}
