"""Readers over any transport, which check everything that they are given against each other."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import aiohttp

LAST = ("completed", "cancelled", "error")
TRANSPORTS = ("sse", "websocket", "longpoll")
GONE = (aiohttp.ClientError, ConnectionError, TimeoutError)

Event = dict[str, Any]


class Broken(AssertionError):
    """A promise of every turn was broken."""


class Book:
    """What all readers of one turn were given: the text at each position, which must be the same for all of them."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.last: Event | None = None

    def enter(self, position: str, text: str) -> None:
        if self.texts.setdefault(position, text) != text:
            raise Broken(f"at {position} one reader had {self.texts[position][-40:]!r}, another {text[-40:]!r}")

    def ends(self, last: Event, text: str) -> None:
        if self.last is not None and self.last != last:
            raise Broken(f"two last events: {self.last} and {last}")
        self.last = last
        if last["content"] != text:
            raise Broken(f"the pieces make {text[-60:]!r}, the last event says {last['content'][-60:]!r}")


class Reader:
    """One reader of one turn. It may hang up anywhere and go on later. Raises `Broken`."""

    def __init__(self, book: Book | None = None) -> None:
        self.book = book or Book()
        self.turn_id = ""
        self.conversation_id = ""
        self.position: str | None = None
        self.text = ""
        self.events: list[Event] = []
        self.times: list[float] = []
        self.resets = 0
        self.over = False
        self._news = asyncio.Event()

    async def until(self, condition: Callable[["Reader"], object], *, within: float = 10.0) -> None:
        """Waits until the events that it was given so far fulfil a condition."""
        async with asyncio.timeout(within):
            while not condition(self):
                self._news.clear()
                await self._news.wait()

    def take(self, event: Event) -> None:
        self._news.set()
        if self.over:
            raise Broken(f"{event['event']} after the last event")
        self.events.append(event)
        self.times.append(time.monotonic())
        match event["event"]:
            case "message" if event.get("replace"):
                self.text = event["content"]
            case "message" if "contentType" not in event:
                self.text += event["content"]
            case "reset":
                self.resets += 1
                self.text = event["content"]
            case "started":
                self.text = ""
            case name if name in LAST:
                self.over = True
        if "id" not in event:
            return
        if event["id"] == self.position and event["event"] != "reset":
            raise Broken(f"{self.position} was given twice")
        self.position = event["id"]
        self.book.enter(self.position, self.text)
        if self.over:
            self.book.ends(event, self.text)

    @property
    def last(self) -> Event:
        assert self.over, f"no last event in {[e['event'] for e in self.events]}"
        return self.events[-1]

    def named(self, name: str, code: str | None = None) -> list[Event]:
        return [e for e in self.events if e["event"] == name and (code is None or e.get("code") == code)]

    async def ask(self, session: aiohttp.ClientSession, url: str, message: str, **fields: Any) -> None:
        """Starts a turn and reads its stream until it ends."""
        async with aclosing(chat(session, url, message, reader=self, **fields)) as events:
            async for event in events:
                self.take(event)

    async def listen(
        self, session: aiohttp.ClientSession, url: str, transport: str = "sse", *, pieces: int | None = None
    ) -> None:
        """Continues at its position until the stream ends, or hangs up after so many events."""
        async with aclosing(topic(session, url, f"turns/{self.turn_id}", transport, after=self.position)) as events:
            async for event in events:
                self.take(event)
                if pieces is not None and (pieces := pieces - 1) <= 0:
                    return

    async def finish(
        self, session: aiohttp.ClientSession, url: Callable[[], str], *, transports: tuple[str, ...] = TRANSPORTS
    ) -> None:
        """Continues at its position through any number of connections, until it has the last event."""
        turn = 0
        while not self.over:
            try:
                await self.listen(session, url(), transports[turn % len(transports)])
            except GONE:
                pass
            turn += 1
            if not self.over:
                await asyncio.sleep(0.05)  # as a client that comes back does


def client(**options: Any) -> aiohttp.ClientSession:
    """A session without limits of its own."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
        read_bufsize=2**22,
        **options,
    )


async def chat(
    session: aiohttp.ClientSession,
    url: str,
    message: str,
    *,
    reader: Reader | None = None,
    key: str = "",
    **fields: Any,
) -> AsyncGenerator[Event, None]:
    """A new turn's events from its own stream."""
    body = {"userId": "u1", "botId": "b1", "message": message} | fields
    headers = {"Idempotency-Key": key} if key else {}
    async with session.post(f"{url}/api/coze/chat/stream", json=body, headers=headers) as response:
        if response.status != 200:
            raise Refused(response.status, await response.json(content_type=None))
        if reader is not None:
            reader.turn_id = response.headers["X-Turn-Id"]
            reader.conversation_id = response.headers["X-Conversation-Id"]
        async for event in records(response):
            yield event


class Refused(Exception):
    """A problem instead of a stream."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(f"{status} {problem}")
        self.status = status
        self.problem = problem

    @property
    def code(self) -> str:
        return str(self.problem.get("code"))


async def topic(
    session: aiohttp.ClientSession, url: str, name: str, transport: str, *, after: str | None
) -> AsyncGenerator[Event, None]:
    """A topic's events after a position, until the stream ends. 204 and an ended long-poll end it too."""
    base = f"{url}/api/coze/{name}"
    query = {} if after is None else {"after": after}
    if transport == "sse":
        async with session.get(f"{base}/events", params=query) as response:
            if response.status == 204:
                return
            if response.status != 200:
                raise Refused(response.status, await response.json(content_type=None))
            async for event in records(response):
                yield event
    elif transport == "websocket":
        async with session.ws_connect(f"{base}/ws", params=query, max_msg_size=0) as socket:
            async for message in socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    yield json.loads(message.data)
    else:
        ended = False
        while not ended:
            async with session.get(f"{base}/poll", params=query | {"wait": "10"}) as response:
                if response.status == 503:
                    return
                if response.status != 200:
                    raise Refused(response.status, await response.json(content_type=None))
                answer = await response.json()
            for event in answer["events"]:
                yield event
            query, ended = {"after": answer["next"]}, answer["ended"]


async def records(response: aiohttp.ClientResponse) -> AsyncGenerator[Event, None]:
    """An event stream's events. Comments and `retry` are passed over."""
    async for record in blocks(response):
        data = [line[6:] for line in record.split(b"\n") if line.startswith(b"data: ")]
        if data:
            event = json.loads(b"\n".join(data))
            ids = [line[4:].decode() for line in record.split(b"\n") if line.startswith(b"id: ")]
            if ids != ([event["id"]] if "id" in event else []):
                raise Broken(f"the stream's id {ids} is not the event's {event.get('id')}")
            yield event


async def blocks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The blocks between blank lines. A block that is cut off at the end is left out."""
    rest = b""
    async for data in response.content.iter_any():
        *whole, rest = (rest + data).split(b"\n\n")
        for block in whole:
            yield block
