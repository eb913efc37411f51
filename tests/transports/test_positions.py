"""Positions: whatever is asked for, the answer is exact or a reset, quickly, and never somebody else's."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from tests.transports.conftest import Serve, Served
from tests.transports.readers import LISTENING, Door, Event, everything, first, longpoll, sse
from tests.waiting import until

GARBAGE = (
    "garbage",
    "-1",
    "1",
    "00",
    "0-0",
    "null",
    "-",
    "a-",
    "a-01",
    "a-1_000",
    "a-+1",
    "a-１２",
    "a-9999999999999999999999",
    "A-1",
    "../../etc/passwd",
    "' OR 1=1 --",
    "x" * 65,
    "x" * 4000,
    "😀",
    "a-1\u2028",
    "%00",
    "ÿþ",
)


@pytest.fixture
async def running(served: Served) -> AsyncIterator[Door]:
    """A turn that runs while the test does, with some text already."""
    door = await served.start("/fault plain pieces:4000 rate:100 -- running")
    await first(sse, door, None, 10)
    yield door
    await served.post(f"/api/coze/{door.topic}/cancel")


async def finished(served: Served, **fields: str) -> list[Event]:
    return await served.ask("/fault plain pieces:20 rate:0 -- finished", **fields)


async def listen(served: Served, topic: str, way: str, position: str) -> tuple[list[Event], float]:
    """The first event, or two where the turn is over, and the seconds until the first bytes came."""
    headers = {"Last-Event-ID": position} if way == "header" else {}
    query = f"?{way}={quote(position, safe='')}" if way != "header" else ""
    began = time.perf_counter()
    url = f"{served.url}/api/coze/{topic}/events{query}"
    async with asyncio.timeout(5), served.session.get(url, headers=headers) as response:
        assert response.status == 200, (position, response.status)
        events: list[dict[str, Any]] = []
        async for line in response.content:
            if line.startswith(b"data: "):
                if not events:
                    took = time.perf_counter() - began
                events.append(json.loads(line[6:]))
                if len(events) == 2:
                    break
        return events, took


async def soon(took: float, served: Served, topic: str, way: str, garbage: str) -> bool:
    """Whether an answer came in time; a late one is asked for again, for the machine may have been busy elsewhere."""
    return took < 0.15 or (await listen(served, topic, way, garbage))[1] < 0.15


@pytest.mark.parametrize("way", ["header", "lastEventId", "after"])
async def test_garbage_is_a_reset_that_tells_the_whole_text_so_far(served: Served, running: Door, way: str) -> None:
    over = await finished(served)
    turn, conversation = over[0]["turnId"], over[0]["conversationId"]
    for garbage in GARBAGE:
        if way == "header" and not garbage.isascii():
            continue  # header fields are bytes; below
        events, took = await listen(served, running.topic, way, garbage)
        assert (events[0]["event"], events[0]["reason"], events[0]["status"]) == ("reset", "unknown", "running"), (
            garbage
        )
        assert await soon(took, served, running.topic, way, garbage)
        assert events[0]["content"]
        events, took = await listen(served, f"turns/{turn}", way, garbage)
        assert (events[0]["reason"], events[0]["turnId"], events[0]["status"]) == ("unknown", turn, "completed")
        assert events[0]["content"] == over[-1]["content"]
        assert events[1] == over[-1]
        assert await soon(took, served, f"turns/{turn}", way, garbage)
        events, took = await listen(served, f"conversations/{conversation}", way, garbage)
        assert (events[0]["reason"], events[0]["turnId"], events[0]["content"]) == (
            "unknown",
            turn,
            over[-1]["content"],
        )


async def test_garbage_is_answered_in_at_most_fifty_milliseconds(served: Served, running: Door) -> None:
    over = await finished(served)
    took = []
    for topic in (running.topic, f"turns/{over[0]['turnId']}"):
        took += [(await listen(served, topic, "after", garbage))[1] for garbage in GARBAGE]
    assert sorted(took)[len(took) // 2] < 0.05


async def test_header_bytes_that_are_no_text_are_a_reset_too(served: Served, running: Door) -> None:
    for raw in (b"\xff\xfe", b"\xc3\x28", "日本".encode(), b"a-1\t", b"\x01"):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(served.url.rpartition(":")[2]))
        head = f"GET /api/coze/{running.topic}/events HTTP/1.1\r\nHost: 127.0.0.1\r\nLast-Event-ID: "
        writer.write(head.encode() + raw + b"\r\n\r\n")
        try:
            async with asyncio.timeout(5):
                status = await reader.readline()
                if raw == b"\x01":
                    assert b" 400 " in status  # HTTP's own parser refuses control characters
                else:
                    assert b" 200 " in status
                    await reader.readuntil(b'"event":"reset"')
        finally:
            writer.close()
            await writer.wait_closed()


async def test_an_empty_position_is_none(served: Served, running: Door) -> None:
    for query in ("?lastEventId=", "?after=", "?lastEventId=&after="):
        async with served.session.get(f"{served.url}/api/coze/{running.topic}/events{query}") as response:
            assert b'"event":"started"' in await response.content.readuntil(b"\n\n") + await response.content.readuntil(
                b"\n\n"
            )


async def test_the_header_goes_before_the_query_and_last_event_id_before_after(served: Served) -> None:
    over = await finished(served)
    topic = f"turns/{over[0]['turnId']}"
    url = f"{served.url}/api/coze/{topic}/events?lastEventId={over[2]['id']}&after=garbage"
    async with served.session.get(url) as response:
        assert b"reset" not in await response.read()
    async with served.session.get(url, headers={"Last-Event-ID": over[-1]["id"]}) as response:
        assert response.status == 204


async def test_another_conversations_position_gives_a_reset_and_nothing_of_that_conversation(served: Served) -> None:
    secret = await served.ask("/fault echo pieces:5 rate:0 the other one's secret", userId="other")
    mine = await served.ask("/fault echo pieces:5 rate:0 mine alone", userId="me")
    for read in (sse, longpoll, LISTENING["websocket"], LISTENING["shared"]):
        for event in secret:
            for topic in (f"turns/{mine[0]['turnId']}", f"conversations/{mine[0]['conversationId']}"):
                (got,) = await first(read, served.door(topic), event["id"])
                assert (got["event"], got["reason"]) == ("reset", "unknown")
                assert got["turnId"] == mine[0]["turnId"]
                assert "secret" not in json.dumps(got)


async def test_a_position_ahead_of_the_log_is_a_reset(served: Served, running: Door) -> None:
    (begun,) = await first(sse, running, None)
    epoch = begun["id"].rpartition("-")[0]
    for read in LISTENING.values():
        if read is LISTENING["ndjson"]:
            continue
        (got,) = await first(read, running, f"{epoch}-999999")
        assert (got["event"], got["reason"]) == ("reset", "ahead")
    (got,) = await first(sse, running, f"{epoch[:8]}zzzzzzzz-5")  # an older log of the same conversation
    assert (got["event"], got["reason"]) == ("reset", "expired")


async def test_after_a_reset_the_turn_goes_on_exactly_from_its_position(served: Served) -> None:
    door = await served.start("/fault plain pieces:60 rate:100 -- go on")
    await first(sse, door, None, 10)
    for read in (sse, longpoll, LISTENING["websocket"], LISTENING["shared"]):
        reset, *rest = await everything(read, door, "garbage")
        assert reset["event"] == "reset"
        text = reset["content"] + "".join(e["content"] for e in rest if e["event"] == "message")
        assert text == rest[-1]["content"]
        again = await everything(read, door, reset["id"])
        assert "".join(e["content"] for e in again if e["event"] == "message") == text[len(reset["content"]) :]


async def test_zero_is_the_oldest_kept_and_none_the_running_turns_beginning_or_now(served: Served) -> None:
    before = await finished(served)
    conversation = before[0]["conversationId"]
    door = served.door(f"conversations/{conversation}")
    for read in (sse, longpoll, LISTENING["websocket"], LISTENING["shared"]):
        (oldest,) = await first(read, door, "0")
        assert (oldest["event"], oldest["turnId"]) == ("started", before[0]["turnId"])
        (oldest,) = await first(read, served.door(f"turns/{before[0]['turnId']}"), "0")
        assert oldest["event"] == "started"
    status, _, answer = await served.get(f"/api/coze/conversations/{conversation}/poll?wait=0")
    assert (status, answer["events"], answer["ended"]) == (200, [], False)
    running = await served.start("/fault plain pieces:4000 rate:50 -- now", conversationId=conversation)
    for read in (sse, longpoll, LISTENING["websocket"], LISTENING["shared"]):
        (newest,) = await first(read, door, None)
        assert (newest["event"], newest["turnId"]) == ("started", running.topic.removeprefix("turns/"))
    await served.post(f"/api/coze/{running.topic}/cancel")


async def test_a_finished_turn_with_nothing_left_is_204_and_has_ended_everywhere(served: Served) -> None:
    over = await finished(served)
    door = served.door(f"turns/{over[0]['turnId']}")
    url = f"{served.url}/api/coze/{door.topic}"
    async with served.session.get(f"{url}/events", headers={"Last-Event-ID": over[-1]["id"]}) as response:
        assert (response.status, await response.read()) == (204, b"")
    _, _, answer = await served.get(f"/api/coze/{door.topic}/poll?after={over[-1]['id']}")
    assert answer == {"events": [], "next": over[-1]["id"], "ended": True}
    assert await everything(LISTENING["websocket"], door, over[-1]["id"]) == []
    assert await everything(sse, door, over[-2]["id"]) == [over[-1]]


async def test_a_turns_listener_with_a_position_of_an_earlier_turn_begins_at_the_turns_beginning(
    served: Served,
) -> None:
    earlier = await finished(served)
    later = await finished(served, conversationId=earlier[0]["conversationId"])
    door = served.door(f"turns/{later[0]['turnId']}")
    for read in (sse, longpoll, LISTENING["websocket"], LISTENING["shared"]):
        for event in (earlier[0], earlier[-2], earlier[-1]):
            (begun, *_) = await everything(read, door, event["id"])
            assert begun == later[0]


async def test_what_retention_took_is_a_reset_followed_by_the_last_event(serve: Serve) -> None:
    served = await serve(retention_seconds=1)
    over = await finished(served)
    conversation = over[0]["conversationId"]
    turn = served.door(f"turns/{over[0]['turnId']}")
    await until(lambda: served.forgot(over[0]["turnId"]), within=8)
    for read in (sse, longpoll, LISTENING["websocket"], LISTENING["shared"]):
        for asked in (None, "0", "garbage", over[3]["id"]):
            reset, last = await everything(read, turn, asked)
            reason = "unknown" if asked == "garbage" else "expired"
            assert (reset["event"], reset["reason"], reset["status"]) == ("reset", reason, "completed")
            assert reset["content"] == over[-1]["content"]
            assert last == over[-1] | {"id": last["id"]}
        assert await everything(read, turn, over[-1]["id"]) == [] if read is not LISTENING["shared"] else True
    (reset,) = await first(sse, served.door(f"conversations/{conversation}"), over[3]["id"])
    assert (reset["event"], reset["reason"], reset["turnId"]) == ("reset", "expired", over[0]["turnId"])
    assert (reset["status"], reset["content"]) == ("completed", over[-1]["content"])
    after = await finished(served, conversationId=conversation)
    assert not {event["id"] for event in after} & {event["id"] for event in over}
    (begun,) = await first(sse, served.door(f"conversations/{conversation}"), reset["id"])
    assert begun == after[0]


async def test_a_reset_on_a_turn_that_retention_took_can_be_cut_before_its_last_event(serve: Serve) -> None:
    served = await serve(retention_seconds=1)
    over = await finished(served)
    await until(lambda: served.forgot(over[0]["turnId"]), within=8)
    door = served.door(f"turns/{over[0]['turnId']}")
    (reset,) = await first(sse, door, None)
    assert (await everything(sse, door, reset["id"]))[-1]["event"] == "completed"


async def test_an_unknown_id_is_not_found_and_no_reset(served: Served) -> None:
    nobody = "00000000-0000-4000-8000-000000000000"
    for topic in (f"turns/turn_{nobody}", f"conversations/conv_{nobody}", "turns/x", "conversations/%00", "turns/%F0"):
        for way in ("events", "poll", "ws"):
            url = f"{served.url}/api/coze/{topic}/{way}"
            if way == "ws":
                with pytest.raises(aiohttp.WSServerHandshakeError, match="404"):
                    await served.session.ws_connect(url)
            else:
                async with served.session.get(url) as response:
                    assert (response.status, (await response.json())["code"]) == (404, "not_found")
