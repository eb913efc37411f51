"""The line of the log that says how a turn ended, and why."""

from typing import Any

import pytest
from aiohttp import ClientSession

from gateway.turns.course import Course
from gateway.upstream.protocol import StreamEnd
from tests.processes import GatewayProcess
from tests.transports.conftest import Serve, Served
from tests.turns import COMPLETED, a, begun, d

ENDS = ("SSE stream ended", "Chat ended")


def ends(logs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in logs if line["event"] in ENDS]


async def test_a_turn_that_reached_nobody_says_where_why_and_how_often(
    serve: Serve, logs: list[dict[str, Any]]
) -> None:
    served = await serve(coze_api_base="http://127.0.0.1:9", coze_api_token="pat_hidden_one", upstream_retries=1)
    last = (await served.ask("secret words"))[-1]
    await served.balanced()
    (line,) = ends(logs)
    assert (line["log_level"], line["outcome"], line["code"]) == ("warning", "failed", "upstream_unavailable")
    assert line["turnId"] == last["turnId"]
    assert line["address"] == "http://127.0.0.1:9"
    assert line["reason"] == "Coze was not reached: ConnectionRefusedError (2 times)"
    assert (line["attempts"], line["recovered"]) == (2, False)
    assert "hidden" not in str(logs)
    assert "secret words" not in str(logs)


async def test_a_host_name_that_nobody_knows_is_told_in_words(serve: Serve, logs: list[dict[str, Any]]) -> None:
    served = await serve(coze_api_base="http://no-such-host.invalid", coze_api_token="pat_x", upstream_retries=0)
    await served.ask("hi")
    await served.balanced()
    (line,) = ends(logs)
    assert line["reason"] == "Coze was not reached: its host name was not found (gaierror)"


def test_what_the_gateway_gave_up_is_not_told_as_a_failure_of_cozes() -> None:
    turn = begun()
    turn.take([d("1", "the beginning")])
    turn.stream_ended(StreamEnd.BROKEN)
    assert turn.recovered(COMPLETED, [], final=True)
    course = Course()
    course.told(turn, "Coze's record says", COMPLETED.status)
    assert course.reason == "Coze's record of the finished chat lacks the end of an answer that had begun"


@pytest.mark.parametrize("way", ["stream", "list", "record"])
def test_more_than_a_turn_may_hold_is_told_as_that(way: str) -> None:
    turn = begun()
    if way == "stream":
        turn.take([d("1", "x" * 2**20) for _ in range(9)])
    else:
        turn.stream_ended(StreamEnd.BROKEN)
        if way == "list":
            turn.overfill()
        else:
            turn.recovered(COMPLETED, [a(str(n), "x" * 2**20) for n in range(9)])
    course = Course()
    course.told(turn, "Coze said")
    assert course.reason == "Coze sent more than a turn may hold"


async def test_while_coze_is_not_even_asked_the_line_still_says_why(serve: Serve, logs: list[dict[str, Any]]) -> None:
    served = await serve(coze_api_base="http://127.0.0.1:9", coze_api_token="pat_hidden_one", upstream_retries=0)
    for _ in range(7):
        await served.ask("hi")
    await served.balanced()
    reasons = [line["reason"] for line in ends(logs)]
    refused = "Coze was not reached: ConnectionRefusedError"
    assert f"Coze is not asked, because it failed too often. Its last failure: {refused}" in reasons
    assert all(refused in reason for reason in reasons)


@pytest.mark.parametrize("way", ["sse", "chat", "websocket"])
async def test_each_way_to_ask_has_its_own_two_lines(served: Served, logs: list[dict[str, Any]], way: str) -> None:
    message = "/fault plain pieces:3 rate:0 -- hi"
    body = {"userId": "u", "botId": "b", "message": message}
    match way:
        case "sse":
            await served.ask(message)
        case "chat":
            assert (await served.post("/api/coze/chat", body))[0] == 200
        case _:
            async with served.session.ws_connect(f"{served.url}/api/coze/ws") as socket:
                await socket.send_json({"type": "chat", **body})
                ack = await socket.receive_json()
                await served.ended(ack["turnId"])
    await served.balanced()
    begun = {"sse": "Starting SSE chat stream"}.get(way, "Starting chat")
    ended = {"sse": "SSE stream ended"}.get(way, "Chat ended")
    (start,) = [line for line in logs if line["event"].startswith("Starting ")]
    (end,) = ends(logs)
    assert (start["event"], end["event"], end["turnId"]) == (begun, ended, start["turnId"])
    assert (start["messageLength"], end["fullResponseLength"] > 0) == (len(message), True)


async def test_a_key_that_is_used_again_on_another_way_finds_its_turn(served: Served) -> None:
    door = await served.start("/fault plain pieces:3 rate:0 -- hi", key="the-key")
    async with served.stream("/fault plain pieces:3 rate:0 -- hi", {"Idempotency-Key": "the-key"}) as (response, _):
        assert f"turns/{response.headers['X-Turn-Id']}" == door.topic


async def test_a_cancel_that_coze_does_not_take_is_a_line(served: Served, logs: list[dict[str, Any]]) -> None:
    async with served.stream("/fault cancel-500:1 plain rate:20 -- hi") as (response, events):
        turn = response.headers["X-Turn-Id"]
        async for event in events:
            if event["event"] == "message":
                await served.post(f"/api/coze/turns/{turn}/cancel")
                break
    await served.balanced()
    (unheard,) = [line for line in logs if line["event"] == "turn.cancel_not_heard"]
    assert (unheard["turnId"], unheard["reason"]) == (turn, "Coze answered 500")
    (end,) = ends(logs)
    assert (end["outcome"], end["log_level"]) == ("cancelled", "info")
    assert "reason" not in end


async def test_a_turn_that_outlived_its_process_says_so(start_gateway: Any) -> None:
    first: GatewayProcess = await start_gateway(GATEWAY_SIMULATOR_RATE="20")
    body = {"userId": "u", "botId": "b", "message": "/fault plain pieces:30 -- hi"}
    async with ClientSession() as session, session.post(f"{first.url}/api/coze/chat/stream", json=body) as response:
        turn = response.headers["X-Turn-Id"]
        async for line in response.content:
            if b'"message"' in line:
                break
    await first.kill()
    second: GatewayProcess = await start_gateway()
    end = await second.logged("SSE stream ended")
    assert (end["turnId"], end["outcome"], end["recovered"]) == (turn, "completed", True)
    assert end["reason"].startswith("its process ended, or lost the log, in the middle of the turn")
