"""Every log line about a turn names the HTTP request that started it, also after a restart."""

from typing import Any

import pytest
from aiohttp import ClientSession

from gateway.log.segments import MESSAGE
from gateway.log.showing import Showing
from gateway.upstream.coze import CozeUpstream
from tests.processes import GatewayProcess
from tests.transports.conftest import Served

Line = dict[str, Any]


def about_turns(lines: list[Line]) -> list[Line]:
    """The lines about one turn. A fault's names the part that met it."""
    return [line for line in lines if "turnId" in line or line["event"].startswith("turn.") or "turn" in line]


async def test_each_line_of_a_turn_names_the_request_that_started_it(served: Served, logs: list[Line]) -> None:
    requests = {}
    ways = {
        "plain": "/fault plain pieces:3 rate:0 -- hi",
        "broken and recovered": "/fault drop-after:2 plain pieces:4 rate:0 retrieve-500:1 -- hi",
        "refused at first": "/fault status:503 times:1 plain pieces:2 rate:0 -- hi",
    }
    for message in ways.values():
        async with served.stream(message) as (response, events):
            requests[response.headers["X-Turn-Id"]] = response.headers["X-Request-Id"]
            assert [event async for event in events]
    async with served.stream("/fault cancel-500:1 plain rate:20 -- hi") as (response, events):
        turn = response.headers["X-Turn-Id"]
        requests[turn] = response.headers["X-Request-Id"]
        async for event in events:
            if event["event"] == "message":
                await served.post(f"/api/coze/turns/{turn}/cancel")
                break
    await served.balanced()
    lines = about_turns(logs)
    assert {line["turnId"]: line["requestId"] for line in lines} == requests
    assert all(line["requestId"] == requests[line["turnId"]] for line in lines)
    assert {line["event"] for line in lines} >= {
        "Starting SSE chat stream",
        "SSE stream ended",
        "turn.record_not_readable",
        "turn.cancel_not_heard",
    }


async def test_a_fault_that_a_turn_meets_names_its_request(
    served: Served, logs: list[Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where our own code fails at a turn: in its task, and where its events are to be shown."""

    async def buggy(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(CozeUpstream, "chat", buggy)
    async with served.stream("hi") as (response, events):
        assert [event async for event in events][-1]["code"] == "internal"
    monkeypatch.undo()
    await served.balanced()
    (fault,) = [line for line in logs if line["event"] == "gateway.fault"]
    assert (fault["turnId"], fault["requestId"]) == (response.headers["X-Turn-Id"], response.headers["X-Request-Id"])

    shown = Showing.show

    def broken(self: Showing, records: Any, batch: int) -> dict[int, Exception]:
        pieces = {number: RuntimeError() for number, kind, _, _ in records if kind == MESSAGE}
        return shown(self, [record for record in records if record[0] not in pieces], batch) | pieces

    logs.clear()
    monkeypatch.setattr(Showing, "show", broken)
    async with served.stream("/fault plain pieces:3 rate:50 -- hi") as (response, events):
        assert [event async for event in events][-1]["code"] == "internal"
    monkeypatch.undo()
    await served.balanced()
    faults = [line for line in logs if line["event"] == "gateway.fault"]
    assert faults
    for fault in faults:
        assert fault["requestId"] == response.headers["X-Request-Id"]


async def test_after_a_restart_the_lines_name_the_same_requests(start_gateway: Any) -> None:
    """Of a turn that ran, and of one that waited behind it."""
    first: GatewayProcess = await start_gateway(GATEWAY_SIMULATOR_RATE="20")
    requests = {}
    async with ClientSession() as session:
        body = {"userId": "u", "botId": "b", "message": "/fault plain pieces:30 -- hi"}
        async with session.post(f"{first.url}/api/coze/chat/stream", json=body) as response:
            while b'"message"' not in await response.content.readline():
                pass
            requests[response.headers["X-Turn-Id"]] = response.headers["X-Request-Id"]
            more = body | {
                "conversationId": response.headers["X-Conversation-Id"],
                "onBusy": "queue",
                "message": "/fault plain pieces:2 -- hi",
            }
            async with session.post(f"{first.url}/api/coze/chat/stream", json=more) as queued:
                requests[queued.headers["X-Turn-Id"]] = queued.headers["X-Request-Id"]
                await first.kill()
        second: GatewayProcess = await start_gateway(GATEWAY_SIMULATOR_RATE="200")
        for turn in requests:
            async with session.get(f"{second.url}/api/coze/turns/{turn}/events") as told:
                assert b'"completed"' in await told.read()
    assert await second.terminate() == 0
    lines = about_turns(second.lines)
    assert {(line["turnId"], line["requestId"]) for line in lines} == set(requests.items())
    assert {line["event"] for line in lines} == {"turn.taken_over", "SSE stream ended"}
