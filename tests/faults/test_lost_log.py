"""A turn whose log is gone still ends: nobody waits for it for ever."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp

from tests.processes import GatewayProcess


async def test_a_turn_whose_log_was_removed_is_failed_by_the_next_start(
    start_gateway: Callable[..., Awaitable[GatewayProcess]], tmp_path: Path
) -> None:
    gateway = await start_gateway()
    body = {"userId": "u", "botId": "b", "message": "/fault rate:20 pieces:400 lost"}
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{gateway.url}/api/coze/chat", json=body, headers={"Prefer": "wait=1"}) as response:
            assert response.status == 202
            turn = (await response.json())["turnId"]
        await gateway.kill()
        for part in (tmp_path / "data").glob("log.db*"):
            part.unlink()
        gateway = await start_gateway()
        async with session.get(f"{gateway.url}/api/coze/turns/{turn}") as response:
            state = await response.json()
        assert (state["status"], state["error"]["code"]) == ("failed", "internal")
        async with session.get(f"{gateway.url}/api/coze/turns/{turn}/poll") as response:
            polled = await response.json()
    assert [event["event"] for event in polled["events"]] == ["reset", "error"]
    assert polled["ended"]


async def test_two_turns_of_a_conversation_that_were_lost_have_different_positions(
    start_gateway: Callable[..., Awaitable[GatewayProcess]], tmp_path: Path
) -> None:
    gateway = await start_gateway()
    turns = []
    async with aiohttp.ClientSession() as session:
        body = {"userId": "u", "botId": "b", "message": "/fault rate:20 pieces:400 lost", "onBusy": "queue"}
        for _ in range(2):
            prefer = {"Prefer": "wait=1"}
            async with session.post(f"{gateway.url}/api/coze/chat", json=body, headers=prefer) as response:
                assert response.status == 202
                answer = await response.json()
            turns.append(answer["turnId"])
            body["conversationId"] = answer["conversationId"]
        await gateway.kill()
        for part in (tmp_path / "data").glob("log.db*"):
            part.unlink()
        gateway = await start_gateway()
        ids: list[str] = []
        for turn in turns:
            path = f"{gateway.url}/api/coze/turns/{turn}/poll"
            after = {"after": ids[-1]} if ids else {}  # the position of the one before says nothing of this one
            async with session.get(path, params=after) as response:
                events = (await response.json())["events"]
            assert [(e["event"], e["turnId"]) for e in events] == [("reset", turn), ("error", turn)]
            ids += [e["id"] for e in events]
            async with session.get(path, params={"after": ids[-1]}) as response:
                polled = await response.json()
            assert (polled["events"], polled["ended"]) == ([], True)
        assert len(set(ids)) == len(ids)
