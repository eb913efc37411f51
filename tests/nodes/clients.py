"""Clients behind a balancer: they come back when they are told to, and write down whatever they should not see."""

import asyncio
import contextlib
import json
import random
from collections.abc import Iterator

import aiohttp

from tests.transports.book import Reader
from tests.transports.readers import Record, records

RETRY = 0.3
"""Seconds. What a client waits that was cut, or whose transport has no way to advise it."""


class Client:
    """Reads one turn to its end through an address. `troubles` are errors, cuts and refusals that it met, all of
    which it survives; `told` counts how often a node told it to come back."""

    def __init__(self, session: aiohttp.ClientSession, url: str, reader: Reader, turn: str = "") -> None:
        self._session = session
        self.url = url
        self.reader = reader
        self.turn = turn
        self.told = 0
        self.troubles: list[str] = []

    async def ask(self, body: dict[str, str], key: str = "") -> None:
        """Asks the question, and reads the answer to its end."""
        headers = {"Idempotency-Key": key} if key else {}
        while not self.turn:
            with self._noting("ask"):
                url = f"{self.url}/api/coze/chat/stream"
                async with self._session.post(url, json=body, headers=headers) as response:
                    if await self._refused(response):
                        continue
                    self.turn = response.headers["X-Turn-Id"]
                    await self._stream(response)
        await self.listen("sse")

    async def listen(self, transport: str) -> None:
        """Reads on from its position until it has the last event."""
        listen = {"sse": self._sse, "websocket": self._websocket, "longpoll": self._longpoll}[transport]
        while self.reader.last is None:
            with self._noting(transport):
                await listen(f"{self.url}/api/coze/turns/{self.turn}")

    @contextlib.contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        try:
            yield
        except (aiohttp.ClientError, ConnectionError) as error:
            self.troubles.append(f"{what}: {error!r}")

    @property
    def _after(self) -> dict[str, str]:
        return {} if self.reader.position is None else {"after": self.reader.position}

    async def _refused(self, response: aiohttp.ClientResponse) -> bool:
        if response.status == 200:
            return False
        self.troubles.append(f"{response.method} {response.url.path}: {response.status} {await response.text()}")
        await asyncio.sleep(float(response.headers.get("Retry-After", RETRY)))  # as it is told
        return True

    async def _sse(self, url: str) -> None:
        async with self._session.get(f"{url}/events", params=self._after) as response:
            if not await self._refused(response):
                await self._stream(response)

    async def _stream(self, response: aiohttp.ClientResponse) -> None:
        last = Record(())
        async for record in records(response.content):
            last = record
            if (data := record.get("data")) is not None:
                self.reader.take(json.loads(data))
        if self.reader.last is None:
            await self._come_back(last.get("retry"), "a stream was cut")

    async def _websocket(self, url: str) -> None:
        async with self._session.ws_connect(f"{url}/ws", params=self._after) as socket:
            async for message in socket:
                self.reader.take(message.json())
        if self.reader.last is None:
            advised = str(RETRY * 1000) if socket.close_code in (1012, 1013) else None
            await self._come_back(advised, f"a socket was closed with {socket.close_code}")

    async def _come_back(self, advised: str | None, otherwise: str) -> None:
        if advised is None:
            self.troubles.append(otherwise)
        self.told += advised is not None
        seconds = RETRY if advised is None else float(advised) / 1000
        await asyncio.sleep(seconds * random.uniform(1, 1.1))  # as it is told

    async def _longpoll(self, url: str) -> None:
        async with self._session.get(f"{url}/poll", params=self._after | {"wait": "5"}) as response:
            if await self._refused(response):
                return
            answer = await response.json()
        for event in answer["events"]:
            self.reader.take(event)
