"""SSE beyond its events: bytes, heartbeats, retry, refusals that an EventSource survives, the end."""

import asyncio
import itertools
import re
from typing import Any

from tests.transports.conftest import Serve, Served
from tests.transports.readers import first, records, sse
from tests.waiting import until


async def test_a_stream_is_made_of_ids_data_and_blank_lines_and_begins_with_a_spread_retry(served: Served) -> None:
    events = await served.ask("/fault hostile hostile-ids pieces:20 rate:0 -- bytes")
    url = f"{served.url}/api/coze/turns/{events[0]['turnId']}/events"
    delays = set()
    for _ in range(20):
        async with served.session.get(url) as response:
            raw = await response.read()
        head, _, rest = raw.partition(b"\n\n")
        delays.add(int(head.removeprefix(b"retry: ")))
        assert re.fullmatch(rb"(?:id: [A-Za-z0-9._-]{1,64}\ndata: \{[^\r\n]*\}\n\n)+", rest)
        assert len(rest.decode().splitlines()) == len(rest.split(b"\n")) - 1  # no reader cuts where it must not
    assert len(delays) > 10
    assert 1000 <= min(delays) <= max(delays) <= 3000


async def test_no_reader_is_silent_for_longer_than_the_heartbeat_interval(serve: Serve) -> None:
    """Whenever a listener came, and whatever it got last."""
    served = await serve(heartbeat_interval=0.4)
    door = await served.start("/fault first:1500 plain pieces:3 rate:10 -- wait")
    loop = asyncio.get_running_loop()

    async def listen() -> list[float]:
        times = []
        async with served.session.get(f"{served.url}/api/coze/{door.topic}/events") as response:
            async for _ in records(response.content):
                times.append(loop.time())
        return times

    listening = []
    for _ in range(8):
        listening.append(asyncio.create_task(listen()))
        await asyncio.sleep(0.11)  # so that their heartbeats are due at different times
    for times in await asyncio.gather(*listening):
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert max(gaps) < 1.2  # half a second and what a busy machine adds; without heartbeats it is 1.5
        assert max(gaps) > 0.2  # and not much more often


async def test_a_refusal_that_passes_is_a_stream_that_tells_when_to_come_back(serve: Serve) -> None:
    served = await serve(max_connections=2)
    door = await served.start("/fault plain pieces:4000 rate:50 -- busy")
    url = f"{served.url}/api/coze/{door.topic}"
    async with served.session.get(f"{url}/events"), served.session.get(f"{url}/events"):
        for _ in range(3):
            async with served.session.get(f"{url}/events") as response:
                assert response.status == 200
                assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
                body = (await response.read()).decode()
            assert re.fullmatch(r": overloaded\nretry: \d+\n\n", body)
        status, headers, problem = await served.get(f"/api/coze/{door.topic}/poll")
        assert (status, problem["code"]) == (503, "overloaded")
        assert int(headers["Retry-After"]) > 0
        asked = {"userId": "u", "botId": "b", "message": "x"}
        status, headers, problem = await served.post("/api/coze/chat/stream", asked)
        assert (status, problem["code"]) == (503, "overloaded")
    await until(lambda: not served.services.connections.open, within=5)
    assert (await first(sse, door, None))[0]["event"] == "started"


async def test_a_client_that_leaves_is_noticed_at_once(served: Served) -> None:
    door = await served.start("/fault plain pieces:4000 rate:50 -- leave")
    for _ in range(20):
        await first(sse, door, None, 2)
    await until(lambda: not served.services.ledger.count("subscription"), within=0.5)


async def test_a_foreign_method_is_refused(served: Served) -> None:
    door = await served.start("/fault plain pieces:3 rate:0 -- x")
    for method in ("POST", "PUT", "DELETE", "HEAD"):
        async with served.session.request(method, f"{served.url}/api/coze/{door.topic}/events") as response:
            assert response.status == 405
            assert "GET" in response.headers["Allow"]


async def test_a_client_of_http_1_0_gets_the_stream_unchunked(served: Served) -> None:
    door = await served.start("/fault plain pieces:10 rate:100 -- old")
    reader, writer = await asyncio.open_connection("127.0.0.1", int(served.url.rpartition(":")[2]))
    writer.write(f"GET /api/coze/{door.topic}/events HTTP/1.0\r\n\r\n".encode())
    raw = await asyncio.wait_for(reader.read(), 5)
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b"200 OK" in head
    assert b"chunked" not in head.lower()
    assert body.count(b'"event":"completed"') == 1
    writer.close()
    await writer.wait_closed()


async def test_a_drain_tells_idle_listeners_to_come_back_and_lets_running_ones_finish(serve: Serve) -> None:
    from adapters.serving import drain

    served = await serve(drain_seconds=5, retry_ms=1000)
    over = await served.ask("/fault plain pieces:3 rate:0 -- over", shopId="s")
    idle = f"{served.url}/api/coze/conversations/{over[0]['conversationId']}"
    running = await served.start("/fault plain pieces:60 rate:60 -- running")
    following = asyncio.create_task(first(sse, running, None, 10_000))
    async with (
        served.session.get(f"{idle}/events") as stream,
        served.session.get(f"{served.url}/api/coze/shops/s/events") as shop,
        served.session.ws_connect(f"{idle}/ws") as socket,
        served.session.ws_connect(f"{served.url}/api/coze/ws") as shared,
    ):
        waiting = asyncio.create_task(served.get(f"{idle.removeprefix(served.url)}/poll"))
        await until(lambda: served.services.ledger.count("subscription") >= 5)
        began = asyncio.get_running_loop().time()
        draining = asyncio.create_task(drain(served.services.settings, served.services))
        for told in (stream, shop):
            body = await asyncio.wait_for(told.read(), 1)
            assert re.fullmatch(rb"retry: \d+\n\n: draining\nretry: \d+\n\n", body)
        assert (await asyncio.wait_for(socket.receive(), 1)).data == 1012
        assert (await asyncio.wait_for(shared.receive(), 1)).data == 1012
        status, _, answer = await asyncio.wait_for(waiting, 1)
        assert (status, answer["events"], answer["ended"]) == (200, [], False)
        assert asyncio.get_running_loop().time() - began < 0.5
    status, _, problem = await served.get("/readyz")
    assert status == 503
    status, headers, problem = await served.post("/api/coze/chat", {"userId": "u", "botId": "b", "message": "too late"})
    assert (status, problem["code"]) == (503, "draining")
    assert "Retry-After" in headers
    async with served.session.get(f"{idle}/events") as response:
        assert re.fullmatch(rb": draining\nretry: \d+\n\n", await response.read())
    refused: Any = await served.session.ws_connect(f"{idle}/ws")
    assert (await refused.receive()).data == 1013
    await refused.close()
    events = await following
    assert events[-1]["event"] == "completed"
    await asyncio.wait_for(draining, 5)
