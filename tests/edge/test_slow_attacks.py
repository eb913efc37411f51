"""slowhttptest's three attacks with 500 connections: a fresh turn works meanwhile.

`SLOW_SECONDS` is how long each one lasts (6; the promise is made with 60).
"""

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable

import aiohttp
import pytest

from tests.conftest import Require
from tests.processes import GatewayProcess

SECONDS = int(os.environ.get("SLOW_SECONDS", "6"))
ATTACKS = {
    "heads that drip": ["-H", "-i", "2", "-t", "GET", "-x", "24", "-u", "{url}/api/coze/config"],
    "bodies that drip": [
        "-B",
        "-i",
        "2",
        "-s",
        "8192",
        "-f",
        "application/json",
        "-x",
        "10",
        "-u",
        "{url}/api/coze/chat",
    ],
    "answers that nobody reads": [
        "-X",
        "-w",
        "1",
        "-y",
        "8",
        "-n",
        "2",
        "-z",
        "1",
        "-k",
        "5",
        "-u",
        "{url}/openapi.json",
    ],
}
BODY = {"userId": "u", "message": "hello", "botId": "b"}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
async def test_a_fresh_turn_works_meanwhile(
    start_gateway: Callable[..., Awaitable[GatewayProcess]], require: Require, attack: list[str]
) -> None:
    gateway = await start_gateway(GATEWAY_SIMULATOR_RATE="10000", GATEWAY_TURNS_PER_MINUTE="100000")
    command = [part.format(url=gateway.url) for part in attack]
    limits = ["-c", "500", "-r", "250", "-l", str(SECONDS), "-p", "3"]
    process = await asyncio.create_subprocess_exec(
        require("slowhttptest"), *limits, *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert process.stdout is not None
    printed = b""
    waits: list[float] = []
    turns = 0
    try:
        async with aiohttp.ClientSession() as session:

            async def use() -> None:
                nonlocal turns
                while True:
                    async with session.post(f"{gateway.url}/api/coze/chat/stream", json=BODY) as answer:
                        text = await answer.text()
                        assert '"event":"completed"' in text
                        turns += 1
                    began = time.perf_counter()
                    async with session.get(f"{gateway.url}/healthz") as answer:
                        assert answer.status == 200
                    waits.append(time.perf_counter() - began)

            using = asyncio.create_task(use())
            try:
                async with asyncio.timeout(SECONDS + 30):
                    printed = await process.stdout.read()
            finally:
                using.cancel()
                (outcome,) = await asyncio.gather(using, return_exceptions=True)
            assert isinstance(outcome, asyncio.CancelledError), outcome
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    plain = re.sub(rb"\x1b\[[0-9;]*m", b"", printed).decode()
    connected = [int(number) for number in re.findall(r"connected:\s+(\d+)", plain)]
    assert max(connected, default=0) > 200, plain[-1500:]  # the attack took place
    assert turns >= SECONDS / 3
    assert sorted(waits)[len(waits) * 9 // 10] < 0.5
