"""Turns of which Coze keeps no record: told so once, and honest when they break."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from gateway.simulator import Simulator, start_simulator
from tests.processes import GatewayProcess
from tests.transports.conftest import Serve, Served
from tests.transports.readers import sse_events

UNRECORDED: dict[str, Any] = {"autoSaveHistory": False}


@pytest.fixture
async def coze() -> AsyncIterator[Simulator]:
    simulator = await start_simulator(first_ms=5, rate=300)
    yield simulator
    await simulator.close()


@pytest.fixture
async def served(serve: Serve, coze: Simulator) -> Served:
    return await serve(coze_api_token="pat", coze_api_base=coze.url)


async def test_it_is_told_once_before_the_first_text(served: Served, coze: Simulator) -> None:
    events = await served.ask("/fault plain pieces:20 -- 你好", **UNRECORDED)
    notices = [event for event in events if event["event"] == "notice"]
    assert [(event["code"], event["id"]) for event in notices] == [("unrecoverable", events[1]["id"])]
    assert events[-1]["event"] == "completed"
    assert events[-1]["content"]
    again = await served.ask("/fault plain pieces:3 -- 你好", conversationId=events[0]["conversationId"])
    assert "notice" not in {event["event"] for event in again}
    assert coze.requests == {"chat": 2}


@pytest.mark.parametrize("fault", ["drop-after:5", "eof-after:5", "cut-record-after:5", "no-completed", "done-early"])
async def test_an_answer_that_breaks_fails_and_no_record_is_asked_for(
    served: Served, coze: Simulator, fault: str
) -> None:
    events = await served.ask(f"/fault plain pieces:20 {fault} -- 你好", **UNRECORDED)
    assert [event["code"] for event in events if event["event"] == "notice"] == ["unrecoverable"]
    last = events[-1]
    assert (last["event"], last["code"], last["retryable"]) == ("error", "upstream_failed", True)
    assert last["content"] == "".join(event["content"] for event in events if event["event"] == "message")
    assert coze.requests == {"chat": 1}


async def test_a_message_that_coze_did_not_take_is_still_sent_again(served: Served, coze: Simulator) -> None:
    events = await served.ask("/fault status:503 times:1 plain pieces:3 -- 你好", **UNRECORDED)
    assert [event["code"] for event in events if event["event"] == "notice"] == ["unrecoverable", "retrying"]
    assert events[-1]["event"] == "completed"
    assert coze.requests == {"chat": 2}


async def test_a_bot_that_asks_for_tool_outputs_ends_the_turn_since_coze_takes_none(
    served: Served, coze: Simulator
) -> None:
    events = await served.ask("/fault action pieces:5 -- 你好", **UNRECORDED)
    assert "action_required" not in {event["event"] for event in events}
    assert (events[-1]["event"], events[-1]["code"]) == ("error", "upstream_rejected")
    assert coze.requests["submit_tool_outputs"] == coze.requests["retrieve"] == 0


async def test_a_crash_ends_it_with_an_error_and_no_record_is_asked_for(
    start_gateway: Callable[..., Awaitable[GatewayProcess]], coze: Simulator
) -> None:
    swift = {"COZE_API_TOKEN": "pat", "COZE_API_BASE": coze.url}
    first = await start_gateway(**swift)
    body = {"userId": "u", "botId": "b", "message": "/fault plain pieces:2000 rate:50 -- long", **UNRECORDED}
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{first.url}/api/coze/chat/stream", json=body) as response:
            turn = response.headers["X-Turn-Id"]
            async for event in sse_events(response):
                if event["event"] == "message":
                    break
            await first.kill()
        second = await start_gateway(**swift)
        async with asyncio.timeout(10), session.get(f"{second.url}/api/coze/turns/{turn}/events") as response:
            events = [event async for event in sse_events(response)]
    assert (events[-1]["event"], events[-1]["code"]) == ("error", "upstream_failed")
    assert [event["code"] for event in events if event["event"] == "notice"] == ["unrecoverable"]
    assert coze.requests == {"chat": 1}
