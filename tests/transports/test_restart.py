"""After a restart: positions, keys and notifications are what they were."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from tests.processes import GatewayProcess

Start = Callable[..., Awaitable[GatewayProcess]]
SWIFT = {"GATEWAY_SIMULATOR_FIRST_MS": "10", "GATEWAY_SIMULATOR_RATE": "200"}


async def events(session: aiohttp.ClientSession, url: str, path: str, count: int = 10_000) -> list[dict[str, Any]]:
    found = []
    async with asyncio.timeout(10), session.get(f"{url}{path}") as response:
        async for line in response.content:
            if line.startswith(b"data: "):
                found.append(json.loads(line[6:]))
                if len(found) == count:
                    break
    return found


async def test_every_position_a_key_and_a_shops_log_are_good_after_a_restart(start_gateway: Start) -> None:
    body = {"userId": "u", "botId": "b", "message": "/fault plain pieces:30 -- keep", "shopId": "s"}
    headers = {"Idempotency-Key": "once"}
    first = await start_gateway(**SWIFT)
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{first.url}/api/coze/chat", json=body, headers=headers) as response:
            turn = (await response.json())["turnId"]
        path = f"/api/coze/turns/{turn}/events"
        before = await events(session, first.url, path)
        shop = await events(session, first.url, "/api/coze/shops/s/events?after=0", 2)
    assert await first.terminate() == 0
    second = await start_gateway(**SWIFT)
    async with aiohttp.ClientSession() as session:
        assert await events(session, second.url, path) == before
        for position in before[:-1]:
            rest = await events(session, second.url, f"{path}?after={position['id']}")
            assert rest == [event for event in before if _number(event) > _number(position)]
        assert await events(session, second.url, f"/api/coze/shops/s/events?after={shop[0]['id']}", 1) == shop[1:]
        async with session.post(f"{second.url}/api/coze/chat", json=body, headers=headers) as response:
            assert (await response.json())["turnId"] == turn
        async with session.post(
            f"{second.url}/api/coze/chat", json=body | {"message": "another"}, headers=headers
        ) as response:
            assert response.status == 422
        await events(session, second.url, path)
    assert await second.terminate() == 0


async def test_a_shop_is_told_once_that_a_turn_began_whose_gateway_was_killed(start_gateway: Start) -> None:
    body = {"userId": "u", "botId": "b", "message": "/fault plain pieces:60 rate:40 -- on", "shopId": "s"}
    gateway = await start_gateway(**SWIFT)
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{gateway.url}/api/coze/chat/stream", json=body) as response:
            while b'"message"' not in await response.content.readline():
                pass
            turn = response.headers["X-Turn-Id"]
            await gateway.kill()
        gateway = await start_gateway(**SWIFT)
        assert (await events(session, gateway.url, f"/api/coze/turns/{turn}/events"))[-1]["event"] == "completed"
        told = await events(session, gateway.url, "/api/coze/shops/s/events?after=0", 2)
    assert [(event["type"], event["turnId"]) for event in told] == [("turn.started", turn), ("turn.completed", turn)]


async def test_a_queued_turn_waits_over_a_restart_and_runs(start_gateway: Start) -> None:
    first = await start_gateway(**SWIFT)
    async with aiohttp.ClientSession() as session:

        async def begin(message: str, **fields: str) -> dict[str, Any]:
            body = {"userId": "u", "botId": "b", "message": message, **fields}
            async with session.post(f"{first.url}/api/coze/chat", json=body, headers={"Prefer": "wait=0"}) as response:
                answer: dict[str, Any] = await response.json()
                return answer

        running = await begin("/fault plain pieces:300 rate:100 -- long")
        queued = await begin("/fault plain pieces:3 -- q", conversationId=running["conversationId"], onBusy="queue")
        assert queued["status"] == "queued"
        path = f"/api/coze/turns/{running['turnId']}/events"
        await events(session, first.url, path, 2)  # its text has begun: Coze has accepted it
    await first.kill()
    second = await start_gateway(**SWIFT)
    async with aiohttp.ClientSession() as session:
        for turn in (running["turnId"], queued["turnId"]):
            found = await events(session, second.url, f"/api/coze/turns/{turn}/events")
            assert found[-1]["event"] == "completed"
            assert "".join(e["content"] for e in found if e["event"] == "message") == found[-1]["content"]


def _number(event: dict[str, Any]) -> int:
    return int(event["id"].rpartition("-")[2])
