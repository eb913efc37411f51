"""A gateway's process as tests hold it."""

import asyncio

import pytest

from tests.processes import GatewayProcess


async def test_who_gives_up_waiting_for_its_end_takes_it_from_nobody_else() -> None:
    process = await GatewayProcess.start("simulate", "--port", "0")
    try:
        others = asyncio.create_task(process.ended())
        with pytest.raises(TimeoutError):
            await process.ended(within=0)
        await process.ready()
    finally:
        status = await process.kill()
    assert status == await others == -9
