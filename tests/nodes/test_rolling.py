"""A rolling restart of all nodes behind nginx and HAProxy, as `deploy/nodes/` has them: nobody sees an error."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest

from gateway.simulator import whole_text
from tests.balancers import HAPROXY, NGINX, balancer
from tests.databases import PostgresServer
from tests.faults.coze import simulated
from tests.nodes.clients import Client
from tests.nodes.cluster import Cluster, cluster
from tests.transports.book import Book, Reader
from tests.waiting import until

pytestmark = pytest.mark.timeout(180)

TURNS, LISTENERS = 50, 4
"""Through each balancer; so many listeners a turn."""
SECONDS = 15.0
"""In which all questions are asked."""


class Crowd:
    """Questions through one balancer, one after the other, each with listeners of its own over every transport."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url
        self.name = ""
        self.clients: list[Client] = []
        self.messages: list[str] = []

    async def come(self, name: str) -> None:
        self.name = name
        async with asyncio.TaskGroup() as group:
            for number in range(TURNS):
                group.create_task(self._turn(number, group))
                await asyncio.sleep(SECONDS / TURNS)  # they come one by one, as people do

    async def _turn(self, number: int, group: asyncio.TaskGroup) -> None:
        message = f"/fault plain pieces:25 -- question {number} by {self.name}"
        self.messages.append(message)
        book = Book()
        asks, *listen = (Client(self._session, self._url, Reader(book)) for _ in range(LISTENERS))
        self.clients += asks, *listen
        body = {"userId": f"u{number}", "botId": "b", "message": message}
        asking = group.create_task(asks.ask(body, f"key-{self.name}-{number}" if number % 2 else ""))
        await until(lambda: asks.turn, within=30)
        for client, transport in zip(listen, ("websocket", "longpoll", "sse"), strict=True):
            client.turn = asks.turn
            group.create_task(client.listen(transport))
        await asking


async def _stuck(nodes: Cluster, crowd: Crowd) -> list[Any]:
    """Who has no end yet: what they were given, and how their turns stand at each node."""
    waits = [one for one in crowd.clients if one.reader.last is None]
    return [
        (one.turn, one.reader.names, one.troubles, [await nodes.state(n, one.turn) for n in range(3)]) for one in waits
    ]


async def test_a_rolling_restart_behind_nginx_and_haproxy_shows_nobody_an_error(
    postgres: PostgresServer, require: Callable[[str], str], free_port: Callable[[], int]
) -> None:
    settings = {"GATEWAY_DRAIN_PAUSE_SECONDS": "2", "GATEWAY_RETRY_MS": "300", "GATEWAY_UPSTREAM_IDLE_TIMEOUT": "30"}
    async with (
        simulated(first_ms=10, rate=5) as coze,
        cluster(postgres, coze.url, nodes=3, **settings) as nodes,
        AsyncExitStack() as stack,
    ):
        urls = [nodes.url(number) for number in range(3)]
        crowds = {}
        for program, template in (("nginx", NGINX), ("haproxy", HAPROXY)):
            front = await stack.enter_async_context(balancer(require(program), template, urls, free_port()))
            crowds[program] = Crowd(nodes.session, front.url)
        coming = [asyncio.create_task(crowd.come(name)) for name, crowd in crowds.items()]
        for number in range(3):
            assert await nodes.nodes[number].terminate() == 0
            await nodes.again(number)
        _, late = await asyncio.wait(coming, timeout=60)
        assert not late, [await _stuck(nodes, crowd) for crowd in crowds.values()]
        await asyncio.gather(*coming)
        for name, crowd in crowds.items():
            assert not [(name, trouble) for client in crowd.clients for trouble in client.troubles]
            for client in crowd.clients:
                assert client.reader.last is not None
                assert client.reader.last["event"] == "completed"
            assert sum(client.told for client in crowd.clients) > 0
            assert [coze.posts_of(message) for message in crowd.messages] == [1] * TURNS
            texts = {client.reader.text for client in crowd.clients}
            assert texts == {whole_text(message) for message in crowd.messages}
