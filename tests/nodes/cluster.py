"""A cluster: gateway processes on one PostgreSQL database, which ask one Coze, and a client of all of them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from tests.databases import PostgresServer
from tests.faults.coze import SWIFT
from tests.faults.reading import client
from tests.processes import GatewayProcess
from tests.transports.book import Book, Reader
from tests.transports.readers import TRANSPORTS, Door, Event, everything
from tests.waiting import until


class Cluster:
    """`nodes` are the processes in the order of their start, including those that were killed."""

    def __init__(self, session: aiohttp.ClientSession, environment: dict[str, str]) -> None:
        self._environment = environment
        self.session = session
        self.nodes: list[GatewayProcess] = []
        self._earlier: list[GatewayProcess] = []

    async def again(self, node: int) -> None:
        """Starts a node that ended once more, at the same port."""
        port = str(urlsplit(self.url(node)).port)
        started = await GatewayProcess.hatch("serve", "--port", port, environment=self._environment)
        self._earlier.append(self.nodes[node])
        self.nodes[node] = started
        await started.ready(within=60)

    async def start(self, **environment: str) -> GatewayProcess:
        """Starts one more node, and waits until it listens."""
        node = await GatewayProcess.hatch("serve", "--port", "0", environment=self._environment | environment)
        self.nodes.append(node)
        await node.ready(within=60)
        return node

    @property
    def database(self) -> str:
        """Its URL."""
        return self._environment["GATEWAY_DATABASE_URL"]

    def url(self, node: int) -> str:
        return self.nodes[node].url

    def door(self, node: int, topic: str, **more: Any) -> Door:
        return Door(self.session, self.url(node), topic, **more)

    async def post(self, node: int, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        url = f"{self.url(node)}/api/coze/{path}"
        async with asyncio.timeout(15), self.session.post(url, json=body, headers=headers) as response:
            return response.status, await response.json(content_type=None)

    async def ask(self, node: int, message: str, *, key: str = "", **fields: Any) -> tuple[int, Any]:
        """Starts a turn without waiting for its end."""
        body = {"userId": "u", "botId": "b", "message": message, **fields}
        headers = {"Prefer": "wait=0"} | ({"Idempotency-Key": key} if key else {})
        return await self.post(node, "chat", body, **headers)

    async def begin(self, node: int, message: str, **fields: Any) -> tuple[str, str]:
        """Starts or queues a turn. Returns its id and its conversation's."""
        status, answer = await self.ask(node, message, **fields)
        assert status in (200, 202), answer
        return answer["turnId"], answer["conversationId"]

    async def state(self, node: int, turn: str) -> Any:
        async with asyncio.timeout(15), self.session.get(f"{self.url(node)}/api/coze/turns/{turn}") as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def stands(self, node: int, turn: str, *statuses: str, within: float = 10.0) -> Any:
        """Waits until a node gives a turn this status. Returns the turn's state there."""

        async def look() -> Any:
            state = await self.state(node, turn)
            return state if state["status"] in statuses else None

        return await until(look, within=within)

    async def speaks(self, node: int, turn: str) -> None:
        """Waits until a turn has text: Coze has accepted it, and whoever takes it over can finish it."""

        async def look() -> bool:
            return bool((await self.state(node, turn))["content"])

        await until(look)

    async def last(self, node: int, turn: str, *, within: float = 15.0) -> Event:
        """A turn's last event, as a listener gets it that reads the whole turn at a node."""
        return (await everything(TRANSPORTS["sse"], self.door(node, f"turns/{turn}"), within=within))[-1]

    async def read(
        self, node: int, turn: str, transport: str = "sse", *, book: Book | None = None, within: float = 20.0
    ) -> Reader:
        """Reads a turn at a node from its beginning to its end over one connection, and checks it."""
        reader = Reader(book or Book())
        await self.go_on(reader, node, turn, transport, within=within)
        assert reader.last is not None, reader.names
        return reader

    async def go_on(
        self, reader: Reader, node: int, turn: str, transport: str = "sse", *, pieces: int = 0, within: float = 20.0
    ) -> None:
        """Reads on from its position, to the end of the stream or for so many events."""
        taken = 0
        events = TRANSPORTS[transport](self.door(node, f"turns/{turn}"), reader.position)
        async with asyncio.timeout(within), contextlib.aclosing(events):
            async for event in events:
                reader.take(event)
                taken += 1
                if taken == pieces:
                    return


@contextlib.asynccontextmanager
async def cluster(postgres: PostgresServer, coze: str, *, nodes: int, **environment: str) -> AsyncIterator[Cluster]:
    """A cluster of so many nodes, which are killed at the end if they still run."""
    settings = SWIFT | {"COZE_API_BASE": coze, "GATEWAY_DATABASE_URL": await postgres.make()} | environment
    async with client() as session:
        found = Cluster(session, settings)
        try:
            await asyncio.gather(*(found.start() for _ in range(nodes)))
            yield found
        finally:
            await asyncio.gather(*(node.kill() for node in found.nodes))
