"""Answers that nobody reads, and readers that leave: what they cost a real process in memory, while and after."""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import aiohttp
import pytest

from tests.processes import GatewayProcess
from tests.waiting import until

Start = Callable[..., Awaitable[GatewayProcess]]
MIB = 1024 * 1024
ALLOWED = 64 * MIB
BIG = "/fault plain rate:0 giant:2000000 pieces:40 -- "
LONG = "/fault plain rate:0 pieces:10000 -- "
SWIFT = {"GATEWAY_SIMULATOR_FIRST_MS": "1", "GATEWAY_TURNS_PER_MINUTE": "100000", "GATEWAY_HEARTBEAT_INTERVAL": "2"}
UPGRADE = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
UPGRADE += "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"


def resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Peak:
    """The most memory that a process has had since it was first looked at, beyond what it had then."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._base = self._most = resident(pid)

    @property
    def grown(self) -> int:
        return self._most - self._base

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        async def watch() -> None:
            while True:
                self._most = max(self._most, resident(self._pid))
                await asyncio.sleep(0.01)  # how often memory is looked at

        task = asyncio.create_task(watch())
        try:
            yield
        finally:
            self._most = max(self._most, resident(self._pid))
            task.cancel()


def opened(url: str, path: str, headers: str = "") -> socket.socket:
    """A client that asks and never reads: only its machine's small buffer accepts bytes."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    host, port = url.removeprefix("http://").split(":")
    client.connect((host, int(port)))
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode())
    client.setblocking(False)
    return client


@pytest.fixture
def clients() -> Iterator[list[socket.socket]]:
    found: list[socket.socket] = []
    yield found
    for client in found:
        client.close()


async def asked(session: aiohttp.ClientSession, gateway: GatewayProcess, message: str, **fields: str) -> dict[str, Any]:
    body = {"userId": "u", "botId": "b", "message": message, **fields}
    async with session.post(f"{gateway.url}/api/coze/chat", json=body) as answer:
        turn: dict[str, Any] = await answer.json()
        assert answer.status == 200, turn
        return turn


async def held(session: aiohttp.ClientSession, gateway: GatewayProcess, *kinds: str) -> int:
    async with session.get(f"{gateway.url}/debug/ledger") as response:
        ledger = await response.json()
    return sum(ledger.get(kind, {"open": 0})["open"] for kind in kinds)


async def until_held(session: aiohttp.ClientSession, gateway: GatewayProcess, count: int, *kinds: str) -> None:
    async def there() -> bool:
        return await held(session, gateway, *kinds) == count

    await until(there, within=20)


PATHS = {
    "poll": ("turns/{turn}/poll", ""),
    "a turn": ("turns/{turn}", ""),
    "messages": ("conversations/{conversation}/messages", ""),
    "SSE": ("conversations/{conversation}/events?after=0", ""),
    "a socket": ("conversations/{conversation}/ws?after=0", UPGRADE),
    "a reset": ("conversations/{conversation}/events?after=junk", ""),
}


@pytest.mark.parametrize("message", [BIG, LONG], ids=["one large piece", "many pieces"])
async def test_sixty_clients_that_ask_and_do_not_read_fill_no_memory(
    start_gateway: Start, clients: list[socket.socket], message: str
) -> None:
    gateway = await start_gateway(**SWIFT)
    async with aiohttp.ClientSession() as session:
        turn = await asked(session, gateway, message)
        for number in range(3):
            await asked(session, gateway, f"{message} {number}", conversationId=turn["conversationId"])
        ids = {"turn": turn["turnId"], "conversation": turn["conversationId"]}
        grown = {}
        for name, (path, headers) in PATHS.items():
            peak = Peak(gateway.pid)
            async with peak.watched():
                for _ in range(60):
                    clients.append(opened(gateway.url, "/api/coze/" + path.format(**ids), headers))
                    await asyncio.sleep(0.005)  # so that the kernel has room for all
                await asyncio.sleep(1)  # what they are sent grows until then
            grown[name] = peak.grown / MIB
            while clients:
                clients.pop().close()
            await until_held(session, gateway, 0, "connection", "websocket", "subscription")
        assert max(grown.values()) < ALLOWED / MIB, grown


async def test_two_hundred_readers_that_are_behind_and_reset_their_connection_leave_nothing(
    start_gateway: Start,
) -> None:
    gateway = await start_gateway(**SWIFT)
    async with aiohttp.ClientSession() as session:
        turn = await asked(session, gateway, BIG)
        for number in range(3):
            await asked(session, gateway, f"{BIG} {number}", conversationId=turn["conversationId"])
        conversation = turn["conversationId"]
        peak = Peak(gateway.pid)
        async with peak.watched():
            for number in range(200):
                way, headers = ("events", "") if number % 2 else ("ws", UPGRADE)
                client = opened(gateway.url, f"/api/coze/conversations/{conversation}/{way}?after=0", headers)
                await asyncio.sleep(0.02)  # as long as some of the answer takes
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
            await until_held(session, gateway, 0, "connection", "websocket", "subscription")
        assert peak.grown < ALLOWED, f"{peak.grown / MIB:.0f} MiB"
