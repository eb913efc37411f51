"""Large files on their way to Coze: what they cost a real process in memory, whole or given up half way."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from tests.leaks.test_unread import resident, until_held
from tests.processes import GatewayProcess

Start = Callable[..., Awaitable[GatewayProcess]]
MIB = 1024 * 1024
FILE = 100 * 1000 * 1000
ALLOWED = 4 * MIB


@pytest.fixture
async def gateway(start_gateway: Start) -> AsyncIterator[GatewayProcess]:
    """A gateway that takes files of any size that Coze takes, before a simulated Coze in another process."""
    coze = await GatewayProcess.start("simulate", "--port", "0")
    try:
        yield await start_gateway(
            COZE_API_TOKEN="pat", COZE_API_BASE=await coze.ready(), GATEWAY_MAX_UPLOAD_BYTES=str(512 * MIB)
        )
    finally:
        await coze.kill()


def highest(pid: int) -> int:
    """The most memory that a process has ever had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


async def file(size: int) -> AsyncIterator[bytes]:
    for at in range(0, size, 50_000):
        yield bytes(min(50_000, size - at))


NATIVE, DOOR = "/api/coze/files", "/v1/files/upload"
ways = pytest.mark.parametrize("path", [NATIVE, DOOR])


async def upload(
    session: aiohttp.ClientSession, url: str, content: AsyncIterator[bytes], path: str
) -> dict[str, object]:
    form = aiohttp.FormData()
    form.add_field("file", content, filename="film.mp4", content_type="video/mp4")
    async with session.post(f"{url}{path}", data=form, headers={"Authorization": "Bearer pat"}) as response:
        answer: dict[str, object] = await response.json()
        assert response.status == 200, answer
        found = answer if path == NATIVE else answer["data"]
        assert isinstance(found, dict)
        return found


@ways
async def test_a_hundred_megabytes_pass_through_four(gateway: GatewayProcess, path: str) -> None:
    async with aiohttp.ClientSession() as session:
        before = resident(gateway.pid)
        answer = await upload(session, gateway.url, file(FILE), path)
        grown = highest(gateway.pid) - before
    assert answer["bytes"] == FILE
    assert grown <= ALLOWED, f"{grown / MIB:.1f} MiB"


@ways
async def test_a_hundred_megabytes_that_are_given_up_half_way_leave_nothing(gateway: GatewayProcess, path: str) -> None:
    half = asyncio.Event()

    async def until_half() -> AsyncIterator[bytes]:
        async for piece in file(FILE // 2):
            yield piece
        half.set()
        await asyncio.Event().wait()

    async with aiohttp.ClientSession() as session:
        before = resident(gateway.pid)
        giving_up = asyncio.create_task(upload(session, gateway.url, until_half(), path))
        await half.wait()
        await until_held(session, gateway, 1, "upstream")
        giving_up.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await giving_up
        await until_held(session, gateway, 0, "upstream")
        grown = highest(gateway.pid) - before
        assert grown <= ALLOWED, f"{grown / MIB:.1f} MiB"
        assert (await upload(session, gateway.url, file(MIB), path))["bytes"] == MIB
