"""One reader per transport: an async generator of a topic's events after a position. `aclose` cuts it off."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

Event = dict[str, Any]

LAST = ("completed", "cancelled", "error")


@dataclass
class Door:
    """Where a topic is read: a gateway and, for a turn that was started with a key, how it was started."""

    session: aiohttp.ClientSession
    url: str
    topic: str = ""
    """`turns/ID`, `conversations/ID` or `shops/ID`."""
    body: dict[str, Any] = field(default_factory=dict)
    key: str = ""


Read = Callable[[Door, str | None], AsyncGenerator[Event, None]]


@dataclass(frozen=True)
class Record:
    """One record of an event stream, as its bytes have it."""

    fields: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.fields if key == name), None)


async def records(content: aiohttp.StreamReader) -> AsyncIterator[Record]:
    """The blocks of an event stream (WHATWG HTML, 9.2): comments have the name ""."""
    rest = b""
    while part := await content.readany():
        rest += part
        while (end := rest.find(b"\n\n")) >= 0:
            block, rest = rest[:end].decode(), rest[end + 2 :]
            lines = [line.partition(":") for line in block.split("\n")]
            yield Record(tuple((name, value.removeprefix(" ")) for name, _, value in lines))


async def sse_events(response: aiohttp.ClientResponse) -> AsyncGenerator[Event, None]:
    """The events of an open event stream. The `id:` line of each is checked against its JSON."""
    async for record in records(response.content):
        if (data := record.get("data")) is not None:
            event: Event = json.loads(data)
            assert event.get("id") == record.get("id"), record
            assert record.get("event") is None, record
            yield event


async def sse(door: Door, after: str | None) -> AsyncGenerator[Event, None]:
    headers = {"Last-Event-ID": after} if after is not None else {}
    async with door.session.get(f"{door.url}/api/coze/{door.topic}/events", headers=headers) as response:
        if response.status == 204:
            return
        assert response.status == 200, await response.text()
        async with contextlib.aclosing(sse_events(response)) as events:
            async for event in events:
                yield event


async def sse_post(door: Door, after: str | None) -> AsyncGenerator[Event, None]:
    """The turn's own request again, whose key leads to the turn that it started before."""
    headers = {"Idempotency-Key": door.key}
    if after is not None:
        headers["Last-Event-ID"] = after
    async with door.session.post(f"{door.url}/api/coze/chat/stream", json=door.body, headers=headers) as response:
        assert response.status == 200, await response.text()
        async with contextlib.aclosing(sse_events(response)) as events:
            async for event in events:
                yield event


async def websocket(door: Door, after: str | None) -> AsyncGenerator[Event, None]:
    query = {"after": after} if after is not None else {}
    async with door.session.ws_connect(f"{door.url}/api/coze/{door.topic}/ws", params=query, compress=0) as socket:
        async for message in socket:
            assert message.type is aiohttp.WSMsgType.TEXT, message
            yield message.json()
        assert socket.close_code == 1000, socket.close_code


async def shared(door: Door, after: str | None) -> AsyncGenerator[Event, None]:
    async with door.session.ws_connect(f"{door.url}/api/coze/ws", compress=0) as socket:
        command = {"type": "subscribe", "topic": door.topic, "requestId": 1}
        await socket.send_json(command if after is None else {**command, "after": after})
        ack = await socket.receive_json()
        assert ack == {"type": "ack", "topic": door.topic, "requestId": 1}, ack
        async for message in socket:
            said = message.json()
            assert said["topic"] == door.topic
            for event in said["events"]:
                yield event
                if door.topic.startswith("turns/") and event["event"] in LAST:
                    return


async def longpoll(door: Door, after: str | None) -> AsyncGenerator[Event, None]:
    while True:
        query = {"wait": "5"} | ({"after": after} if after is not None else {})
        async with door.session.get(f"{door.url}/api/coze/{door.topic}/poll", params=query) as response:
            assert response.status == 200, await response.text()
            assert response.headers["Cache-Control"] == "no-store"
            answer = await response.json()
        with_id = [event["id"] for event in answer["events"] if "id" in event]
        assert not with_id or with_id[-1] == answer["next"]
        after = answer["next"]
        for event in answer["events"]:
            yield event
        if answer["ended"]:
            return


async def ndjson(door: Door, after: str | None) -> AsyncGenerator[Event, None]:
    query = {"after": after} if after is not None else {}
    async with door.session.get(f"{door.url}/api/coze/{door.topic}/ndjson", params=query) as response:
        assert response.status == 200, await response.text()
        while line := await response.content.readline():
            if line.strip():
                yield json.loads(line)


TRANSPORTS: dict[str, Read] = {
    "sse": sse,
    "sse-post": sse_post,
    "websocket": websocket,
    "shared": shared,
    "longpoll": longpoll,
    "ndjson": ndjson,
}
LISTENING = {name: read for name, read in TRANSPORTS.items() if name != "sse-post"}
"""Those that listen to any topic."""


async def first(read: Read, door: Door, after: str | None, count: int = 1, *, within: float = 5.0) -> list[Event]:
    """The first `count` events, or fewer if the stream ends before; then hangs up."""
    found: list[Event] = []
    async with asyncio.timeout(within), contextlib.aclosing(read(door, after)) as events:
        async for event in events:
            found.append(event)
            if len(found) == count:
                break
    return found


async def everything(read: Read, door: Door, after: str | None = None, *, within: float = 10.0) -> list[Event]:
    return await first(read, door, after, 1_000_000, within=within)
