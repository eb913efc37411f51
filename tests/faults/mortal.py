"""A gateway that is killed and started again on the same data, and readers and askers who outlive it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from tests.faults.coze import SWIFT
from tests.faults.reading import GONE, Reader, Refused
from tests.folders import prepared
from tests.processes import GatewayProcess


class Mortal:
    """`url` is that of the process that runs now. `births` holds the seconds until each start was ready, which means
    something if the starts are `cold`: with all imports."""

    def __init__(self, data: Path, coze: str, environment: dict[str, str], *, cold: bool = False) -> None:
        self._begin = GatewayProcess.start if cold else GatewayProcess.hatch
        self._settings = SWIFT | {"GATEWAY_DATA_DIR": str(data), "COZE_API_BASE": coze} | environment
        self._process: GatewayProcess | None = None
        self.births: list[float] = []
        self.lives: list[GatewayProcess] = []

    @property
    def process(self) -> GatewayProcess:
        assert self._process is not None
        return self._process

    @property
    def url(self) -> str:
        return self.process.url or "http://127.0.0.1:9"

    async def start(self) -> None:
        began = time.monotonic()
        self._process = await self._begin("serve", "--port", "0", environment=self._settings)
        self.lives.append(self._process)
        await self._process.ready()
        self.births.append(time.monotonic() - began)

    async def kill(self) -> None:
        assert await self.process.kill() in (-9, 0)

    async def again(self) -> None:
        await self.kill()
        await self.start()

    def logged(self) -> str:
        return "\n".join(line for life in self.lives for line in life.text)


@asynccontextmanager
async def mortal(folder: Path, coze: str, *, cold: bool = False, **environment: str) -> AsyncIterator[Mortal]:
    gateway = Mortal(prepared(folder / "data"), coze, environment, cold=cold)
    try:
        await gateway.start()
        yield gateway
    finally:
        for life in gateway.lives:
            await life.kill()


async def ask_until_heard(
    reader: Reader, session: aiohttp.ClientSession, gateway: Mortal, message: str, *, key: str
) -> None:
    """Asks as a careful client does: with the same key until there is an answer, and then onwards from its position."""
    while not reader.turn_id:
        try:
            await reader.ask(session, gateway.url, message, key=key)
        except GONE:
            await asyncio.sleep(0.05)  # as a client that comes back does
        except Refused as refusal:
            if refusal.status != 503:
                raise
            await asyncio.sleep(0.05)  # as a client that comes back does
    await reader.finish(session, lambda: gateway.url)
