"""Crowds: clients that never read, and a thousand that all come back at once."""

import asyncio
import contextlib
import json
import os
import random
import re
import resource
import socket
import time
from collections.abc import Awaitable, Callable

import aiohttp

from tests.processes import GatewayProcess
from tests.transports.raw import never_reading, port_of
from tests.waiting import until

Start = Callable[..., Awaitable[GatewayProcess]]
SWIFT = {
    "GATEWAY_SIMULATOR_FIRST_MS": "10",
    "GATEWAY_TURNS_PER_MINUTE": "100000",
    "GATEWAY_MAX_CONNECTIONS_PER_USER": "100000",
    "GATEWAY_LOG_FORMAT": "json",
}


def resident(pid: int) -> int:
    """Bytes that a process has in memory."""
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def more_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))


async def begin(session: aiohttp.ClientSession, url: str, message: str) -> str:
    body = {"userId": "u", "botId": "b", "message": message}
    async with session.post(f"{url}/api/coze/chat", json=body, headers={"Prefer": "wait=0"}) as response:
        assert response.status == 202, await response.text()
        return str((await response.json())["turnId"])


async def delays(session: aiohttp.ClientSession, url: str, turn: str, stop: asyncio.Event) -> list[tuple[float, float]]:
    """For each piece of an answer that tells its own time: when it reached a reader, and how late it was."""
    found: list[tuple[float, float]] = []
    async with session.get(f"{url}/api/coze/turns/{turn}/events?after=0") as response:
        async for line in response.content:
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
                if event["event"] == "message" and event["content"].strip():
                    now = time.time()
                    found.append((now, now - float(event["content"].split()[-1])))
            if stop.is_set():
                break
    return found


def undisturbed(found: list[tuple[float, float]], since: float, *, part: float) -> None:
    """Whether the given part of all pieces came in time also after `since`. On a machine that is busy with other
    things pieces are late without a crowd too: then it must not be much later with one."""
    alone = sorted(delay for at, delay in found if at < since)
    crowded = sorted(delay for at, delay in found if at >= since)
    assert len(alone) > 5
    assert len(crowded) > 10
    allowed = max(0.1, 3 * alone[int(len(alone) * part)])
    late = crowded[int(len(crowded) * part)]
    assert late < allowed, f"{late * 1000:.0f} ms, {allowed * 1000:.0f} ms allowed"


async def ledger(session: aiohttp.ClientSession, url: str) -> dict[str, int]:
    async with session.get(f"{url}/debug/ledger") as response:
        return {kind: account["open"] for kind, account in (await response.json()).items()}


async def test_hundreds_that_never_read_slow_nobody_fill_no_memory_and_are_cut(start_gateway: Start) -> None:
    more_files()
    gateway = await start_gateway(**SWIFT, GATEWAY_SEND_TIMEOUT="3", GATEWAY_HEARTBEAT_INTERVAL="1")
    never: list[socket.socket] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        big = await begin(session, gateway.url, "/fault plain giant:3000000 pieces:100000 rate:100 -- big")
        clock = await begin(session, gateway.url, "/fault plain clock pieces:100000 rate:50 -- clock")
        stop = asyncio.Event()

        async def open_streams() -> int:
            held = await ledger(session, gateway.url)
            return held.get("connection", 0) + held.get("websocket", 0)

        async def only_readers() -> bool:
            return await open_streams() <= 5

        async def nobody() -> bool:
            held = await ledger(session, gateway.url)
            return not any(held[kind] for kind in ("subscription", "turn", "upstream", "connection", "websocket"))

        reading = [asyncio.create_task(delays(session, gateway.url, clock, stop)) for _ in range(5)]
        await asyncio.sleep(2)  # so that what is measured from now on is steady
        before = resident(gateway.pid)
        since = time.time()
        host = b"Host: 127.0.0.1\r\n\r\n"
        upgrade = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        upgrade += b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        try:
            for number in range(250):
                way = b"/events HTTP/1.1\r\n" if number < 200 else b"/ws HTTP/1.1\r\n" + upgrade
                never.append(never_reading(gateway.url, b"GET /api/coze/turns/" + big.encode() + way + host))
                if not number % 10:
                    await asyncio.sleep(0.01)  # so that the kernel has room for all
            await asyncio.sleep(1)  # those that do not read have stalled by then
            assert await open_streams() >= 255
            grown = resident(gateway.pid) - before
            await until(only_readers, within=15)
            grown = max(grown, resident(gateway.pid) - before)
            stop.set()
            found = [one for each in await asyncio.gather(*reading) for one in each]
        finally:
            for client in never:
                client.close()
        assert grown < 64 * 1024 * 1024, f"{grown / 1e6:.0f} MB"
        undisturbed(found, since, part=0.99)
        for turn in (big, clock):
            async with session.post(f"{gateway.url}/api/coze/turns/{turn}/cancel") as response:
                assert response.status == 202
        await until(nobody, within=5)


class Follower:
    """One of many on a running answer, with its position; reads raw bytes, so that a thousand cost little."""

    def __init__(self, url: str, turn: str) -> None:
        self.port = port_of(url)
        self.turn = turn
        self.position = ""
        self.text = ""
        self.writer: asyncio.StreamWriter | None = None
        self.task: asyncio.Task[None] | None = None
        self.caught_up: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self.wanted = -1
        self.status = b""

    async def connect(self) -> None:
        reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 22)
        head = f"GET /api/coze/turns/{self.turn}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        self.writer.write(f"{head}Last-Event-ID: {self.position}\r\n\r\n".encode())
        self.task = asyncio.create_task(self.follow(reader))

    async def follow(self, reader: asyncio.StreamReader) -> None:
        self.status = await reader.readline()
        while line := await reader.readline():
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
                assert event["event"] in ("started", "message"), event
                if event["event"] == "message":
                    self.text += event["content"]
                self.position = event["id"]
                if 0 <= self.wanted <= int(self.position.rpartition("-")[2]) and not self.caught_up.done():
                    self.caught_up.set_result(time.monotonic())

    async def reset(self) -> None:
        """Breaks the connection off as a vanished network would."""
        assert self.writer is not None
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


async def test_a_thousand_that_are_reset_and_come_back_at_once_are_all_at_the_top_within_seconds(
    start_gateway: Start,
) -> None:
    more_files()
    gateway = await start_gateway(**SWIFT)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        turn = await begin(session, gateway.url, "/fault plain clock pieces:100000 rate:5 -- storm")
        stop = asyncio.Event()
        watching = asyncio.create_task(delays(session, gateway.url, turn, stop))
        followers = [Follower(gateway.url, turn) for _ in range(1000)]
        for start in range(0, 1000, 50):
            await asyncio.gather(*(follower.connect() for follower in followers[start : start + 50]))
        await until(lambda: all(follower.text for follower in followers), within=15)
        await asyncio.sleep(2)  # so that what is measured from now on is steady
        since = time.time()
        await asyncio.gather(*(follower.reset() for follower in followers))
        await asyncio.sleep(0.3)  # pieces come that the followers miss
        async with session.get(f"{gateway.url}/api/coze/turns/{turn}") as response:
            top = int((await response.json())["position"].rpartition("-")[2])
        began = time.monotonic()

        async def come_back(follower: Follower) -> None:
            await asyncio.sleep(random.random() * 0.1)  # spread as the retry tells real clients to
            follower.wanted = top
            await follower.connect()

        await asyncio.gather(*(come_back(follower) for follower in followers))
        times = await asyncio.wait_for(asyncio.gather(*(follower.caught_up for follower in followers)), 10)
        took = max(times) - began
        await asyncio.sleep(3)  # pieces enough to tell
        stop.set()
        found = await watching
        assert all(b" 200 " in follower.status for follower in followers)
        await asyncio.gather(*(follower.reset() for follower in followers))
        texts = {follower.position: follower.text for follower in followers}
        assert all(texts[follower.position] == follower.text for follower in followers)
        longest = max(texts.values(), key=len)
        assert all(longest.startswith(text) for text in texts.values())
        assert took < 5, f"{took:.1f} s"
        undisturbed(found, since, part=0.5)
        async with session.get(f"{gateway.url}/metrics") as response:
            refused = re.findall(r'gateway_connections_closed_total\{reason="(\w+)"', await response.text())
        assert "overloaded" not in refused
        async with session.post(f"{gateway.url}/api/coze/turns/{turn}/cancel") as response:
            assert response.status == 202

        async def nobody() -> bool:
            held = await ledger(session, gateway.url)
            return not (held["subscription"] or held["connection"])

        await until(nobody, within=5)
