"""Through nginx as operators configure it: what arrives live, what arrives at all, and that nothing is lost."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest

from tests.transports.book import Book, Reader
from tests.transports.conftest import Serve, Served
from tests.transports.nginx import UPGRADES, Nginx, nginx
from tests.transports.readers import LISTENING, TRANSPORTS, Door, Event, Read, everything, longpoll, sse

Require = Callable[[str], str]
ANSWER = "/fault plain pieces:80 rate:40 -- through a proxy"
FORCED = "proxy_ignore_headers X-Accel-Buffering; proxy_buffering on; proxy_buffers 8 64k; proxy_buffer_size 64k;"
GZIP = "gzip on; gzip_min_length 0; gzip_types text/event-stream application/json;"


class Front:
    """Starts gateways behind nginx."""

    def __init__(self, served: Served, command: str, free_port: Callable[[], int]) -> None:
        self.served = served
        self.command = command
        self.free_port = free_port

    @contextlib.asynccontextmanager
    async def behind(self, location: str = "", http: str = "") -> AsyncIterator[tuple[Served, Nginx]]:
        url = self.served.url
        async with nginx(self.command, url, self.free_port(), location=location, http=http) as proxy:
            yield dataclasses.replace(self.served, url=proxy.url), proxy


@pytest.fixture
async def front(serve: Serve, require: Require, free_port: Callable[[], int]) -> Front:
    return Front(await serve(heartbeat_interval=1, retry_ms=200), require("nginx"), free_port)


async def arrivals(read: Read, door: Door, after: str | None = None) -> tuple[list[Event], list[float]]:
    """A turn's events and when each came."""
    loop = asyncio.get_running_loop()
    events, times = [], []
    async with asyncio.timeout(15), contextlib.aclosing(read(door, after)) as stream:
        async for event in stream:
            events.append(event)
            times.append(loop.time())
    return events, times


async def live_over(served: Served, *names: str) -> None:
    """Reads one turn over several transports at once; each must have it as it comes, and all the same."""
    door = await served.start(ANSWER)
    book = Book()
    for events, times in await asyncio.gather(*(arrivals(TRANSPORTS[name], door) for name in names)):
        reader = Reader(book)
        for event in events:
            reader.take(event)
        assert reader.last is not None
        assert times[-1] - times[0] > 0.7
        assert len({round(at, 2) for at in times}) > 15
    assert len(book.texts) > 20


async def test_with_the_upgrade_headers_all_transports_are_live_through_default_buffering(front: Front) -> None:
    async with front.behind(UPGRADES) as (served, _):
        await live_over(served, "sse", "sse-post", "websocket", "shared", "longpoll")


async def test_with_none_of_them_sse_and_long_poll_are_live_and_a_socket_is_refused_plainly(front: Front) -> None:
    async with front.behind() as (served, _):
        await live_over(served, "sse", "sse-post", "longpoll")
        over = await served.ask("/fault plain pieces:3 rate:0 -- x")
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await served.session.ws_connect(f"{served.url}/api/coze/turns/{over[0]['turnId']}/ws")
        assert refused.value.status == 400


async def test_http_1_0_without_keep_alive_is_exact(front: Front) -> None:
    async with front.behind("proxy_http_version 1.0; proxy_set_header Connection close;") as (served, _):
        await live_over(served, "sse", "sse-post", "longpoll")


async def test_with_gzip_for_event_streams_pieces_still_come_as_they_come(front: Front) -> None:
    async with front.behind(UPGRADES, GZIP) as (served, _):
        await live_over(served, "sse", "sse-post", "websocket", "longpoll")


async def test_where_buffering_is_forced_long_poll_is_live_and_sse_is_still_exact(front: Front) -> None:
    async with front.behind(FORCED) as (served, _):
        await live_over(served, "longpoll")
        door = await served.start(ANSWER)
        events, _ = await arrivals(sse, door)
        assert "".join(e["content"] for e in events if e["event"] == "message") == events[-1]["content"]


async def test_a_heartbeat_keeps_a_silent_stream_open_through_a_short_read_timeout(front: Front) -> None:
    async with front.behind(f"{UPGRADES} proxy_read_timeout 2s;") as (served, _):
        door = await served.start("/fault slow-head:3500 plain pieces:5 rate:0 -- silent")
        for events in await asyncio.gather(
            *(everything(read, door) for name, read in LISTENING.items() if name in ("sse", "websocket", "shared"))
        ):
            assert events[-1]["event"] == "completed"


async def test_a_reload_cuts_after_its_timeout_and_nothing_is_lost(front: Front) -> None:
    async with front.behind(UPGRADES) as (served, proxy):
        door = await served.start("/fault plain pieces:220 rate:40 -- reload")
        book = Book()

        async def persistent(read: Read) -> tuple[Reader, int]:
            reader, cuts = Reader(book), 0
            while reader.last is None:
                # A cut is a stream that ends before its turn, or an error of the connection: both are come back from.
                with contextlib.suppress(aiohttp.ClientError, ConnectionError, AssertionError):
                    async with contextlib.aclosing(read(door, reader.position)) as events:
                        async for event in events:
                            reader.take(event)
                cuts += reader.last is None
                await asyncio.sleep(0.05)  # as a client that comes back does
            return reader, cuts

        names = ("sse", "websocket", "longpoll")
        reading = [asyncio.create_task(persistent(TRANSPORTS[name])) for name in names]
        await asyncio.sleep(0.5)  # in the middle of the answer
        proxy.reload()
        found: Any = await asyncio.wait_for(asyncio.gather(*reading), 20)
        assert len({reader.text for reader, _ in found}) == 1
        assert found[0][1] >= 1
        assert found[1][1] >= 1


async def test_operators_routes_are_not_there_for_whoever_comes_through_a_proxy(front: Front) -> None:
    async with front.behind("proxy_set_header X-Forwarded-For $remote_addr;") as (served, _):
        for path in ("/metrics", "/debug/ledger"):
            assert (await served.get(path))[0] == 404
        assert (await served.get("/healthz"))[0] == 200


async def test_hand_over_between_transports_and_between_proxy_and_gateway_is_exact(front: Front) -> None:
    async with front.behind(UPGRADES) as (served, _):
        door = await served.start("/fault plain pieces:60 rate:40 -- hand over")
        direct = dataclasses.replace(door, url=front.served.url)
        reader = Reader(Book())
        turns = [(read, where) for where in (door, direct) for read in (sse, TRANSPORTS["websocket"], longpoll)] * 4
        for read, where in turns:
            async with contextlib.aclosing(read(where, reader.position)) as events:
                async for event in events:
                    reader.take(event)
                    if reader.last is not None or not len(reader.seen) % 3:
                        break
            if reader.last is not None:
                break
        if reader.last is None:
            for event in await everything(sse, door, reader.position):
                reader.take(event)
        assert reader.last is not None
