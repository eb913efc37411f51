"""The shared socket: many topics over one connection, commands and their answers."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.transports.conftest import Serve, Served
from tests.transports.raw import PING, PONG, TEXT, RawSocket, frame
from tests.transports.readers import LAST


class Shared:
    """A client of the shared socket that sorts what comes."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.topics: dict[str, list[dict[str, Any]]] = {}
        self.answers: list[dict[str, Any]] = []

    async def say(self, **command: Any) -> None:
        await self.socket.send_json(command)

    async def hear(self) -> dict[str, Any]:
        message: dict[str, Any] = await self.socket.receive_json(timeout=5)
        if "events" in message:
            assert message.keys() == {"topic", "events"}
            self.topics.setdefault(message["topic"], []).extend(message["events"])
        else:
            self.answers.append(message)
        return message

    async def ask(self, **command: Any) -> dict[str, Any]:
        """Sends a command; its answer."""
        known = len(self.answers)
        await self.say(**command)
        while len(self.answers) == known:
            await self.hear()
        return self.answers[known]

    async def until_last(self, topic: str) -> list[dict[str, Any]]:
        while not self.topics.get(topic) or self.topics[topic][-1]["event"] not in LAST:
            await self.hear()
        return self.topics[topic]


@contextlib.asynccontextmanager
async def opened(served: Served) -> AsyncIterator[Shared]:
    async with served.session.ws_connect(f"{served.url}/api/coze/ws", compress=0) as socket:
        yield Shared(socket)


@pytest.fixture
async def shared(served: Served) -> AsyncIterator[Shared]:
    async with opened(served) as shared:
        yield shared


def message(text: str, **fields: Any) -> dict[str, Any]:
    return {"type": "chat", "userId": "u", "botId": "b", "message": text, **fields}


async def test_chat_subscribes_to_its_turn_whose_topic_drops_itself(served: Served, shared: Shared) -> None:
    ack = await shared.ask(**message("/fault plain pieces:20 rate:100 -- hi", requestId="r1"))
    topic = f"turns/{ack['turnId']}"
    assert ack == {"type": "ack", "requestId": "r1", "topic": topic, "conversationId": ack["conversationId"],
                   "turnId": ack["turnId"]}  # fmt: skip
    events = await shared.until_last(topic)
    assert events[0]["event"] == "started"
    assert "".join(e["content"] for e in events if e["event"] == "message") == events[-1]["content"]
    assert await shared.ask(type="ping") == {"type": "pong"}
    assert served.services.ledger.count("subscription") == 0


async def test_a_turn_and_its_conversation_over_one_socket_with_positions(served: Served, shared: Shared) -> None:
    ack = await shared.ask(**message("/fault plain pieces:20 rate:100 -- one"))
    conversation = f"conversations/{ack['conversationId']}"
    assert (await shared.ask(type="subscribe", topic=conversation, requestId=7)) == {
        "type": "ack", "topic": conversation, "requestId": 7
    }  # fmt: skip
    mine = await shared.until_last(f"turns/{ack['turnId']}")
    theirs = await shared.until_last(conversation)
    assert mine[-1] == theirs[-1]
    await shared.ask(type="unsubscribe", topic=conversation)
    seen = len(shared.topics[conversation])
    second = await shared.ask(**message("/fault plain pieces:5 rate:0 -- two", conversationId=ack["conversationId"]))
    await shared.until_last(f"turns/{second['turnId']}")
    assert len(shared.topics[conversation]) == seen
    await shared.ask(type="subscribe", topic=conversation, after=theirs[-1]["id"])
    del shared.topics[conversation][:]
    again = await shared.until_last(conversation)
    assert (again[0]["event"], again[0]["turnId"]) == ("started", second["turnId"])


async def test_what_is_wrong_is_a_problem_and_the_socket_goes_on(served: Served, shared: Shared) -> None:
    nobody = "turns/turn_00000000-0000-4000-8000-000000000000"
    wrong: list[tuple[Any, str]] = [
        ({"type": "subscribe"}, "invalid_request"),
        ({"type": "subscribe", "topic": 5}, "invalid_request"),
        ({"type": "subscribe", "topic": "x"}, "not_found"),
        ({"type": "subscribe", "topic": nobody}, "not_found"),
        ({"type": "subscribe", "topic": nobody, "after": 5}, "invalid_request"),
        ({"type": "subscribe", "topic": nobody, "more": 5}, "invalid_request"),
        ({"type": "chat"}, "invalid_request"),
        ({"type": "chat", "userId": "u", "botId": "b", "message": "m", "more": 1}, "invalid_request"),
        ({"type": "chat", "userId": "u", "botId": "b", "message": "m", "idempotencyKey": "a b"}, "invalid_request"),
        ({"type": "cancel"}, "invalid_request"),
        ({"type": "cancel", "turnId": nobody[6:]}, "not_found"),
        ({"type": "dance"}, "invalid_request"),
        ({}, "invalid_request"),
        ({"type": None}, "invalid_request"),
        ({"type": ["ping"]}, "invalid_request"),
        ([], "invalid_request"),
        ("ping", "invalid_request"),
        (None, "invalid_request"),
    ]
    for number, (command, code) in enumerate(wrong):
        if isinstance(command, dict):
            command["requestId"] = number
        await shared.socket.send_str(json.dumps(command))
        answer = await shared.hear()
        assert (answer["type"], answer["code"]) == ("problem", code), command
        assert answer.get("requestId") == (number if isinstance(command, dict) else None)
        assert answer["status"] in (400, 404, 422)
    for text in ("", "{", "NaN", '{"type":"ping"}}', "[" * 10_000, '{"a":1e999}'):
        await shared.socket.send_str(text)
        assert (await shared.hear())["type"] == "problem"
    assert await shared.ask(type="ping", requestId="still here") == {"type": "pong", "requestId": "still here"}


async def test_cancel_over_the_socket_ends_the_turn_for_everybody(served: Served, shared: Shared) -> None:
    ack = await shared.ask(**message("/fault plain pieces:4000 rate:50 -- long"))
    topic = f"turns/{ack['turnId']}"
    while not shared.topics.get(topic):
        await shared.hear()
    answer = await shared.ask(type="cancel", turnId=ack["turnId"], requestId=1)
    assert answer == {"type": "ack", "turnId": ack["turnId"], "requestId": 1}
    assert (await shared.until_last(topic))[-1]["event"] == "cancelled"


async def test_one_key_starts_one_turn_also_over_other_sockets(served: Served) -> None:
    async def ask() -> str:
        async with opened(served) as shared:
            ack = await shared.ask(**message("/fault plain pieces:5 -- once", idempotencyKey="k"))
            events = await shared.until_last(f"turns/{ack['turnId']}")
            assert events[0]["event"] == "started"
            return str(ack["turnId"])

    assert len(set(await asyncio.gather(*(ask() for _ in range(10))))) == 1
    async with opened(served) as shared:
        problem = await shared.ask(**message("another", idempotencyKey="k"))
        assert (problem["type"], problem["status"], problem["code"]) == ("problem", 422, "invalid_request")
        assert "idempotencyKey: was used" in problem["detail"]


async def test_a_busy_conversation_and_a_queue_over_the_socket(served: Served, shared: Shared) -> None:
    ack = await shared.ask(**message("/fault plain pieces:40 rate:100 -- long"))
    same = {"conversationId": ack["conversationId"]}
    assert (await shared.ask(**message("x", **same)))["code"] == "conversation_busy"
    queued = await shared.ask(**message("/fault plain pieces:3 rate:0 -- q", onBusy="queue", **same))
    events = await shared.until_last(f"turns/{queued['turnId']}")
    assert events[0] == {"event": "notice", "code": "queued"}
    assert events[-1]["event"] == "completed"


async def test_commands_are_done_in_order_however_many_come_at_once(served: Served) -> None:
    raw = await RawSocket.open(served.url, "/api/coze/ws")
    for number in range(300):
        raw.send(TEXT, json.dumps({"type": "ping", "requestId": number}).encode())
    await raw.writer.drain()
    for number in range(300):
        assert json.loads((await raw.receive()).payload) == {"type": "pong", "requestId": number}
    await raw.hang_up()


@pytest.mark.parametrize("opcode", [TEXT, PING, PONG])
async def test_a_socket_that_floods_is_closed(served: Served, opcode: int) -> None:
    raw = await RawSocket.open(served.url, "/api/coze/ws")
    raw.writer.write(frame(opcode, b"1") * 20_000)
    await raw.at_end()
    status, _, _ = await served.get("/healthz")
    assert status == 200
    await raw.hang_up()


MANY_SMALL = json.dumps({"type": "ping", "requestId": "r" * 250}).ljust(800)
"""So few of these fit in one read that it is no flood."""
_UNKNOWN = {f"{number:0>128}": number for number in range(20)}
ONE_A_READ = json.dumps({"type": "unsubscribe", "topic": "shops/1"} | _UNKNOWN).ljust(300_000)
"""Larger than a read, and refused with 20 sentences."""


@pytest.mark.parametrize("command", [MANY_SMALL, ONE_A_READ], ids=["small ones", "large ones"])
async def test_a_client_that_reads_no_answers_is_not_read_until_it_does(serve: Serve, command: str) -> None:
    served = await serve(max_body_bytes=1_000_000)
    raw = await RawSocket.open(served.url, "/api/coze/ws", buffer=65536)
    asking, sent = frame(TEXT, command.encode()), 0
    with contextlib.suppress(TimeoutError):
        while sent < 60_000:
            raw.writer.write(asking)
            sent += 1
            await asyncio.wait_for(raw.writer.drain(), 0.5)
    assert 100 < sent < 60_000
    answers = 0
    async with asyncio.timeout(20):
        while answers < sent:
            answers += (await raw.receive()).opcode == TEXT
    await raw.hang_up()


async def test_topics_are_bounded(served: Served, shared: Shared) -> None:
    for number in range(200):
        assert (await shared.ask(type="subscribe", topic=f"shops/{number}"))["type"] == "ack"
    assert (await shared.ask(type="subscribe", topic="shops/one-more"))["code"] == "too_many_connections"
    assert (await shared.ask(type="subscribe", topic="shops/7"))["type"] == "ack"
    await shared.ask(type="unsubscribe", topic="shops/8")
    assert (await shared.ask(type="subscribe", topic="shops/one-more"))["type"] == "ack"


async def test_a_message_that_is_too_big_closes_with_1009(serve: Serve) -> None:
    served = await serve(max_body_bytes=10_000)
    raw = await RawSocket.open(served.url, "/api/coze/ws")
    raw.send(TEXT, b'"' + b"x" * 20_000 + b'"')
    assert await raw.closed() == 1009
    await raw.hang_up()


async def test_a_socket_that_leaves_with_commands_waiting_leaves_nothing_behind(served: Served) -> None:
    for _ in range(20):
        raw = await RawSocket.open(served.url, "/api/coze/ws")
        for number in range(30):
            raw.send(TEXT, json.dumps({"type": "subscribe", "topic": f"shops/{number}"}).encode())
        raw.send(TEXT, json.dumps(message("/fault plain pieces:3 rate:0 -- gone")).encode())
        await raw.writer.drain()
        raw.writer.transport.abort()
        await raw.hang_up()
    await served.balanced()
